// SPDX-License-Identifier: Apache-2.0
// One time step forward. It computes, for rows b and hidden units j, the pre-activations
//   a = bias + Wx x_t + Wh h_{t-1}
// in registers and lets the cell turn them into the new states; nothing between the product and the state touches
// memory but a tile's worth of the first-level cache.
#pragma once

#include "core/gemm/blocks.h"
#include "core/gemm/tile.h"
#include "core/simd/math.h"
#include "sequence/input_products.h"
#include "sequence/mode_steps.h"

namespace bptt::sequence {

template <class Cell, class T>
struct ForwardTiles {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr Index L = cells::kInfo<Cell>.lines;
  static constexpr int kTailWidth = G - 1;  // most registers of a packed last block
  static constexpr bool kHeads = cells::kInfo<Cell>.heads;
  using Step = ForwardStep<T>;

  /// R rows from `row`, U blocks of units from `block`.
  template <int R, int U>
  static BPTT_NOINLINE void tile(const Step& s, Index row, Index block) {
    const Weights<T>& w = s.w;
    Vec<T> acc[R][U * A];
    start(s, acc, row, block);
    if (s.x) {
      accumulate<InputMap<Cell>, G, A>(acc, s.x + row * w.I, w.I, s.x_panel(block), w.I * G * W, w.I);
    }
    const Band band = w.template band<kHeads>(block);
    const Index panel = w.template band_depth<kHeads>() * G * W;
    accumulate<HiddenMap<Cell>, G, A>(acc, s.h + row * w.H + band.begin, w.H, s.h_panel(block), panel, band.length);

    alignas(64) T a[R][U * A][W];
    spill(acc, a);
    // The shortest of steps feels a call: RNN B=1 H=32 58 -> 55 ns; with more gates it is quicker (LSTM 171 -> 166).
    if constexpr (R * A == 1) {
      if (!s.transition) {
#pragma GCC unroll 1
        for (int u = 0; u < U; ++u) cell<false>(s, a[0][u * A], W, W, row, block + u);
        return;
      }
    }
    cells(s, a[0][0], A * W, W, W, row, R, block, U);
  }

  /// R rows from `row`, the packed last block of units, in N registers.
  template <int R, int N>
  static BPTT_NOINLINE void tail(const Step& s, Index row) {
    const Weights<T>& w = s.w;
    const Index block = w.blocks - 1;
    const Index units = std::min<Index>(w.tail, W - 1);  // w.tail it is; the bound is for the compiler to see
    Vec<T> acc[R][N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vec<T> bias = Vec<T>::load(w.bias.data() + (block * A + n) * W);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r][n] = s.x ? bias : Vec<T>::load(gate(s, row + r, n) + block * W);
    }
    if (s.x) accumulate<Identity, N, N>(acc, s.x + row * w.I, w.I, s.x_panel(block), 0, w.I);
    const Band band = w.template band<kHeads>(block);
    accumulate<Identity, N, N>(acc, s.h + row * w.H + band.begin, w.H, s.h_panel(block), 0, band.length);
    alignas(64) T a[R][N][W];
    spill(acc, a);
    cells(s, a[0][0], N * W, units, units, row, R, block, 1);
  }

  /// Some rows, and the blocks [begin, end) of units, in another mode than FMAs; the packed last block alone.
  static BPTT_NOINLINE void in_mode([[maybe_unused]] const Step& s, [[maybe_unused]] Index row,
                                    [[maybe_unused]] Index rows, [[maybe_unused]] Index begin,
                                    [[maybe_unused]] Index end) {
    if constexpr (std::is_same_v<T, float>) {
      const Weights<T>& w = s.w;
      const bool in_tail = w.tail > 0 && end == w.blocks;
      const int blocks = int(end - begin), per_block = in_tail ? int(w.tail_width) : A, gates = in_tail ? per_block : G;
      const Index width = blocks * per_block * W;
      alignas(64) T a[kModeRows * kModeBlocks * A * W];
      assert(rows * blocks <= kModeRows * kModeBlocks && blocks <= 2 * kModeBlocks && !(in_tail && blocks > 1));
      Index x_place[2 * kModeBlocks * G], h_place[2 * kModeBlocks * G];
      for (int b = 0; b < blocks; ++b) {
        for (int n = 0; n < per_block; ++n) {
          const Index at = (b * per_block + n) * W;
          const Vec<T> bias = Vec<T>::load(w.bias.data() + ((begin + b) * A + n) * W);
          for (Index r = 0; r < rows; ++r)
            (s.x ? bias : Vec<T>::load(gate(s, row + r, n) + (begin + b) * W)).store(a + r * width + at);
        }
        for (int g = 0; g < gates; ++g) {
          x_place[b * gates + g] = (b * per_block + (in_tail ? g : Cell::x_acc(g))) * W;
          h_place[b * gates + g] = (b * per_block + (in_tail ? g : Cell::h_acc(g))) * W;
        }
      }
      if (s.x) add_input_products(w, {a, width, x_place}, *s.mode_rows, row, rows, begin * G, blocks * gates);
      add_hidden_products(w, {a, width, h_place}, *s.mode_rows, row, rows, begin * G, blocks * gates);
      const Index lanes = in_tail ? w.tail : W;
      cells(s, a, per_block * W, lanes, lanes, row, int(rows), begin, blocks);
    }
  }
  static constexpr int kModeBlocks = A >= 4 ? 1 : 4 / A;

