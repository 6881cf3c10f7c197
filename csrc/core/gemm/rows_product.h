// SPDX-License-Identifier: Apache-2.0
// C[rows,N] = A[rows,K] * B, where B lies as its owner holds it, row by row, and is read from far away once. For a B
// that is used once; one that is used again is faster in panels (product.h). Each sum is the same chain of FMAs, so
// that its bits are those of a product by panels.
//
// For few rows of A the sums wait in the nearest cache while a few rows of B pass. For more, some columns of B at a
// time become panels. LSTM I=300 H=256, dG Wx on Zen 3, the panels of all columns made beforehand -> this: 1 row 95 ->
// 30 us, 8 rows 150 -> 90.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/gemm/blocks.h"
#include "core/gemm/product.h"
#include "core/memory/rows.h"

namespace bptt {

constexpr Index kFewBlocks = 4;  // of rows of A, whose sums pass through the nearest cache

/// B[.,columns], its rows side by side.
template <class T>
struct WholeRows {
  const T* data;
  Index columns;
};

/// C and A of a product: their values, and the distances of their rows.
template <class T>
struct ProductRows {
  T* c;
  Index ldc;
  const T* a;
  Index lda;
  Segments k;
};

namespace detail {

/// Rows of B that pass at once, for R rows of A: a value of A for each of both, R sums and a weight have registers.
template <int R>
constexpr int kDeep = R * 8 + R < kRegisters ? 8 : 4;

/// sum[r,:] += the K values of a row of A times K rows of B, for R rows and `count` columns.
template <int R, int K, class T>
BPTT_NOINLINE void add_rows(T* sum, Index lds, const T* a, Index lda, const T* b, Index ldb, Index count) {
  constexpr int W = Vec<T>::kSize;
  Vec<T> value[R][K];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) value[r][k] = Vec<T>(a[r * lda + k]);
  }
  const auto columns = [&](Index j, const auto& load) {
    Vec<T> acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = Vec<T>::load(sum + r * lds + j);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const Vec<T> weight = load(b + k * ldb + j);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r] = fma(value[r][k], weight, acc[r]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r].store(sum + r * lds + j);
  };
  Index j = 0;
  for (; j + W <= count; j += W) columns(j, [](const T* p) { return Vec<T>::load(p); });
  if (j < count) columns(j, [n = count - j](const T* p) { return Vec<T>::load(p, n); });
}

/// The columns [first, end) of C for the rows [begin, end) of `blocks`, whose sums fit into the nearest cache.
template <class T>
void product_of_few(const ProductRows<T>& f, const WholeRows<T>& b, const RowBlocks& blocks, const Share& rows,
                    const Share& columns) {
  constexpr int W = Vec<T>::kSize;
  constexpr Index kRoom = 24 * 1024 / Index(sizeof(T));
  alignas(64) T sums[kRoom];
  const Index first = blocks.begin(rows.begin), count = blocks.begin(rows.end - 1) + blocks.size(rows.end - 1) - first;
  const Index most = kRoom / count / W * W;
  for (Index j = columns.begin; j < columns.end; j += most) {
    const Index n = std::min(most, columns.end - j), width = ceil_div(n, W) * W;
    std::fill_n(sums, count * width, T(0));
    for (int s = 0; s < f.k.count; ++s) {
      const T* const weights = b.data + s * f.k.length * b.columns + j;
      const T* const values = f.a + f.k.offset[s];
      for_block_runs<8>(0, f.k.length, [&](auto run, Index at) {
        for (Index block = rows.begin; block < rows.end; ++block) {
          const Index row = blocks.begin(block);
          dispatch<kTileRows>(blocks.size(block), [&](auto height) {
            constexpr int R = height, K = std::min<int>(run, kDeep<R>);
            for (Index i = at; i < at + run; i += K) {
              add_rows<R, K>(sums + (row - first) * width, width, values + row * f.lda + i, f.lda,
                             weights + i * b.columns, b.columns, n);
            }
          });
        }
      });
    }
    for (Index r = 0; r < count; ++r) std::copy_n(sums + r * width, n, f.c + (first + r) * f.ldc + j);
  }
}

}  // namespace detail

/// Room of a thread for some columns of B as panels: those of a tile.
template <class T>
struct ColumnRoom {
  static constexpr Index kWidth = tile_blocks(kTileRows, 1) * Vec<T>::kSize;

  /// For at most so many rows of B; no more than kFewBlocks of A need none.
  void reserve(Index depth) { panels = Panels<T>(depth, kWidth); }

  Panels<T> panels;
};

/// C[r,:] = A[r,:] * B for some of `blocks` of rows and some blocks of W columns. The k axis of A has the rows of B in
/// their order.
template <class T>
void product(const ProductRows<T>& f, const WholeRows<T>& b, const RowBlocks& blocks, const Share& rows,
             const Share& columns, ColumnRoom<T>* room) {
  constexpr int W = Vec<T>::kSize;
  constexpr Index kWidth = ColumnRoom<T>::kWidth;
  const Share own(columns.begin * W, std::min(b.columns, columns.end * W));
  if (rows.begin == rows.end) return;
  if (rows.end - rows.begin <= kFewBlocks) return detail::product_of_few(f, b, blocks, rows, own);
  Panels<T>& some = room->panels;
  assert(some.data.size() >= f.k.count * f.k.length * kWidth);
  some.depth = f.k.count * f.k.length;
  for (Index j = own.begin; j < own.end; j += kWidth) {
    some.columns = std::min(kWidth, own.end - j);
    some.pack(b.data + j, b.columns, some.all());
    product(f.c + j, f.ldc, f.a, f.lda, f.k, some, static_cast<const T*>(nullptr), blocks, rows.begin, rows.end);
  }
}

}  // namespace bptt
