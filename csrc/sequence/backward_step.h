// SPDX-License-Identifier: Apache-2.0
// One time step backward. It needs, for rows b and hidden units k,
//   dh_t = dy_t + (the cell's direct share) + dG_{t+1} Wh,   dG_t = the cell's backward at dh_t
// with the product in registers until the cell has it.
#pragma once

#include "core/gemm/product.h"
#include "core/gemm/tile.h"
#include "core/simd/math.h"
#include "sequence/step.h"

namespace bptt::sequence {

/// Up to this H (or band of h) the product of a step sums each gate by itself: with few rows and few units a single
/// chain of G H FMAs is what a step waits for (LSTM B=1 H=32: 128 of 4 cycles each, where 256 cycles of work are to be
/// done). It depends on sizes of the layer alone, since the order of a sum must not depend on the batch.
constexpr Index kShort = 64;

template <class Cell, class T>
struct BackwardTiles {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr Index L = cells::kInfo<Cell>.lines;
  static constexpr int kTailWidth = 0;  // no packed last block
  static constexpr bool kHeads = cells::kInfo<Cell>.heads;
  using Step = BackwardStep<T>;

  /// R rows from `row`, U blocks of units from `block`.
  template <int R, int U>
  static BPTT_NOINLINE void tile(const Step& s, Index row, Index block) {
    const Weights<T>& w = s.w;
    const bool apart = s.transition && s.transition->dropout;  // the product's share needs its own factor
    Vec<T> acc[R][U];
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
      const Index unit = (block + u) * W;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][u] = apart ? Vec<T>(T(0)) : Vec<T>::load(s.dstates + (row + r) * w.Hp + unit);
      }
    }
    if (s.dg1) {
      const Segments gates = gate_segments(w, cells::kInfo<Cell>.h_acc, G);
      const Band band = w.template band<kHeads>(block);
      const T* panel = w.h_back.block(block);
      const T* dg = s.dg1 + row * L * w.Hp + band.begin;
      if (G > 1 && band.length <= kShort) {
        accumulate_segments<G>(acc, dg, L * w.Hp, gates.offset, panel, w.h_back.panel(), band.length);
      } else {
        for (int g = 0; g < G; ++g) {
          accumulate<Identity, 1, 1>(acc, dg + gates.offset[g], L * w.Hp, panel + g * band.length * W, w.h_back.panel(),
                                     band.length);
        }
      }
    }
    alignas(64) T dh[R][U][W];
    spill(acc, dh);
    if (s.transition)
      cells<true>(s, dh[0][0], row, R, block, U);
    else
      cells<false>(s, dh[0][0], row, R, block, U);
  }

  /// Some rows, and the blocks [begin, end) of units, in another mode than FMAs.
  static BPTT_NOINLINE void in_mode([[maybe_unused]] const Step& s, [[maybe_unused]] Index row,
                                    [[maybe_unused]] Index rows, [[maybe_unused]] Index begin,
                                    [[maybe_unused]] Index end) {
    if constexpr (std::is_same_v<T, float>) {
      const bool apart = s.transition && s.transition->dropout;
      const int blocks = int(end - begin);
      assert(rows <= kModeRows && blocks <= kModeBlocks);
      alignas(64) T dh[kModeRows * kModeBlocks * W];
      Index place[kModeBlocks];
      for (int u = 0; u < blocks; ++u) {
        place[u] = u * W;
        for (Index r = 0; r < rows; ++r) {
          const T* from = s.dstates + (row + r) * s.w.Hp + (begin + u) * W;
          (apart ? Vec<T>(T(0)) : Vec<T>::load(from)).store(dh + (r * blocks + u) * W);
        }
      }
      if (s.dg1) s.w.h_back_mode.multiply({dh, blocks * W, place}, s.mode_rows->dg, row, rows, begin, blocks);
      if (s.transition)
        cells<true>(s, dh, row, int(rows), begin, blocks);
      else
        cells<false>(s, dh, row, int(rows), begin, blocks);
    }
  }
  static constexpr int kModeBlocks = 4;

 private:
  /// The cells of a tile; the same code for tiles of all sizes.
  template <bool HasTransition>
  static BPTT_NOINLINE void cells(const Step& s, const T* dh, Index row, int rows, Index block, int blocks) {
    for (int r = 0; r < rows; ++r) {
      for (int u = 0; u < blocks; ++u, dh += W) cell<HasTransition>(s, dh, row + r, block + u);
    }
  }

  template <bool HasTransition>
  static BPTT_INLINE void cell(const Step& s, const T* dh, Index row, Index block) {
    const Weights<T>& w = s.w;
    const Index unit = block * W, n = std::min<Index>(W, w.H - unit), at = row * w.Hp + unit;
    T* gate = s.gates + row * L * w.Hp + unit;
    Vec<T> k[K + 1], p[P + 1], s0[S], s1[S], ds1[S], da[A], dp[P + 1], ds0[S], around[S];
    for (int i = 0; i < K; ++i) k[i] = Vec<T>::load(gate + i * w.Hp);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    s0[0] = Vec<T>::load(s.h0 + row * s.h0_width + unit, s.h0_width == w.Hp ? W : n);
    s1[0] = Vec<T>::load(s.h1 + row * s.h1_width + unit, s.h1_width == w.Hp ? W : n);
    ds1[0] = Vec<T>::load(dh);
#pragma GCC unroll 4
    for (int i = 1; i < S; ++i) {
      s0[i] = Vec<T>::load(s.others0.of(i) + at);
      s1[i] = Vec<T>::load(s.others1.of(i) + at);
      ds1[i] = Vec<T>::load(s.dstates + i * s.batch * w.Hp + at);
    }
    if constexpr (HasTransition) {
      const Vec<T> product = ds1[0];
      if (s.transition->dropout) ds1[0] = Vec<T>::load(s.dstates + at);
      ds1[0] = s.transition->enter_h(row, unit, product, ds1[0]);
#pragma GCC unroll 4
      for (int i = 1; i < S; ++i) ds1[i] = s.transition->enter_other(i, row, unit, ds1[i]);
    }
    ds1[0] = ds1[0] + Vec<T>::load(s.dy + row * w.H + unit, n);
    if (s.dsteps) show(s, ds1, row * w.H + unit, n);
    if constexpr (HasTransition) {
      Vec<T> m[2];
      s.transition->masks(row, unit, m);
      around[0] = s.transition->leave_h(row, unit, m[0], ds1[0]);
#pragma GCC unroll 4
      for (int i = 1; i < S; ++i) around[i] = s.transition->leave_other(i, row, unit, m[1], ds1[i]);
    }
    Cell::backward(k, p, s0, s1, ds1, da, dp, ds0);
    if constexpr (HasTransition) {
      for (int i = 0; i < S; ++i) ds0[i] = ds0[i] + around[i];
      if (s.transition->options->rules.clips_gradient()) clip(s, da, dp);
    }
    for (int i = 0; i < A; ++i) da[i].store(gate + i * w.Hp);
    for (int i = 0; i < S; ++i) ds0[i].store(s.dstates + i * s.batch * w.Hp + at);
    for (int i = 0; i < P; ++i) {
      T* sum = s.dvectors + (row * P + i) * w.Hp + unit;
      (Vec<T>::load(sum) + dp[i]).store(sum);
    }
  }

  /// The gradients of the states that leave the step, to whoever observes them.
  static BPTT_NOINLINE void show(const Step& s, const Vec<T> (&ds1)[S], Index at, Index n) {
    for (int i = 0; i < S; ++i) ds1[i].store(s.dsteps[i] + at, n);
  }

  static void clip(const Step& s, Vec<T> (&da)[A], Vec<T> (&dp)[P + 1]) {
    const Vec<T> limit(T(s.transition->options->rules.clip_gradient));
    for (int i = 0; i < A; ++i) da[i] = clamp(da[i], limit);
    if constexpr (Cell::kVectorsAreBias) {
      for (int i = 0; i < P; ++i) dp[i] = clamp(dp[i], limit);
    }
  }
};

}  // namespace bptt::sequence
