// SPDX-License-Identifier: Apache-2.0
// C[rows,N] = bias + A[rows,K] * B, where B is packed in panels, or has so few columns that registers go along k.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/gemm/blocks.h"
#include "core/gemm/format.h"
#include "core/gemm/panels.h"
#include "core/gemm/tile.h"

namespace bptt {

/// The k axis of A as `count` runs of `length` values, the s-th at offset[s]: gradients of gates lie so in a tape row.
struct Segments {
  Index length;
  int count = 1;
  Index offset[4] = {};
};

/// Estimated nanoseconds of one thread for products of T.
template <class T>
double product_ns(double flops) {
  return flops / (1e-9 * kFlopsPerLane * Vec<T>::kSize);
}

/// C[r,:] = bias + A[r,:] * panels for the rows [begin, end) of `blocks` and some column blocks. A: lda, C: ldc row
/// strides.
template <class T, class Stored>
void product(T* c, Index ldc, const T* a, Index lda, const Segments& k, const Panels<T, Stored>& b, const T* bias,
             const RowBlocks& blocks, Index begin, Index end, const Share& columns) {
  constexpr int W = Vec<T>::kSize;
  assert(k.count * k.length <= b.depth && 0 <= begin && end <= blocks.count);
  assert(0 <= columns.begin && columns.end <= b.blocks());
  for_block_runs<tile_blocks(kTileRows, 1)>(columns.begin, columns.end, [&](auto u_blocks, Index j) {
    constexpr int U = u_blocks;
    const auto tile = [&](auto rows, Index row) {
      constexpr int R = rows;
      Vec<T> acc[R][U];
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
        const Index column = (j + u) * W;
        const Vec<T> first = bias ? Vec<T>::load(bias + column, std::min<Index>(W, b.columns - column)) : Vec<T>(T(0));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r][u] = first;
      }
      for (int s = 0; s < k.count; ++s) {
        accumulate<Identity, 1, 1>(acc, a + row * lda + k.offset[s], lda, b.block(j) + s * k.length * W, b.panel(),
                                   k.length);
      }
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
        const Index column = (j + u) * W, n = std::min<Index>(W, b.columns - column);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r][u].store(c + (row + r) * ldc + column, n);
      }
    };
    Index block = begin;
    if constexpr (U == 1) {  // a few sums wait for each of their additions: blocks of kTileRows rows together
      constexpr int kTogether = kAccumulators / kTileRows / 2;
      const auto full = [&](Index i) { return blocks.size(i) == kTileRows; };
      for (; block + kTogether <= end && full(block) && full(block + kTogether - 1); block += kTogether)
        tile(Constant<kTogether * kTileRows>{}, blocks.begin(block));
    }
    for (; block < end; ++block) {
      dispatch<kTileRows>(blocks.size(block), [&](auto rows) { tile(rows, blocks.begin(block)); });
    }
  });
}

/// The same for all columns.
template <class T, class Stored>
void product(T* c, Index ldc, const T* a, Index lda, const Segments& k, const Panels<T, Stored>& b, const T* bias,
             const RowBlocks& blocks, Index begin, Index end) {
  product(c, ldc, a, lda, k, b, bias, blocks, begin, end, b.all());
}

/// Up to so many columns a product's registers go along k instead.
constexpr int kNarrow = 4;

/// C[r,i] = A[r,:] * B[i,:] for the rows [begin, end) of `blocks` and the `columns` <= kNarrow rows of B
/// [columns,count, length]. The segments have whole registers. Each lane sums its own k; the lanes are added at the
/// end.
template <class T, class Stored>
void narrow_product(T* c, Index columns, const T* a, Index lda, const Segments& k, const Stored* b,
                    const RowBlocks& blocks, Index begin, Index end) {
  constexpr int W = Vec<T>::kSize;
  assert(k.length % W == 0 && 0 <= begin && end <= blocks.count);
  dispatch<kNarrow>(int(columns), [&](auto width) {
    constexpr int C = width;
    for (Index i = begin; i < end; ++i) {
      const Index row = blocks.begin(i);
      dispatch<kTileRows>(blocks.size(i), [&](auto height) {
        constexpr int R = height;
        Vec<T> acc[R][C];
#pragma GCC unroll 24
        for (int n = 0; n < R * C; ++n) acc[n / C][n % C] = Vec<T>(T(0));
        const Stored* weight = b;
        for (int s = 0; s < k.count; ++s) {
          const T* value = a + row * lda + k.offset[s];
          for (Index j = 0; j < k.length; j += W, weight += W) {
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              const Vec<T> v = Vec<T>::load(value + r * lda + j);
#pragma GCC unroll 4
              for (int n = 0; n < C; ++n) {
                acc[r][n] = fma(v, Format<Stored>::load(weight + n * k.count * k.length), acc[r][n]);
              }
            }
          }
        }
#pragma GCC unroll 24
        for (int n = 0; n < R * C; ++n) c[(row + n / C) * C + n % C] = acc[n / C][n % C].sum();
      });
    }
  });
}

}  // namespace bptt
