// SPDX-License-Identifier: Apache-2.0
// What a call of a stack will hold at its peak: a sum of sizes, nothing is measured.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "sequence/recurrence.h"
#include "stack/direction_pass.h"
#include "stack/stack.h"

namespace bptt::stack {

template <class T>
class MemoryEstimate {
 public:
  using Kernels = std::vector<std::unique_ptr<sequence::Recurrence<T>>>;

  /// `options`: one for each kernel; empty: no options.
  MemoryEstimate(const StackSizes& sizes, const Kernels& kernels, const OuterShape& outer,
                 const std::vector<const CallOptions*>& options, bool training, bool in_parallel)
      : kernels_(kernels),
        options_(options),
        D_(sizes.directions),
        L_(sizes.layers),
        input_(sizes.input),
        training_(training),
        outer_(outer),
        batch_sizes_(option(0).order ? option(0).order->batch_sizes() : sequence::BatchSizes{outer.steps, outer.batch}),
        in_parallel_(in_parallel) {
    for (std::size_t k = 0; k < kernels.size(); ++k) parts_.push_back(part(k));
  }

  /// Sums are checked, too: layers of a size that memory might have can together be beyond 64 bits.
  Index bytes() const {
    Index held = states(), together = 0, most = 0, sum = 0;
    for (const auto& each : parts_) held = checked_add(held, checked_add(each.weights, each.tape));
    for (Index k = 0; k < L_; ++k) {
      if (training_) together = checked_add(together, arrays_of_pass(k));
      const Index layer = checked_add(scratch(k), training_ ? arrays_back(k) : arrays_of_inference(k));
      most = std::max(most, layer);
      sum = checked_add(sum, layer);
    }
    Index work = in_parallel_ ? sum : most;
    if (training_ && D_ == 1 && L_ > 1) work = checked_add(work, output());  // gradients of outputs share one place
    if (!training_ && in_parallel_) work = checked_add(work, checked_mul(output(), L_ - 1));
    return checked_add(checked_add(held, together), work);
  }

 private:
  static constexpr Index kSize = sizeof(T);

  const CallOptions& option(std::size_t k) const { return options_.empty() ? no_options() : *options_[k]; }
  typename sequence::Recurrence<T>::Memory part(std::size_t k) const {
    const sequence::StateOptions<T> asked = state_options<T>(option(k), training_);
    return kernels_[k]->memory(batch_sizes_, option(k).segment,
                               option(k).needs_transition(training_, false) ? &asked : nullptr, training_,
                               in_parallel_ ? 1 : Pool::size().load());
  }

  Index rows() const { return batch_sizes_.total(); }
  /// Whether rows lie in another order than the caller's.
  bool ordered() const { return option(0).order != nullptr; }
  /// Bytes of rows `width` wide.
  static Index size(Index rows, Index width) { return checked_mul(checked_mul(rows, width), kSize); }
  Index width() const { return D_ * kernels_[0]->width(0); }
  /// What a layer hands on.
  Index output() const { return size(D_ == 1 ? rows() : outer_.rows, width()); }

  /// Initial and final, and both in the order of the rows.
  Index states() const {
    Index width = 0;
    for (int i = 0; i < kernels_[0]->states(); ++i) width += kernels_[0]->width(i);
    return size(checked_mul(Index(kernels_.size()) * 2 * (ordered() ? 2 : 1), outer_.batch), width);
  }

  Index scratch(Index layer) const {
    Index n = 0;
    for (Index d = 0; d < D_; ++d) n = checked_add(n, parts_[std::size_t(layer * D_ + d)].scratch);
    return n;
  }
  bool drops(Index layer) const { return training_ && option(std::size_t(layer * D_)).input_dropout > 0; }
  /// Whether x and dx of a direction are not in the kernels' order.
  bool turned(Index layer, Index direction) const {
    const bool inside = D_ == 1 && layer > 0;
    return !inside && (ordered() || direction > 0);
  }
  Index inputs(Index layer) const { return size(rows(), layer == 0 ? input_ : width()); }
  /// y and dy that a pass has in its own order.
  Index own_outputs(Index layer) const { return D_ > 1 || (ordered() && layer + 1 == L_) ? size(rows(), width()) : 0; }

  /// x and y that the passes of a layer copy.
  Index copies(Index layer) const {
    Index n = own_outputs(layer);
    for (Index d = 0; d < D_; ++d) n += turned(layer, d) || drops(layer) ? inputs(layer) : 0;
    return n;
  }
  /// These stay on the tape, and the layer's input where the tape reads it.
  Index arrays_of_pass(Index layer) const {
    const bool read = layer > 0 && !(D_ > 1 && (ordered() || drops(layer)));
    return copies(layer) + (read ? output() : 0);
  }
  Index arrays_back(Index layer) const {
    Index n = own_outputs(layer) + (D_ > 1 ? ends(layer) * output() : 0);
    for (Index d = 0; d < D_; ++d) n += turned(layer, d) ? inputs(layer) : 0;
    return n;
  }
  Index arrays_of_inference(Index layer) const { return copies(layer) + (in_parallel_ ? 0 : ends(layer) * output()); }
  /// Layers before and behind.
  Index ends(Index layer) const { return Index(layer > 0) + Index(layer + 1 < L_); }

  const Kernels& kernels_;
  const std::vector<const CallOptions*>& options_;
  const Index D_, L_, input_;
  const bool training_;
  const OuterShape outer_;
  const sequence::BatchSizes batch_sizes_;
  const bool in_parallel_;
  std::vector<typename sequence::Recurrence<T>::Memory> parts_;
};

}  // namespace bptt::stack
