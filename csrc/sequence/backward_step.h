// SPDX-License-Identifier: Apache-2.0
// One time step backward. It needs, for rows b and hidden units k,
//   dh_t = dy_t + (the cell's direct share) + dG_{t+1} Wh,   dG_t = the cell's backward at dh_t
// with the product in registers until the cell has it.
#pragma once

#include "core/math.h"
#include "sequence/between.h"
#include "sequence/weights.h"

namespace bptt::sequence {

/// A gate's gradient as a run of the k axis of dG: gate g lies at accumulator Map(g) of the row.
template <class Map, class Cell, class T>
Segments gate_segments(const Weights<Cell, T>& w, int gates = Cell::G) {
  Segments s{w.H, gates, {}};
  for (int g = 0; g < gates; ++g) s.offset[g] = Map::at(g) * w.Hp;
  return s;
}

/// Up to this H the product of a step sums each gate by itself: with few rows and few units a single chain of G H FMAs
/// is what a step waits for (LSTM B=1 H=32: 128 of 4 cycles each, where 256 cycles of work are to be done). It depends
/// on H alone, since the order of a sum must not depend on the batch.
constexpr Index kShort = 64;

template <class Cell, class T>
struct BackwardStep {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr int kTailWidth = 0;  // no packed last block

  const Weights<Cell, T>& w;
  const RowBlocks& rows;
  const T* dy;   // [B,H]
  const T* dg1;  // gradients of the next step's pre-activations [B,kRowValues,Hp]; null at the last step
  T* gates;      // kept values in, gradients of the pre-activations out [B,kRowValues,Hp]
  const T* h0;   // [B,h0_width], H or Hp
  const T* h1;   // [B,h1_width]
  Index h0_width, h1_width;
  const T* c0;  // [B,Hp]
  const T* c1;
  T* dstates;   // gradients of the states without the share through Wh, in and out [S,B,Hp]
  T* dvectors;  // sums by row [B,P,Hp]
  Index batch;
  const CrossingBack<T>* crossing;  // null: the states that leave are those that enter

  template <int R, int U>
  BPTT_NOINLINE void tile(Index row_block, Index block) const {
    const Index row = rows.begin(row_block);
    const bool apart = crossing && crossing->dropout;  // the product's share needs its own factor
    Vec<T> acc[R][U];
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
      const Index unit = (block + u) * W;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][u] = apart ? Vec<T>(T(0)) : Vec<T>::load(dstates + (row + r) * w.Hp + unit);
      }
    }
    if (dg1) {
      const Segments gates = gate_segments<HiddenMap<Cell>>(w);
      const T* panel = w.h_back.block(block);
      const T* dg = dg1 + row * kRowValues<Cell> * w.Hp;
      if (G > 1 && w.H <= kShort) {
        accumulate_segments<G>(acc, dg, kRowValues<Cell> * w.Hp, gates.offset, panel, w.h_back.panel(), w.H);
      } else {
        for (int g = 0; g < G; ++g) {
          accumulate<Identity, 1, 1>(acc, dg + gates.offset[g], kRowValues<Cell> * w.Hp, panel + g * w.H * W,
                                     w.h_back.panel(), w.H);
        }
      }
    }
    alignas(64) T dh[R][U][W];
    spill(acc, dh);
    if (crossing)
      cells<true>(dh[0][0], row, R, block, U);
    else
      cells<false>(dh[0][0], row, R, block, U);
  }

 private:
  /// The cells of a tile: one text for tiles of all sizes.
  template <bool Crosses>
  BPTT_NOINLINE void cells(const T* dh, Index row, int rows, Index block, int blocks) const {
    for (int r = 0; r < rows; ++r) {
      for (int u = 0; u < blocks; ++u, dh += W) cell<Crosses>(dh, row + r, block + u);
    }
  }

  template <bool Crosses>
  BPTT_INLINE void cell(const T* dh, Index row, Index block) const {
    const Index unit = block * W, n = std::min<Index>(W, w.H - unit), at = row * w.Hp + unit;
    T* gate = gates + row * kRowValues<Cell> * w.Hp + unit;
    Vec<T> k[K + 1], p[P + 1], s0[S], s1[S], ds1[S], da[A], dp[P + 1], ds0[S], around[S];
    for (int i = 0; i < K; ++i) k[i] = Vec<T>::load(gate + i * w.Hp);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    s0[0] = Vec<T>::load(h0 + row * h0_width + unit, h0_width == w.Hp ? W : n);
    s1[0] = Vec<T>::load(h1 + row * h1_width + unit, h1_width == w.Hp ? W : n);
    ds1[0] = Vec<T>::load(dh);
    if constexpr (S > 1) {
      s0[1] = Vec<T>::load(c0 + at);
      s1[1] = Vec<T>::load(c1 + at);
      ds1[1] = Vec<T>::load(dstates + batch * w.Hp + at);
    }
    if constexpr (Crosses) {
      const Vec<T> product = ds1[0];
      if (crossing->dropout) ds1[0] = Vec<T>::load(dstates + at);
      ds1[0] = crossing->template enter_state<0>(row, unit, product, ds1[0]);
      if constexpr (S > 1) ds1[1] = crossing->template enter_state<1>(row, unit, product, ds1[1]);
    }
    ds1[0] = ds1[0] + Vec<T>::load(dy + row * w.H + unit, n);
    if constexpr (Crosses) {
      Vec<T> m[kMaxStates];
      crossing->masks(row, unit, m);
      around[0] = crossing->template leave_state<0>(row, unit, m[0], ds1[0]);
      if constexpr (S > 1) around[1] = crossing->template leave_state<1>(row, unit, m[1], ds1[1]);
    }
    Cell::backward(k, p, s0, s1, ds1, da, dp, ds0);
    if constexpr (Crosses) {
      for (int i = 0; i < S; ++i) ds0[i] = ds0[i] + around[i];
      if (crossing->between->clips_gradient()) clip(da, dp);
    }
    for (int i = 0; i < A; ++i) da[i].store(gate + i * w.Hp);
    for (int i = 0; i < S; ++i) ds0[i].store(dstates + i * batch * w.Hp + at);
    for (int i = 0; i < P; ++i) {
      T* sum = dvectors + (row * P + i) * w.Hp + unit;
      (Vec<T>::load(sum) + dp[i]).store(sum);
    }
  }

  void clip(Vec<T> (&da)[A], Vec<T> (&dp)[P + 1]) const {
    const Vec<T> limit(crossing->between->clip_gradient);
    for (int i = 0; i < A; ++i) da[i] = clamp(da[i], limit);
    if constexpr (Cell::kVectorsAreBias) {
      for (int i = 0; i < P; ++i) dp[i] = clamp(dp[i], limit);
    }
  }
};

}  // namespace bptt::sequence
