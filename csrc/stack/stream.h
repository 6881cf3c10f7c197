// SPDX-License-Identifier: Apache-2.0
// The layers of a stack of one direction, step by step, for a fixed number of rows: without an allocation.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "stack/direction_pass.h"
#include "stack/stack.h"

namespace bptt::stack {

/// From the states of one kernel to those of the next: states [n,B,.] of n kernels.
template <class Pointer>
void next_states(Pointer* states, const Widths& width, Index batch) {
  for (int i = 0; i < count(width) && !DryRun::on(); ++i) states[i] += batch * width[std::size_t(i)];
}

template <class T>
class LayerStream final : public StackStream<T> {
 public:
  LayerStream(const std::vector<std::unique_ptr<sequence::Recurrence<T>>>& kernels,
              const std::vector<sequence::PackedWeights<T>>& weights, Index input, Index batch,
              const CallOptions& options)
      : input_(input), batch_(batch), width_(widths(*kernels[0])) {
    const sequence::StateOptions<T> asked(options.rules, false);
    for (std::size_t k = 0; k < kernels.size(); ++k) layers_.push_back(kernels[k]->stream(weights[k], batch, &asked));
  }

  void step(const T* x, T* y) override {
    for (const auto& layer : layers_) x = layer->step(x);
    std::copy_n(x, batch_ * width_[0], y);
  }

  /// Layer by layer, so that the weights of one stay in the cache.
  bool chunk(const T* x, T* y, Index steps, Poll& poll) override {
    Buffer<T> before;
    for (std::size_t k = 0; k < layers_.size(); ++k) {
      const Index I = batch_ * (k == 0 ? input_ : width_[0]), H = batch_ * width_[0];
      const bool last = k + 1 == layers_.size();
      Buffer<T> own = last ? Buffer<T>() : Buffer<T>(checked_mul(steps, H));
      T* out = last ? y : own.data();
      for (Index t = 0; t < steps; ++t) {
        std::copy_n(layers_[k]->step(x + t * I), H, out + t * H);
        if (poll()) return false;
      }
      before = std::move(own);
      x = before.data();
    }
    return true;
  }

  void get_state(T* const* states) const override {
    T* at[kMaxStates];
    std::copy_n(states, count(width_), at);
    for (const auto& layer : layers_) {
      layer->get_state(at);
      next_states(at, width_, batch_);
    }
  }
  void set_state(const T* const* states) override {
    const T* at[kMaxStates];
    std::copy_n(states, count(width_), at);
    for (const auto& layer : layers_) {
      layer->set_state(at);
      next_states(at, width_, batch_);
    }
  }

  void get_weights(Index layer, const sequence::Flat<T>& to) const override {
    layers_[std::size_t(layer)]->get_weights(to);
  }

 private:
  Index input_ = 0, batch_ = 0;
  Widths width_{};
  std::vector<std::unique_ptr<sequence::Stream<T>>> layers_;
};

}  // namespace bptt::stack
