// SPDX-License-Identifier: Apache-2.0
// Rows and columns of a product cut into blocks, and loops that hand their sizes to tiles as constants.
#pragma once

#include <algorithm>
#include <cassert>
#include <type_traits>
#include <utility>

#include "core/gemm/tile_shape.h"
#include "core/memory/sizes.h"
#include "core/simd/vec.h"

namespace bptt {

/// Rows cut into blocks of at most kTileRows (or `most`), as evenly as they go; depends on the number of rows only.
struct RowBlocks {
  Index total, first;        // rows, and where they begin
  Index count, base, extra;  // the first `extra` blocks have base + 1 rows, the others base

  explicit RowBlocks(Index rows, Index first = 0, Index most = kTileRows)
      : total(rows),
        first(first),
        count(ceil_div(rows, most)),
        base(count ? rows / count : 0),
        extra(count ? rows % count : 0) {
    assert(rows >= 0);
  }
  Index begin(Index block) const {
    assert(0 <= block && block < count);
    return first + block * base + std::min(block, extra);
  }
  int size(Index block) const {
    assert(0 <= block && block < count);
    return int(base + (block < extra));
  }
  int max_size() const { return int(base + (extra > 0)); }
};

template <int N>
using Constant = std::integral_constant<int, N>;

/// f(Constant<n>) for the run-time n in 1..Max.
template <int Max, class F>
BPTT_INLINE void dispatch(int n, F&& f) {
  assert(1 <= n && n <= Max);
  if constexpr (Max == 1)
    f(Constant<1>{});
  else if (n == Max)
    f(Constant<Max>{});
  else
    dispatch<Max - 1>(n, std::forward<F>(f));
}

/// f(Constant<blocks>, first) over [begin, end) in runs of Max blocks, then of Max/2, ..., 1.
template <int Max, class F>
BPTT_INLINE void for_block_runs(Index begin, Index end, F&& f) {
  for (; begin + Max <= end; begin += Max) f(Constant<Max>{}, begin);
  if constexpr (Max > 1) for_block_runs<Max / 2>(begin, end, std::forward<F>(f));
}

/// The same runs from the last to the first.
template <int Max, class F>
BPTT_INLINE void for_block_runs_backward(Index begin, Index end, F&& f) {
  const Index tail = begin + (end - begin) / Max * Max;
  if constexpr (Max > 1) for_block_runs_backward<Max / 2>(tail, end, std::forward<F>(f));
  for (Index i = tail - Max; i >= begin; i -= Max) f(Constant<Max>{}, i);
}

}  // namespace bptt