 private:
  static T* gate(const Step& s, Index row, int i) { return s.gates + (row * L + i) * s.w.Hp; }

  template <int R, int UA>
  static BPTT_INLINE void start(const Step& s, Vec<T> (&acc)[R][UA], Index row, Index block) {
#pragma GCC unroll 16
    for (int n = 0; n < UA; ++n) {
      const Vec<T> bias = Vec<T>::load(s.w.bias.data() + (block * A + n) * W);
      const Index unit = (block + n / A) * W;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][n] = s.x ? bias : Vec<T>::load(gate(s, row + r, n % A) + unit);
      }
    }
  }

  /// The cells of a tile: A runs of `lanes`, `stride` apart, for each row and block, which lie `step` apart.
  static void cells(const Step& s, const T* a, Index step, Index stride, Index lanes, Index row, int rows, Index block,
                    int blocks) {
    if (s.transition)
      each<true>(s, a, step, stride, lanes, row, rows, block, blocks);
    else
      each<false>(s, a, step, stride, lanes, row, rows, block, blocks);
  }
  template <bool HasTransition>  // one text for tiles of all sizes
  static BPTT_NOINLINE void each(const Step& s, const T* a, Index step, Index stride, Index lanes, Index row, int rows,
                                 Index block, int blocks) {
    for (int r = 0; r < rows; ++r) {
      for (int u = 0; u < blocks; ++u, a += step) cell<HasTransition>(s, a, stride, lanes, row + r, block + u);
    }
  }

  /// The pre-activations of a row and a block: `lanes` of each, `stride` apart.
  template <bool HasTransition>
  static BPTT_INLINE void cell(const Step& s, const T* a, Index stride, Index lanes, Index row, Index block) {
    const Weights<T>& w = s.w;
    const Index unit = block * W, n = std::min<Index>(W, w.H - unit);
    Vec<T> av[A], p[P + 1], s0[S], s1[S], k[K + 1];
    for (int i = 0; i < A; ++i) av[i] = Vec<T>::load(a + i * stride, lanes);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    if constexpr (HasTransition)
      s0[0] = Vec<T>::load(s.transition->h0 + row * s.transition->h0_width + unit, n);
    else
      s0[0] = Vec<T>::load(s.h + row * w.H + unit, n);
#pragma GCC unroll 4
    for (int i = 1; i < S; ++i) s0[i] = Vec<T>::load(s.others0.of(i) + row * w.Hp + unit);
    Cell::forward(av, p, s0, s1, k);
    if (s.keep) {
      for (int i = 0; i < K; ++i) k[i].store(gate(s, row, i) + unit);
    }
    if constexpr (HasTransition) {
      s.transition->leave(row, unit, s0, s1);
    } else {
      s1[0].store(s.h1 + row * w.H + unit, n);
#pragma GCC unroll 4
      for (int i = 1; i < S; ++i) s1[i].store(s.others1.of(i) + row * w.Hp + unit);
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

/// Tiles::tile over a thread's part, the blocks of a tile reading the same of h: blocks of units outside, so that a
/// panel of weights stays in the nearest cache while the rows pass by. Even and odd steps walk the blocks in opposite
/// directions and find what the last step left in the cache (LSTM B=1 T=100 I=H=512, hidden weights twice the
/// second-level cache: inference 19.1 -> 14.2 ms).
template <class Tiles, int PerBlock, class Step>
void run_tiles(const Step& step, const RowBlocks& rows, const Share& units, Index t) {
  if (rows.count == 0) return;
  if (step.mode_rows) return run_in_mode<Tiles>(step, rows, units, t);
  dispatch<kTileRows>(rows.max_size(), [&](auto most) {
    constexpr int kMaxRows = most, kMaxBlocks = tile_blocks(kMaxRows, PerBlock);
    const auto tiles = [&](auto width, Index block) {
      for_row_blocks<kMaxRows>(
          rows, [&](auto height, Index i) { Tiles::template tile<height, width>(step, rows.begin(i), block); });
    };
    Index end = units.end;
    bool tail = false;
    if constexpr (Tiles::kTailWidth > 0) {
      tail = step.w.tail > 0 && units.begin < end && end == step.w.blocks;
      end -= Index(tail);
    }
    const auto runs = [&](Index begin, Index end) { for_block_runs<kMaxBlocks>(begin, end, tiles); };
    if (t % 2 == 0) step.w.template for_bands<Tiles::kHeads>(units.begin, end, false, runs);
    if constexpr (Tiles::kTailWidth > 0) {
      if (tail) {
        dispatch<Tiles::kTailWidth>(int(step.w.tail_width), [&](auto width) {
          for_row_blocks<kMaxRows>(
              rows, [&](auto height, Index i) { Tiles::template tail<height, width>(step, rows.begin(i)); });
        });
      }
    }
    const auto runs_backward = [&](Index begin, Index end) { for_block_runs_backward<kMaxBlocks>(begin, end, tiles); };
    if (t % 2 != 0) step.w.template for_bands<Tiles::kHeads>(units.begin, end, true, runs_backward);
  });
}

}  // namespace bptt::sequence
