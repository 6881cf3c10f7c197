// SPDX-License-Identifier: Apache-2.0
// One time step forward. It computes, for rows b and hidden units j, the pre-activations
//   a = bias + Wx x_t + Wh h_{t-1}
// in registers and lets the cell turn them into the new states; nothing between the product and the state touches
// memory but a tile's worth of the first-level cache.
#pragma once

#include "core/math.h"
#include "sequence/between.h"
#include "sequence/weights.h"

namespace bptt::sequence {

template <class Cell, class T>
struct ForwardStep {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr int kTailWidth = G - 1;  // most registers of a packed last block

  const Weights<Cell, T>& w;
  const RowBlocks& rows;
  const T* x;   // [B,I]; null: the input product stands in gates
  const T* h0;  // [B,H]
  T* h1;        // [B,H]
  const T* c0;  // the other state [B,Hp]; may be c1 itself
  T* c1;
  T* gates;                     // [B,kRowValues,Hp] or null
  bool keep;                    // store the cell's kept values there
  const Crossing<T>* crossing;  // null: h1 and c1 enter the next step as they are

  /// The R rows of a row block, U blocks of units from `block`.
  template <int R, int U>
  BPTT_NOINLINE void tile(Index row_block, Index block) const {
    const Index row = rows.begin(row_block);
    Vec<T> acc[R][U * A];
    start(acc, row, block);
    if (x) {
      accumulate<InputMap<Cell>, G, A>(acc, x + row * w.I, w.I, w.x.data() + block * w.I * G * W, w.I * G * W, w.I);
    }
    accumulate<HiddenMap<Cell>, G, A>(acc, h0 + row * w.H, w.H, w.h.data() + block * w.H * G * W, w.H * G * W, w.H);

    alignas(64) T a[R][U * A][W];
    spill(acc, a);
    // The shortest of steps feels a call: RNN B=1 H=32 58 -> 55 ns; with more gates it is quicker (LSTM 171 -> 166).
    if constexpr (R * A == 1) {
      if (!crossing) {
#pragma GCC unroll 1
        for (int u = 0; u < U; ++u) cell<false>(a[0][u * A], W, W, row, block + u);
        return;
      }
    }
    cells(a[0][0], A * W, W, W, row, R, block, U);
  }

  /// The R rows of a row block, the packed last block of units, in N registers.
  template <int R, int N>
  BPTT_NOINLINE void tail(Index row_block) const {
    const Index row = rows.begin(row_block), block = w.blocks - 1;
    const Index units = std::min<Index>(w.tail, W - 1);  // w.tail it is; the bound is for the compiler to see
    Vec<T> acc[R][N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vec<T> bias = Vec<T>::load(w.bias.data() + (block * A + n) * W);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r][n] = x ? bias : Vec<T>::load(gate(row + r, n) + block * W);
    }
    if (x) accumulate<Identity, N, N>(acc, x + row * w.I, w.I, w.x.data() + block * w.I * G * W, 0, w.I);
    accumulate<Identity, N, N>(acc, h0 + row * w.H, w.H, w.h.data() + block * w.H * G * W, 0, w.H);
    alignas(64) T a[R][N][W];
    spill(acc, a);
    cells(a[0][0], N * W, units, units, row, R, block, 1);
  }

 private:
  T* gate(Index row, int i) const { return gates + (row * kRowValues<Cell> + i) * w.Hp; }

