// SPDX-License-Identifier: Apache-2.0
// The micro-kernel: a tile of R rows x N registers of sums, broadcast values times panels of weights; the only inner
// loop of the library. Every sum is one chain of FMAs in a fixed order of k, whatever the tile, the batch or the number
// of threads: that is what makes results the same bits everywhere.
#pragma once

#include "core/gemm/format.h"
#include "core/gemm/tile_shape.h"
#include "core/memory/sizes.h"
#include "core/simd/vec.h"

namespace bptt {

/// Column n of the tile is accumulator Map(n).
struct Identity {
  static constexpr int at(int n) { return n; }
};

// Every loop over an array of accumulators is unrolled by a pragma: indexed by a variable, the array lies in memory,
// and a product of 3 x 4 registers takes twice the time.

/// acc[r][u*A + Map(n)] += sum over k of a[r*lda + k] * w[u*panel + (k*N + n)*W], k ascending, one FMA each.
template <class Map, int N, int A, class T, class Stored, int R, int UA>
BPTT_INLINE void accumulate(Vec<T> (&acc)[R][UA], const T* a, Index lda, const Stored* w, Index panel, Index K) {
  constexpr int U = UA / A, W = Vec<T>::kSize;
  // GCC may load a weight again for each row, as an operand of the FMA: 3 x 4 with AVX-512 on Zen 4 then reaches 0.80
  // of the peak, not 0.98. Where registers are too few it must (3 x 4 with AVX2: 0.99, not 0.43).
  constexpr bool kHold = R > 1 && R * UA + U * N + 1 <= kRegisters;
  for (Index k = 0; k < K; ++k) {
    Vec<T> weight[U * N];
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        weight[u * N + n] = Format<Stored>::load(w + u * panel + n * W);
        if constexpr (kHold) hold(weight[u * N + n]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> value(a[r * lda + k]);
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
          Vec<T>& sum = acc[r][u * A + Map::at(n)];
          sum = fma(value, weight[u * N + n], sum);
        }
      }
    }
    w += N * W;
  }
}

/// Stores the accumulators, which are then used register by register.
template <class T, int R, int N>
BPTT_INLINE void spill(const Vec<T> (&acc)[R][N], T (&to)[R][N][Vec<T>::kSize]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[r][n].store(to[r][n]);
  }
}

/// acc[r][u] += for each of the S segments of a's row, in order, the sum over its k of a[r*lda + offset[s] + k] *
/// w[u*panel + (s*K + k)*W]. The sums start at zero and run side by side where there are accumulators for them, else
/// one after the other: the result is the same.
template <int S, class T, class Stored, int R, int U>
BPTT_INLINE void accumulate_segments(Vec<T> (&acc)[R][U], const T* a, Index lda, const Index (&offset)[4],
                                     const Stored* w, Index panel, Index K) {
  constexpr int W = Vec<T>::kSize, kSide = R * U * S <= kAccumulators ? S : 1;
  for (int s = 0; s < S; s += kSide) {
    Vec<T> sum[R][U][kSide];
#pragma GCC unroll 16
    for (int i = 0; i < R * U * kSide; ++i) sum[i / (U * kSide)][i / kSide % U][i % kSide] = Vec<T>(T(0));
    for (Index k = 0; k < K; ++k) {
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) {
          Vec<T> weight = Format<Stored>::load(w + u * panel + ((s + i) * K + k) * W);
          if constexpr (R > 1 && R * U * kSide + 2 <= kRegisters) hold(weight);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            sum[r][u][i] = fma(Vec<T>(a[r * lda + offset[s + i] + k]), weight, sum[r][u][i]);
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) acc[r][u] = acc[r][u] + sum[r][u][i];
      }
    }
  }
}

}  // namespace bptt
