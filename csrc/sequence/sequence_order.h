// SPDX-License-Identifier: Apache-2.0
// How a user's sequences of different lengths, or read backward, become rows of BatchSizes: an order of the batch, and
// for each packed row its place outside. Copies in and out; nothing is computed here.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "sequence/batch_sizes.h"

namespace bptt::sequence {

class SequenceOrder {
 public:
  /// Padded arrays [steps,B,.]: row b has lengths[b] <= steps steps.
  static SequenceOrder padded(std::vector<Index> lengths, Index steps, bool reverse) {
    return SequenceOrder(std::move(lengths), steps, reverse, false);
  }
  /// Packed arrays [sum,.]: step t has sizes[t] rows, never more than the step before.
  static SequenceOrder packed(const std::vector<Index>& sizes, bool reverse) {
    std::vector<Index> lengths(sizes.empty() ? 0 : std::size_t(sizes[0]), 0);
    for (const Index n : sizes) {
      for (Index r = 0; r < n; ++r) ++lengths[std::size_t(r)];
    }
    return SequenceOrder(std::move(lengths), Index(sizes.size()), reverse, true);
  }

  /// Padded arrays of rows that all have all steps; takes no memory.
  static SequenceOrder equal(Index steps, Index batch, bool reverse) {
    return SequenceOrder(steps, batch, reverse, false);
  }

  BatchSizes batch_sizes() const {
    if (offset_.empty()) return {steps_, batch_};
    const bool equal = lengths_.empty() || lengths_.back() == Index(offset_.size()) - 1;
    return {Index(offset_.size()) - 1, batch_, equal ? nullptr : offset_.data()};
  }
  Index batch() const { return batch_; }
  Index outer_steps() const { return steps_; }
  bool is_packed() const { return packed_; }
  Index outer_rows() const { return packed_ ? offset_.back() : steps_ * batch(); }
  bool reverse() const { return reverse_; }
  /// [B] the batch's rows that are the packed rows; null: the same.
  const Index* order() const { return order_.empty() ? nullptr : order_.data(); }
  Index row(Index packed) const { return order_.empty() ? packed : order_[std::size_t(packed)]; }

  /// The time, outside, of a row's step.
  Index time(Index step, Index row) const { return reverse_ ? length(row) - 1 - step : step; }
  /// The row, outside, of a packed row at a step.
  Index source(Index step, Index row) const {
    const Index t = time(step, row);
    return packed_ ? offset_[std::size_t(t)] + row : t * batch_ + this->row(row);
  }

  /// Rows of `width` values from outside, `ld` apart there, packed.
  template <class T>
  void gather(T* to, const T* from, Index ld, Index width) const {
    each([&](Index step, Index row, Index n) { std::copy_n(from + source(step, row) * ld, width, to + n * width); });
  }

  /// The way back, from rows `ld_from` apart; padding becomes zero.
  template <class T>
  void scatter(T* to, Index ld, const T* from, Index ld_from, Index width) const {
    each([&](Index step, Index row, Index n) { std::copy_n(from + n * ld_from, width, to + source(step, row) * ld); });
    if (packed_) return;
    for (Index r = 0; r < batch_; ++r) {
      for (Index t = length(r); t < steps_; ++t) std::fill_n(to + (t * batch_ + row(r)) * ld, width, T(0));
    }
  }

  /// States [B,width] in the order of the packed rows, and back.
  template <class T>
  void gather_states(T* to, const T* from, Index width) const {
    for (Index r = 0; r < batch_; ++r) std::copy_n(from + row(r) * width, width, to + r * width);
  }
  template <class T>
  void scatter_states(T* to, const T* from, Index width) const {
    for (Index r = 0; r < batch_; ++r) std::copy_n(from + r * width, width, to + row(r) * width);
  }

  /// f(step, row, packed row) for all of them, in order.
  template <class F>
  void each(const F& f) const {
    const BatchSizes sizes = batch_sizes();
    for (Index t = 0; t < sizes.steps; ++t) {
      for (Index row = 0; row < sizes.rows(t); ++row) f(t, row, sizes.begin(t) + row);
    }
  }

 private:
  SequenceOrder(Index steps, Index batch, bool reverse, bool packed)
      : steps_(steps), batch_(batch), reverse_(reverse), packed_(packed) {}

  SequenceOrder(std::vector<Index> lengths, Index steps, bool reverse, bool packed)
      : SequenceOrder(steps, Index(lengths.size()), reverse, packed) {
    order_.resize(lengths.size());
    std::iota(order_.begin(), order_.end(), Index(0));
    std::stable_sort(order_.begin(), order_.end(),
                     [&](Index a, Index b) { return lengths[std::size_t(a)] > lengths[std::size_t(b)]; });
    for (const Index b : order_) lengths_.push_back(lengths[std::size_t(b)]);
    offset_.push_back(0);
    Index active = batch_;
    for (Index t = 0; t < steps; ++t) {
      while (active > 0 && lengths_[std::size_t(active - 1)] <= t) --active;
      if (active == 0) break;
      offset_.push_back(offset_.back() + active);
    }
  }

  Index length(Index row) const { return lengths_.empty() ? steps_ : lengths_[std::size_t(row)]; }

  Index steps_, batch_;
  bool reverse_, packed_;
  std::vector<Index> order_, lengths_, offset_;  // lengths in packed order; all empty: equal rows
};

}  // namespace bptt::sequence
