// SPDX-License-Identifier: Apache-2.0
// The weight gradient: C[M,N] += P[rows,M]^T * Q[rows,N], in the order of sums that sums.h describes.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/gemm/blocks.h"
#include "core/gemm/sums.h"
#include "core/gemm/tile.h"
#include "core/memory/rows.h"
#include "core/threads/share.h"

namespace bptt {

/// to[m,n] += sum over rows of P[row,m] * Q[row,n] for m in [begin, end) and the N registers of columns with which q's
/// rows begin; of the last register `last` columns are the target's.
template <int N, class T>
void outer(const SumTarget<T>& to, Index last, const StridedRows<const T>& p, const StridedRows<const T>& q, Index rows,
           Index begin, Index end) {
  constexpr int W = Vec<T>::kSize, M = outer_rows(N);
  assert(begin <= end && 1 <= last && last <= W);
  const Index tiles = ceil_div(end - begin, M);
  for (Index tile = 0; tile < tiles; ++tile) {
    const Share share(end - begin, int(tile), int(tiles));  // of nearly equal height
    const Index m = begin + share.begin;
    dispatch<M>(int(share.end - share.begin), [&](auto height) {
      constexpr int R = height;
      Vec<T> acc[R][N];
#pragma GCC unroll 32
      for (int i = 0; i < R * N; ++i) acc[i / N][i % N] = Vec<T>(T(0));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) prefetch(to.sum + (m + r) * to.ld + n * W);
      }
      const T* value = p.data + m;
      const T* panel = q.data;
      for (Index row = 0; row < rows; ++row, value += p.ld, panel += q.ld) {
        accumulate<Identity, N, N>(acc, value, 1, panel, 0, 1);
      }
      if (to.total || last < W) {
        alignas(64) T terms[R][N][W];
        spill(acc, terms);
        to.add_tile(terms[0][0], R, N, m * to.ld, last);
        return;
      }
      const auto at = [&](int i) { return to.sum + (m + i / N) * to.ld + i % N * W; };
      if (to.fresh) {  // a branch, not a choice of values: the sums are then not read
#pragma GCC unroll 32
        for (int i = 0; i < R * N; ++i) acc[i / N][i % N].store(at(i));
        return;
      }
#pragma GCC unroll 32
      for (int i = 0; i < R * N; ++i) (Vec<T>::load(at(i)) + acc[i / N][i % N]).store(at(i));
    });
  }
}

/// The registers [block, block + N) of each row of Q[rows,columns] as a panel [rows][N][W], zero beyond the last
/// column.
template <int N, class T>
void gather(T* panel, const T* q, Index ldq, Index columns, Index rows, Index block) {
  constexpr int W = Vec<T>::kSize;
  const Index last = std::min<Index>(W, columns - (block + N - 1) * W);
  assert(last >= 1);
  for (const T* row = q + block * W; rows > 0; --rows, row += ldq) {
    for (int n = 0; n < N; ++n, panel += W) Vec<T>::load(row + n * W, n + 1 < N ? W : last).store(panel);
  }
}

}  // namespace bptt
