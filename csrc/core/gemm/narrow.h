// SPDX-License-Identifier: Apache-2.0
// Products of float32 rows with weights that are stored in fewer bits, at every level, for inference:
//
//   kBfloat16Weights  weights rounded to bfloat16 and widened by a shift; the products are the chains of FMAs of
//                     float32, so that results have the bits of float32 with such weights.
//   kInt8             weights and rows as integers of 8 bits times a scale: one for each column (the weights of one
//                     output), one for each row. Sums are of 32 bits and exact, and so the same for every level, order
//                     and kernel. One FMA then adds sum * row's scale * column's scale.
//   kInt8Vnni         the same numbers by VPDPBUSD, where the processor has it (AVX512_VNNI).
//
// A row's scale is its largest magnitude / 127. A row that has a value which is not finite has the scale NaN.
#pragma once

#include <cstdint>

#include "core/gemm/mode.h"
#include "core/gemm/narrow_values.h"
#include "core/memory/arena.h"
#include "core/memory/sizes.h"

namespace bptt {

namespace narrow {
struct ByteRows;
}

/// Rows of A, [rows,K], as narrow weights take them.
class NarrowRows {
 public:
  NarrowRows() = default;
  NarrowRows(ProductMode mode, Index rows, Index K);
  /// The rows [first, first + n) from a [n,K], which must stay as it is while they are in use.
  void set(Index first, Index n, const float* a);

  /// kBfloat16Weights: a row as it was given, and the next one K places on.
  const float* floats(Index row) const { return floats_ + (row - first_) * K_; }
  Index K() const { return K_; }
  /// Else: rows from this one on.
  narrow::ByteRows bytes(Index row) const;

 private:
  ProductMode mode_ = ProductMode::kFma;
  Index K_ = 0, Kp_ = 0, ld_ = 0, first_ = 0;
  const float* floats_ = nullptr;
  // Of each row, kInt8: magnitudes [Kp] and signs [Kp], 0 or -1; kInt8Vnni: integers + 128 [Kp]. Kp: K rounded up to a
  // multiple of 4.
  Buffer<std::int8_t> bytes_;
  Buffer<float> scale_;
  Buffer<std::int32_t> start_;  // kInt8: the sum of the magnitudes of negative values
};

/// Columns of B as registers, `group` of them side by side, 6 or 8: [groups][steps][group][W] words of 32 bits, each of
/// which holds the weights of 4 k (int8) or 2 (bfloat16, the first one below). One row takes a whole group at once, so
/// that its sums do not wait for each other (LSTM H=128: bfloat16 3.1 -> 2.3 us); several take half of one.
class NarrowPanels {
 public:
  NarrowPanels() = default;
  NarrowPanels(ProductMode mode, Index K, Index registers, int group);
  /// Register c: lane l is the row from[l*K] of K weights, zero from lane n on.
  void pack(Index c, const float* from, Index n);
  /// The first n lanes of register c as floats.
  void unpack(Index c, float* to, Index n) const;

  /// Adds A[row + r,:] * register first + i to the sums of row r and register i, for `rows` rows and `count` registers.
  void multiply(const ModeSums& to, const NarrowRows& a, Index row, Index rows, Index first, int count) const;

 private:
  void tile(const ModeSums& to, const NarrowRows& a, Index row, int R, Index c, int n) const;
  Index word(Index c, Index step, Index lane) const {
    return ((c / group_ * steps_ + step) * group_ + c % group_) * kLanes + lane;
  }

  static constexpr Index kLanes = Vec<float>::kSize;
  ProductMode mode_ = ProductMode::kFma;
  Index K_ = 0, steps_ = 0, registers_ = 0;
  int group_ = 1;
  Buffer<std::uint32_t> words_;
  Buffer<float> scale_;         // int8: of columns, [registers][W]
  Buffer<std::int32_t> start_;  // kInt8Vnni: where sums begin, -128 * the sum of a column
};

}  // namespace bptt
