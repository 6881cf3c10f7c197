// SPDX-License-Identifier: Apache-2.0
// One time step per call, for inference in real time. Most cells take it with the step of forward_step.h on the calling
// thread, in memory allocated before the first step; one of several stages, or with zoneout or clipping, as a call
// of one step, whose buffers come from the arena and go back: nothing is allocated either, but streams share its lock.
// A stream is a snapshot of the weights. It writes nothing where x may be: the caller copies h.
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
        direct_(!weights_->cell.multi_stage && !options.rules.mixes()),
        rows_(batch),
        units_(weights_->blocks, 0, 1),
        batch_(batch),
        h_{Buffer<T>(checked_mul(batch, weights_->R)), Buffer<T>(checked_mul(batch, weights_->R))},
        others_(checked_mul(weights_->cell.states - 1, checked_mul(batch, weights_->Hp))) {
    for (auto& h : h_) h.clear();
    others_.clear();
    if (weights_->mode == ProductMode::kFma) return;
    mode_rows_ = {weights_->mode, batch, weights_->I, batch, weights_->H};
  }

  const T* step(const T* x) override {
    FlushDenormals flush;
    T* h0 = h_[now_].data();
    const int then = now_ ^ 1;
    T* h1 = h_[then].data();
    if (direct_) {
      const Index next = batch_ * weights_->Hp;
      ForwardStep<T> step{*weights_, x, h0, h1, {others_.data(), next}, {others_.data(), next}};
      if (weights_->mode != ProductMode::kFma) step.mode_rows = &mode_rows_;
      kernels_.forward(step, rows_, units_, then);
      now_ = then;
      return h1;
    }
    // Without padding, in the memory of padded ones. y and the final h are the same values, written to one place.
    ForwardCall<T> call{{1, batch_}, x, {h0}, h1, {h1}, &options_};
    for (int i = 1; i < weights_->cell.states; ++i) call.initial[i] = call.final[i] = other(i);
    Plan plan;
    Forward<T>(kernels_, weights_, call, nullptr, plan, [] { return false; }).run();
    now_ = then;  // last: where there is no memory, the state stays as it was
    return h1;
  }

  void get_weights(const Flat<T>& to) const override { weights_->unpack(to); }

  void get_state(T* const* states) const override {
    const Weights<T>& w = *weights_;
    std::copy_n(h_[now_].data(), batch_ * w.R, states[0]);
    for (int i = 1; i < w.cell.states; ++i) copy_rows(states[i], w.H, other(i), width(), batch_, w.H);
  }

  void set_state(const T* const* states) override {
    const Weights<T>& w = *weights_;
    std::copy_n(states[0], batch_ * w.R, h_[now_].data());
    for (int i = 1; i < w.cell.states; ++i) copy_rows(other(i), width(), states[i], w.H, batch_, w.H);
  }

 private:
  /// Of a row of the states but h.
  Index width() const { return direct_ ? weights_->Hp : weights_->H; }
  /// State i, i > 0.
  T* other(int i) { return others_.data() + (i - 1) * batch_ * width(); }
  const T* other(int i) const { return others_.data() + (i - 1) * batch_ * width(); }

  const CellKernels<T>& kernels_;
  std::shared_ptr<const Weights<T>> weights_;
  StateOptions<T> options_;
  bool direct_;
  RowBlocks rows_;
  Share units_;
  Index batch_;
  Buffer<T> h_[2];      // [B,R] each; the state is in h_[now_]
  Buffer<T> others_;    // [S-1,B,Hp], or [S-1,B,H] where steps are calls
  StepRows mode_rows_;  // of another mode than kFma
  int now_ = 0;
};

}  // namespace bptt::sequence
