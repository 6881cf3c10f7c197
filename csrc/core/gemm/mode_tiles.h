// SPDX-License-Identifier: Apache-2.0
// The micro-kernels of the modes: a tile of R rows x N registers of sums. AVX-512 only.
#pragma once

#include "core/gemm/mode.h"
#include "core/gemm/mode_lanes.h"

#if defined(__AVX512F__) && defined(__GNUC__)

namespace bptt::lanes {

/// Rows of A from one on, and registers of columns from one on.
struct Operand {
  const float* values;
  Index ld;
  const ModeRows::Row* rows;
};
struct Panel {
  const float* values;
  Index steps;
  const float *correction, *scale;
};

/// The sums of a weight gradient, which are far away, are on their way while their terms are computed.
template <int R, int N>
BPTT_INLINE void prefetch_sums(const ModeSums& to) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) prefetch(to.to + r * to.row_stride + to.place[n]);
  }
}

/// Adds the product of R rows with N registers of a group of S.
template <int R, int N, int S, bool kByColumns>
BPTT_NOINLINE void winograd_tile(const ModeSums& to, const Operand& operand, const Panel& b) {
  if constexpr (kByColumns) prefetch_sums<R, N>(to);
  const float *a = operand.values, *panel = b.values;
  const ModeRows::Row* const rows = operand.rows;
  Lanes acc[R][N];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Lanes column = Lanes::load(b.correction + n * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][n] = Lanes(0.0f) - (column + Lanes(rows[r].correction));
  }
  const Index to_row = kByColumns ? 1 : operand.ld, to_k = kByColumns ? kLanes : 1;
  for (Index j = 0; j < b.steps; ++j, a += 3 * to_k, panel += 3 * S * kLanes) {
    Lanes w0[N], w1[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      w0[n] = Lanes::load(panel + n * kLanes), w1[n] = Lanes::load(panel + (S + n) * kLanes);
      hold(w0[n]), hold(w1[n]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float* value = a + r * to_row;
      Lanes a0 = broadcast(value), a1 = broadcast(value + to_k), a2 = broadcast(value + 2 * to_k);
      hold(a0), hold(a1), hold(a2);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        acc[r][n] = fma(a2, Lanes::load(panel + (2 * S + n) * kLanes), acc[r][n]);
        acc[r][n] = fma(a0 + w1[n], a1 + w0[n], acc[r][n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      float* sum = to.to + r * to.row_stride + to.place[n];
      fma(acc[r][n] * Lanes(rows[r].scale), Lanes::load(b.scale + n * kLanes), Lanes::load(sum)).store(sum);
    }
  }
}

/// The same for one row and one register where either has no scale: a chain of FMAs. to_k: from one k of A to the next.
inline void direct_row(float* to, const Operand& operand, Index to_k, const Panel& b, int S) {
  Lanes acc(0.0f);
  for (Index k = 0; k < 3 * b.steps; ++k)
    acc = fma(broadcast(operand.values + k * to_k), Lanes::load(b.values + k * S * kLanes), acc);
  fma(acc * Lanes(operand.rows->scale), Lanes::load(b.scale), Lanes::load(to)).store(to);
}

template <int R, int N, int S, bool kByColumns>
BPTT_NOINLINE void bfloat16_tile(const ModeSums& to, const Operand& operand, const Panel& b) {
  if constexpr (kByColumns) prefetch_sums<R, N>(to);
  const float *a = operand.values, *panel = b.values;
  Lanes acc[R][N];
#pragma GCC unroll 32
  for (int i = 0; i < R * N; ++i) acc[i / N][i % N] = Lanes(0.0f);
  const Index to_row = kByColumns ? 1 : operand.ld, to_k = kByColumns ? kLanes : 1;
  for (Index j = 0; j < b.steps; ++j, a += to_k, panel += S * kLanes) {
    Lanes w[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      w[n] = Lanes::load(panel + n * kLanes);
      hold(w[n]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Lanes pair = broadcast(a + r * to_row);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) add_pairs(acc[r][n], pair, w[n]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      float* sum = to.to + r * to.row_stride + to.place[n];
      (Lanes::load(sum) + acc[r][n]).store(sum);
    }
  }
}

}  // namespace bptt::lanes

#endif