  template <int R, int UA>
  BPTT_INLINE void start(Vec<T> (&acc)[R][UA], Index row, Index block) const {
#pragma GCC unroll 16
    for (int n = 0; n < UA; ++n) {
      const Vec<T> bias = Vec<T>::load(w.bias.data() + (block * A + n) * W);
      const Index unit = (block + n / A) * W;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][n] = x ? bias : Vec<T>::load(gate(row + r, n % A) + unit);
      }
    }
  }

  /// The cells of a tile: A runs of `lanes`, `stride` apart, for each row and block, which lie `step` apart.
  void cells(const T* a, Index step, Index stride, Index lanes, Index row, int rows, Index block, int blocks) const {
    if (crossing)
      each<true>(a, step, stride, lanes, row, rows, block, blocks);
    else
      each<false>(a, step, stride, lanes, row, rows, block, blocks);
  }
  template <bool Crosses>  // one text for tiles of all sizes
  BPTT_NOINLINE void each(const T* a, Index step, Index stride, Index lanes, Index row, int rows, Index block,
                          int blocks) const {
    for (int r = 0; r < rows; ++r) {
      for (int u = 0; u < blocks; ++u, a += step) cell<Crosses>(a, stride, lanes, row + r, block + u);
    }
  }

  /// The pre-activations of a row and a block: `lanes` of each, `stride` apart.
  template <bool Crosses>
  BPTT_INLINE void cell(const T* a, Index stride, Index lanes, Index row, Index block) const {
    const Index unit = block * W, n = std::min<Index>(W, w.H - unit);
    Vec<T> av[A], p[P + 1], s0[S], s1[S], k[K + 1];
    for (int i = 0; i < A; ++i) av[i] = Vec<T>::load(a + i * stride, lanes);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    if constexpr (Crosses)
      s0[0] = Vec<T>::load(crossing->h0 + row * crossing->h0_width + unit, n);
    else
      s0[0] = Vec<T>::load(h0 + row * w.H + unit, n);
    if constexpr (S > 1) s0[1] = Vec<T>::load(c0 + row * w.Hp + unit);
    Cell::forward(av, p, s0, s1, k);
    if (keep) {
      for (int i = 0; i < K; ++i) k[i].store(gate(row, i) + unit);
    }
    if constexpr (Crosses) {
      crossing->leave(row, unit, s0, s1);
    } else {
      s1[0].store(h1 + row * w.H + unit, n);
      if constexpr (S > 1) s1[1].store(c1 + row * w.Hp + unit);
    }
  }
};

/// f(Constant<rows>, row block) over row blocks, whose sizes are MaxRows and one less.
template <int MaxRows, class F>
BPTT_INLINE void for_row_blocks(const RowBlocks& rows, F&& f) {
  for (Index i = 0; i < rows.count; ++i) {
    if (rows.size(i) == MaxRows)
      f(Constant<MaxRows>{}, i);
    else if constexpr (MaxRows > 1)
      f(Constant<MaxRows - 1>{}, i);
  }
}

/// step.tile over a thread's part: blocks of units outside, so that a panel of weights stays in the nearest cache while
/// the rows pass by. Even and odd steps walk the blocks in opposite directions and find what the last step left in the
/// cache (LSTM B=1 T=100 I=H=512, hidden weights twice the second-level cache: inference 19.1 -> 14.2 ms).
template <int PerBlock, class Step>
void run_step(const Step& step, const Share& units, Index t) {
  if (step.rows.count == 0) return;
  dispatch<kTileRows>(step.rows.max_size(), [&](auto most) {
    constexpr int kMaxRows = most, kMaxBlocks = tile_blocks(kMaxRows, PerBlock);
    const auto tiles = [&](auto width, Index block) {
      for_row_blocks<kMaxRows>(step.rows, [&](auto height, Index i) { step.template tile<height, width>(i, block); });
    };
    Index end = units.end;
    bool tail = false;
    if constexpr (Step::kTailWidth > 0) {
      tail = step.w.tail > 0 && units.begin < end && end == step.w.blocks;
      end -= Index(tail);
    }
    if (t % 2 == 0) for_block_runs<kMaxBlocks>(units.begin, end, tiles);
    if constexpr (Step::kTailWidth > 0) {
      if (tail) {
        dispatch<Step::kTailWidth>(int(step.w.tail_width), [&](auto width) {
          for_row_blocks<kMaxRows>(step.rows, [&](auto height, Index i) { step.template tail<height, width>(i); });
        });
      }
    }
    if (t % 2 != 0) for_block_runs_backward<kMaxBlocks>(units.begin, end, tiles);
  });
}

}  // namespace bptt::sequence
