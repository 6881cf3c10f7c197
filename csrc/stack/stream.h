// SPDX-License-Identifier: Apache-2.0
// The layers of a stack of one direction, step by step, for a fixed number of rows: without an allocation.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "stack/direction_pass.h"

namespace bptt::stack {

/// From the states of one kernel to those of the next: states [n,B,.] of n kernels.
template <class Pointer>
void next_states(Pointer* states, const Widths& width, Index batch) {
  for (int i = 0; i < count(width); ++i) states[i] += batch * width[std::size_t(i)];
}

template <class T>
class StackStream {
 public:
  StackStream() = default;
  /// Of `options`, zoneout and clipping; with the weights packed last.
  StackStream(const std::vector<const sequence::Recurrence<T>*>& kernels, Index input, Index batch,
              const CallOptions& options)
      : input_(input), batch_(batch), width_(widths(*kernels[0])) {
    const sequence::StateOptions<T> state_options = options.state_options<T>(false);
    for (const auto* kernel : kernels) layers_.push_back(kernel->stream(batch, &state_options));
  }

  Index layers() const { return Index(layers_.size()); }
  const sequence::Stream<T>& layer(Index k) const { return *layers_[std::size_t(k)]; }

  /// x [B,I] -> y [B,R], which x may be.
  void step(const T* x, T* y) {
    for (const auto& layer : layers_) x = layer->step(x);
    std::copy_n(x, batch_ * width_[0], y);
  }

  /// x [steps,B,I] -> y [steps,B,R], layer by layer, so that the weights of one stay in the cache. False when called
  /// off, between two steps of a layer: the layers are then at different steps.
  bool chunk(const T* x, T* y, Index steps, Poll& poll) {
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

  /// States [L,B,.], h first.
  void get_state(T* const* states) const {
    T* at[kMaxStates];
    std::copy_n(states, count(width_), at);
    for (const auto& layer : layers_) {
      layer->get_state(at);
      next_states(at, width_, batch_);
    }
  }
  void set_state(const T* const* states) {
    const T* at[kMaxStates];
    std::copy_n(states, count(width_), at);
    for (const auto& layer : layers_) {
      layer->set_state(at);
      next_states(at, width_, batch_);
    }
  }

 private:
  Index input_ = 0, batch_ = 0;
  Widths width_{};
  std::vector<std::unique_ptr<sequence::Stream<T>>> layers_;
};

}  // namespace bptt::stack
