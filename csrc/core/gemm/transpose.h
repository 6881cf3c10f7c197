// SPDX-License-Identifier: Apache-2.0
// The transpose of a matrix, in squares of W x W values that are turned in registers.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/gemm/format.h"
#include "core/memory/sizes.h"
#include "core/simd/vec.h"

namespace bptt {

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"   // a register type as template argument
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own avx512fintrin.h (GCC bug 105593)
#endif

namespace detail {

/// Turns a square whose rows begin at at(i): out[j] has the j-th value of each row. `n` values of each row are read.
template <class T, class At>
BPTT_INLINE void load_turned(Vec<T> (&out)[Vec<T>::kSize], Index n, const At& at) {
  constexpr int W = Vec<T>::kSize;
#if defined(__AVX2__) && !defined(__AVX512F__)
  // Halves of rows are put together as they are loaded: 16 shuffles of a square, not 24. 88 to 300 columns, in the
  // caches: 0.16 -> 0.12 ns a value on Zen 3, where memcpy takes 0.11.
  if constexpr (sizeof(T) == 4) {
    if (n == W) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        __m256 row[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(at(i) + 4 * half));
          row[i] = _mm256_insertf128_ps(low, _mm_loadu_ps(at(i + 4) + 4 * half), 1);
        }
        const __m256 a = _mm256_unpacklo_ps(row[0], row[1]), b = _mm256_unpackhi_ps(row[0], row[1]);
        const __m256 c = _mm256_unpacklo_ps(row[2], row[3]), d = _mm256_unpackhi_ps(row[2], row[3]);
        out[4 * half] = Vec<T>(_mm256_shuffle_ps(a, c, 0x44));
        out[4 * half + 1] = Vec<T>(_mm256_shuffle_ps(a, c, 0xee));
        out[4 * half + 2] = Vec<T>(_mm256_shuffle_ps(b, d, 0x44));
        out[4 * half + 3] = Vec<T>(_mm256_shuffle_ps(b, d, 0xee));
      }
      return;
    }
  }
#endif
  Eigen::internal::PacketBlock<typename Vec<T>::Packet, W> square;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) square.packet[i] = Vec<T>::load(at(i), n).v;
  Eigen::internal::ptranspose(square);
#pragma GCC unroll 16
  for (int j = 0; j < W; ++j) out[j] = Vec<T>(square.packet[j]);
}

/// B[j*ldb + i] = the j-th of `columns` values from at(i, 0), i < W; the first m of each W are stored. The last square
/// of a matrix that is wide enough overlaps the one before it, since full registers take half the time of parts.
template <class T, class Stored, class At>
BPTT_INLINE void transpose_rows(Stored* b, Index ldb, Index columns, Index m, const At& at) {
  constexpr Index W = Vec<T>::kSize;
  Vec<T> out[W];
  for (Index j = 0; j < columns; j += W) {
    const Index n = std::min(W, columns), first = std::min(j, columns - n);
    load_turned<T>(out, n, [&](int i) { return at(i, first); });
    Stored* to = b + first * ldb;
    if (m == W && n == W) {
#pragma GCC unroll 16
      for (int k = 0; k < W; ++k) Format<Stored>::store(to + k * ldb, out[k], W);
    } else {
      for (Index k = 0; k < n; ++k) Format<Stored>::store(to + k * ldb, out[k], m);
    }
  }
}

}  // namespace detail

/// B[j*ldb + i] = A[i*lda + j], i < rows, j < columns.
template <class T, class Stored>
BPTT_NOINLINE void transpose(Stored* b, Index ldb, const T* a, Index lda, Index rows, Index columns) {
  constexpr Index W = Vec<T>::kSize;
  assert((rows <= ldb || columns <= 1) && (columns <= lda || rows <= 1));
  Index i = 0;
  for (; i + W <= rows; i += W) {
    const T* from = a + i * lda;
    detail::transpose_rows<T>(b + i, ldb, columns, W, [=](int r, Index j) { return from + r * lda + j; });
  }
  if (i == rows) return;
  // Rows beyond the last one repeat it; their lanes are not stored.
  const T* from = a + i * lda;
  const Index last = rows - i - 1;
  detail::transpose_rows<T>(b + i, ldb, columns, last + 1,
                            [=](int r, Index j) { return from + std::min<Index>(r, last) * lda + j; });
}

/// B[j*ldb + i] = rows[i][j] for W rows wherever they are, j < columns; zero where a row is null.
template <class T, class Stored>
BPTT_NOINLINE void transpose(Stored* b, Index ldb, const T* const (&rows)[Vec<T>::kSize], Index columns) {
  constexpr int W = Vec<T>::kSize;
  static constexpr T kZeros[W] = {};
  const T* from[W];
  Index step[W];  // all bits, or none
  for (int i = 0; i < W; ++i) {
    from[i] = rows[i] ? rows[i] : kZeros;
    step[i] = rows[i] ? -1 : 0;
  }
  detail::transpose_rows<T>(b, ldb, columns, W, [&](int i, Index j) { return from[i] + (j & step[i]); });
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

}  // namespace bptt
