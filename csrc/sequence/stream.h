// SPDX-License-Identifier: Apache-2.0
// One time step per call, for inference in real time: all memory is there before the first step, and a step is that of
// forward.h on the calling thread. The weights are those of the moment the stream was made.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "sequence/forward.h"
#include "sequence/recurrence.h"

namespace bptt::sequence {

template <class Cell, class T>
class CellStream final : public Stream<T> {
 public:
  CellStream(std::shared_ptr<const Weights<Cell, T>> weights, Index batch)
      : weights_(std::move(weights)),
        rows_(batch),
        part_(Plan{}, rows_.count, weights_->blocks, 0, 1),
        batch_(batch),
        h_{Buffer<T>(checked_mul(batch, weights_->H)), Buffer<T>(checked_mul(batch, weights_->H))},
        c_(Cell::S > 1 ? checked_mul(batch, weights_->Hp) : 0) {
    for (auto& h : h_) h.clear();
    c_.clear();
  }

  void step(const T* x, T* y) override {
    FlushDenormals flush;
    const Buffer<T>& h0 = h_[now_];
    now_ ^= 1;
    const ForwardStep<Cell, T> step{*weights_, rows_,     x,       h0.data(), h_[now_].data(),
                                    c_.data(), c_.data(), nullptr, false};
    run_step<Cell::A>(step, part_, now_);
    std::copy_n(h_[now_].data(), batch_ * weights_->H, y);
  }

  void get_state(T* const* states) const override {
    const Weights<Cell, T>& w = *weights_;
    std::copy_n(h_[now_].data(), batch_ * w.H, states[0]);
    if (Cell::S > 1) copy_rows(states[1], w.H, c_.data(), w.Hp, batch_, w.H);
  }

  void set_state(const T* const* states) override {
    const Weights<Cell, T>& w = *weights_;
    std::copy_n(states[0], batch_ * w.H, h_[now_].data());
    if (Cell::S > 1) copy_rows(c_.data(), w.Hp, states[1], w.H, batch_, w.H);
  }

 private:
  std::shared_ptr<const Weights<Cell, T>> weights_;
  RowBlocks rows_;
  Part part_;
  Index batch_;
  Buffer<T> h_[2];  // [B,H] each; the state is in h_[now_]
  Buffer<T> c_;     // [B,Hp]
  int now_ = 0;
};

}  // namespace bptt::sequence
