// SPDX-License-Identifier: Apache-2.0
// A weight matrix in the order in which products read it: panels [column block][k][W], W the register width.
#pragma once

#include <algorithm>
#include <cassert>
#include <type_traits>

#include "core/gemm/format.h"
#include "core/gemm/transpose.h"
#include "core/memory/arena.h"
#include "core/simd/vec.h"
#include "core/threads/share.h"

namespace bptt {

/// Nanoseconds of one thread for a weight that is packed (0.1 to 0.2 in the caches, up to 0.4 beyond them).
constexpr double kPackNs = 0.25;

/// A matrix of T as panels of stored values: [ceil(columns/W)][depth][W], zero beyond the last column.
template <class T, class Stored = T>
struct Panels {
  static_assert(std::is_same_v<typename Format<Stored>::Value, T>, "the stored values stand for T");
  static constexpr int W = Vec<T>::kSize;
  Index depth = 0, columns = 0;
  Buffer<Stored> data;

  Panels() = default;
  Panels(Index depth, Index columns)
      : depth(depth), columns(columns), data(checked_mul(checked_mul(blocks(), W), depth)) {}
  Index blocks() const { return ceil_div(columns, W); }
  Index panel() const { return depth * W; }
  Stored* block(Index j) { return data.data() + place(j); }
  const Stored* block(Index j) const { return data.data() + place(j); }

  /// From B[depth,columns] with row stride ldb; some blocks only.
  void pack(const T* b, Index ldb, const Share& share) {
    for (Index j = share.begin; j < share.end; ++j) {
      const Index n = std::min<Index>(W, columns - j * W);
      Stored* out = block(j);
      for (Index k = 0; k < depth; ++k, out += W) Format<Stored>::store(out, Vec<T>::load(b + k * ldb + j * W, n), W);
    }
  }

  /// The same for the rows [first, end) of B in all blocks: while they are in the nearest cache, if they are few.
  void pack_rows(const T* b, Index ldb, Index first, Index end) {
    const Index full = columns / W, n = columns % W;
    for (Index j = 0; j < full; ++j) {
      const T* from = b + first * ldb + j * W;
      Stored* to = block(j) + first * W;
      for (Index k = first; k < end; ++k, from += ldb, to += W) Format<Stored>::store(to, Vec<T>::load(from), W);
    }
    for (Index k = first; n > 0 && k < end; ++k)
      Format<Stored>::store(block(full) + k * W, Vec<T>::load(b + k * ldb + full * W, n), W);
  }

  /// From the transpose of B[columns,depth] with row stride ldb; some blocks only.
  void pack_transposed(const T* b, Index ldb, const Share& share) {
    for (Index j = share.begin; j < share.end; ++j) {
      const Index n = std::min<Index>(W, columns - j * W);
      if (n < W) std::fill_n(block(j), panel(), Stored());
      transpose(block(j), W, b + j * W * ldb, ldb, n, depth);
    }
  }
  Share all() const { return Share(0, blocks()); }

  /// The inverse.
  void unpack_transposed(T* b, Index ldb) const {
    for (Index j = 0; j < columns; ++j) {
      for (Index k = 0; k < depth; ++k) b[j * ldb + k] = Format<Stored>::widen(block(j / W)[k * W + j % W]);
    }
  }

 private:
  Index place(Index j) const {
    assert(0 <= j && j < blocks());
    return j * panel();
  }
};

}  // namespace bptt
