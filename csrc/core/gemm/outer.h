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

constexpr Index kFewRows = 8;  // whose values of P have registers

/// The same for R rows, all that there are, and all columns: to[m,:] = sum over rows of P[row,m] * Q[row,:], each row
/// of the target from its begin to its end. With so few rows the time is that of its stores: tiles that jump from row
/// to row take 2 to 3 times as long (1024 x 300, 1 row, Zen 3: 112 -> 35 us, 8 rows 196 -> 138).
template <int R, class T>
BPTT_NOINLINE void outer_of_few(const StridedRows<T>& to, const StridedRows<const T>& p, const StridedRows<const T>& q,
                                Index columns, const Share& share) {
  constexpr int W = Vec<T>::kSize, kHigh = R <= 4 ? 2 : 1;
  for_block_runs<kHigh>(share.begin, share.end, [&](auto height, Index m) {
    constexpr int M = height;
    Vec<T> value[M][R];
#pragma GCC unroll 8
    for (int i = 0; i < M * R; ++i) value[i / R][i % R] = Vec<T>(p.data[i % R * p.ld + m + i / R]);
    const auto lanes = [&](Index j, auto... n) {  // all, or the first n
      Vec<T> acc[M];
      for (int i = 0; i < M; ++i) acc[i] = Vec<T>(T(0));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec<T> column = Vec<T>::load(q.data + r * q.ld + j, n...);
#pragma GCC unroll 2
        for (int i = 0; i < M; ++i) acc[i] = fma(value[i][r], column, acc[i]);
      }
      for (int i = 0; i < M; ++i) acc[i].store(to.data + (m + i) * to.ld + j, n...);
    };
    Index j = 0;
    for (; j + W <= columns; j += W) lanes(j);
    if (j == columns) return;
    if (columns < W) return lanes(j, columns);
    lanes(columns - W);  // some once more: the same values
  });
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
