// SPDX-License-Identifier: Apache-2.0
// One time step per call, for inference in real time. Most cells take it with the step of forward_step.h on the calling
// thread, in memory that is there before the first step; one of several stages, or with zoneout or clipping, as a call
// of one step, whose buffers come from the arena and go back: nothing is allocated either, but streams share its lock.
// A stream keeps the weights of the moment it was made. Nothing is written where x may lie: the caller copies h.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "core/memory/rows.h"
#include "sequence/forward.h"
#include "sequence/recurrence.h"

namespace bptt::sequence {

template <class T>
class CellStream final : public Stream<T> {
 public:
  CellStream(const CellKernels<T>& kernels, std::shared_ptr<const Weights<T>> weights, Index batch,
             const StateOptions<T>& options)
      : kernels_(kernels),
        weights_(std::move(weights)),
        options_(options),
        direct_(!weights_->cell.multi_stage && !options.mixes()),
        rows_(batch),
        units_(weights_->blocks, 0, 1),
        batch_(batch),
        h_{Buffer<T>(checked_mul(batch, weights_->R)), Buffer<T>(checked_mul(batch, weights_->R))},
        c_(weights_->cell.states > 1 ? checked_mul(batch, weights_->Hp) : 0) {
    for (auto& h : h_) h.clear();
    c_.clear();
  }

  const T* step(const T* x) override {
    FlushDenormals flush;
    T* h0 = h_[now_].data();
    now_ ^= 1;
    T* h1 = h_[now_].data();
    if (direct_) {
      kernels_.forward({*weights_, x, h0, h1, c_.data(), c_.data()}, rows_, units_, now_);
      return h1;
    }
    // c without padding, in the memory of the padded one. y and the final h are the same values, written to one place.
    ForwardCall<T> call{{1, batch_}, x, {h0, c_.data()}, h1, {h1, c_.data()}, &options_};
    Plan plan;
    Forward<T>(kernels_, weights_, call, nullptr, plan, [] { return false; }).run();
    return h1;
  }

  void get_weights(const Flat<T>& to) const override { weights_->unpack(to); }

  void get_state(T* const* states) const override {
    const Weights<T>& w = *weights_;
    std::copy_n(h_[now_].data(), batch_ * w.R, states[0]);
    if (weights_->cell.states > 1) copy_rows(states[1], w.H, c_.data(), c_width(), batch_, w.H);
  }

  void set_state(const T* const* states) override {
    const Weights<T>& w = *weights_;
    std::copy_n(states[0], batch_ * w.R, h_[now_].data());
    if (weights_->cell.states > 1) copy_rows(c_.data(), c_width(), states[1], w.H, batch_, w.H);
  }

 private:
  Index c_width() const { return direct_ ? weights_->Hp : weights_->H; }

  const CellKernels<T>& kernels_;
  std::shared_ptr<const Weights<T>> weights_;
  StateOptions<T> options_;
  bool direct_;
  RowBlocks rows_;
  Share units_;
  Index batch_;
  Buffer<T> h_[2];  // [B,R] each; the state is in h_[now_]
  Buffer<T> c_;     // [B,Hp], or [B,H] where steps are calls
  int now_ = 0;
};

}  // namespace bptt::sequence
