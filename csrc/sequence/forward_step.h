// SPDX-License-Identifier: Apache-2.0
// One time step forward. It computes, for rows b and hidden units j, the pre-activations
//   a = bias + Wx x_t + Wh h_{t-1}
// in registers and lets the cell turn them into the new states; nothing between the product and the state touches
// memory but a tile's worth of the first-level cache.
#pragma once

#include "core/gemm/blocks.h"
#include "core/gemm/tile.h"
#include "core/simd/lockstep.h"
#include "sequence/input_products.h"
#include "sequence/mode_steps.h"

namespace bptt::sequence {

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

template <class Cell, class T>
struct ForwardTiles {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr Index L = cells::kInfo<Cell>.lines;
  static constexpr int kTailWidth = G - 1;  // most registers of a packed last block
  static constexpr bool kHeads = cells::kInfo<Cell>.heads;
  static constexpr Index kTailRows = 24;  // whose packed last blocks are together
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
        for (int u = 0; u < U; ++u) group<false, 1>(s, {a[0][u * A], W, W, W}, {row, (block + u) * W, 0, W});
        return;
      }
    }
    cells(s, {a[0][0], A * W, W, W}, row, R, block, U);
  }

  /// The packed last block of units, in N registers for each row, in tiles of kMaxRows rows and one less. A unit or two
  /// of one row would leave most of a register empty in the equations, so those of many rows share one.
  template <int kMaxRows, int N>
  static BPTT_NOINLINE void tail(const Step& s, const RowBlocks& rows) {
    const Index units = std::min<Index>(s.w.tail, W - 1);  // s.w.tail it is; the bound is for the compiler to see
    const bool shared = !s.transition && rows.total > 1 && 8 * units <= 5 * W;
    alignas(64) T a[(kTailRows * N + 1) * W];
    Index first = rows.first, count = 0;  // the rows whose pre-activations a holds
    for_row_blocks<kMaxRows>(rows, [&](auto height, Index i) {
      constexpr int R = height;
      tail_products<R, N>(s, rows.begin(i), a + count * N * W);
      count += R;
      if (count + kMaxRows <= kTailRows && i + 1 < rows.count) return;
      if (shared)
        shared_cells(s, {a, N * W, units, units}, first, count);
      else
        cells(s, {a, N * W, units, units}, first, int(count), s.w.blocks - 1, 1);
      first += count;
      count = 0;
    });
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
      cells(s, {a, per_block * W, lanes, lanes}, row, int(rows), begin, blocks);
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

  /// R rows of the packed last block.
  template <int R, int N>
  static BPTT_INLINE void tail_products(const Step& s, Index row, T* to) {
    const Weights<T>& w = s.w;
    const Index block = w.blocks - 1;
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
#pragma GCC unroll 32
    for (int i = 0; i < R * N; ++i) acc[i / N][i % N].store(to + i * W);
  }

  /// Pre-activations: A runs of `lanes` values, `stride` apart, for each row and block, which lie `step` apart.
  struct PreActivations {
    const T* data;
    Index step, stride, lanes;
  };
  /// Registers of units: the n-th is of row + n * rows, from unit + n * units.
  struct Run {
    Index row, unit, rows, units;

    /// The n-th in an array whose rows have `width` values.
    Index at(int n, Index width) const { return row * width + unit + n * (rows * width + units); }
    Index lanes(int n, Index H) const { return std::min<Index>(W, H - unit - n * units); }
  };

  /// The cells of a tile.
  static void cells(const Step& s, const PreActivations& a, Index row, int rows, Index block, int blocks) {
    if (s.transition)
      each<true>(s, a, row, rows, block, blocks);
    else
      each<false>(s, a, row, rows, block, blocks);
  }
  template <bool HasTransition>  // one text for tiles of all sizes
  static BPTT_NOINLINE void each(const Step& s, PreActivations a, Index row, int rows, Index block, int blocks) {
    const Index step = a.step;
    if (rows >= blocks) {
      a.step *= blocks;
      for (int u = 0; u < blocks; ++u, a.data += step) groups<HasTransition>(s, a, {row, (block + u) * W, 1, 0}, rows);
    } else {
      for (int r = 0; r < rows; ++r, a.data += blocks * step)
        groups<HasTransition>(s, a, {row + r, block * W, 0, W}, blocks);
    }
  }

  /// The cells of `count` registers.
  template <bool HasTransition>
  static BPTT_INLINE void groups(const Step& s, PreActivations a, Run run, int count) {
    const auto next = [&](int n) {
      a.data += n * a.step;
      run.row += n * run.rows;
      run.unit += n * run.units;
      count -= n;
    };
    for (; count >= kLockstep; next(kLockstep)) group<HasTransition, kLockstep>(s, a, run);
    for (; count > 0; next(1)) group<HasTransition, 1>(s, a, run);
  }

  template <bool HasTransition, int N>
  static BPTT_NOINLINE BPTT_FLATTEN void group(const Step& s, const PreActivations& a, const Run& run) {
    using V = Lockstep<T, N>;
    const Weights<T>& w = s.w;
    V av[A], p[P + 1], s0[S], s1[S], k[K + 1];
    for (int i = 0; i < A; ++i)
      fill(av[i], [&](int n) { return Vec<T>::load(a.data + n * a.step + i * a.stride, a.lanes); });
    for (int i = 0; i < P; ++i)
      fill(p[i], [&](int n) { return Vec<T>::load(w.vectors.data() + i * w.Hp + run.unit + n * run.units); });
    const T* h0 = s.h;
    Index width = w.H;
    if constexpr (HasTransition) h0 = s.transition->h0, width = s.transition->h0_width;
    fill(s0[0], [&](int n) { return Vec<T>::load(h0 + run.at(n, width), run.lanes(n, w.H)); });
#pragma GCC unroll 4
    for (int i = 1; i < S; ++i) fill(s0[i], [&](int n) { return Vec<T>::load(s.others0.of(i) + run.at(n, w.Hp)); });
    Cell::forward(av, p, s0, s1, k);
    if (s.keep) {
      for (int i = 0; i < K; ++i)
        for_each_register(k[i], [&](int n, Vec<T> v) { v.store(s.gates + i * w.Hp + run.at(n, L * w.Hp)); });
    }
    if constexpr (HasTransition) {
      leave<N>(s, run, s0, s1);
    } else {
      for_each_register(s1[0], [&](int n, Vec<T> v) { v.store(s.h1 + run.at(n, w.H), run.lanes(n, w.H)); });
#pragma GCC unroll 4
      for (int i = 1; i < S; ++i)
        for_each_register(s1[i], [&](int n, Vec<T> v) { v.store(s.others1.of(i) + run.at(n, w.Hp)); });
    }
  }

  /// The states of N registers into the next step, one register after the other: a transition is long.
  template <int N, class V>
  static BPTT_INLINE void leave(const Step& s, const Run& run, const V (&s0)[S], const V (&s1)[S]) {
    alignas(64) T entered[N][S][W], left[N][S][W];
#pragma GCC unroll 4
    for (int i = 0; i < S; ++i) {
      for_each_register(s0[i], [&](int n, Vec<T> v) { v.store(entered[n][i]); });
      for_each_register(s1[i], [&](int n, Vec<T> v) { v.store(left[n][i]); });
    }
    for (int n = 0; n < N; ++n) leave(s, run.row + n * run.rows, run.unit + n * run.units, entered[n], left[n]);
  }
  static BPTT_NOINLINE void leave(const Step& s, Index row, Index unit, const T (&entered)[S][W],
                                  const T (&left)[S][W]) {
    Vec<T> s0[S], s1[S];
#pragma GCC unroll 4
    for (int i = 0; i < S; ++i) {
      s0[i] = Vec<T>::load(entered[i]);
      s1[i] = Vec<T>::load(left[i]);
    }
    s.transition->leave(row, unit, s0, s1);
  }

  // Units of several rows in one register: those of the last block, a.lanes of each row, row by row.

  /// What a cell reads and writes of `kTailRows` rows, and a register more.
  struct Shared {
    static constexpr Index kRoom = kTailRows * W * 5 / 8 + W;
    alignas(64) T a[A][kRoom], p[P + 1][kRoom], s0[S][kRoom], s1[S][kRoom], k[K + 1][kRoom];
  };

  static BPTT_NOINLINE void shared_cells(const Step& s, const PreActivations& a, Index row, Index rows) {
    Shared all;
    share(s, a, row, rows, all);
    const Index end = rows * a.lanes;
    Index first = 0;
    for (; end - first > 2 * W; first += kLockstep * W) shared_group<kLockstep>(all, first);
    for (; first < end; first += W) shared_group<1>(all, first);
    unshare(s, all, a.lanes, row, rows);
  }

  /// Whole registers, of which the next row overwrites what is not this one's.
  static BPTT_INLINE void share(const Step& s, const PreActivations& a, Index row, Index rows, Shared& all) {
    const Weights<T>& w = s.w;
    const Index unit = (w.blocks - 1) * W;
    for (Index r = 0; r < rows; ++r) {
      const Index to = r * a.lanes;
      for (int i = 0; i < A; ++i) Vec<T>::load(a.data + r * a.step + i * a.stride).store(all.a[i] + to);
      for (int i = 0; i < P; ++i) Vec<T>::load(w.vectors.data() + i * w.Hp + unit).store(all.p[i] + to);
      Vec<T>::load(s.h + (row + r) * w.H + unit, a.lanes).store(all.s0[0] + to);
      for (int i = 1; i < S; ++i) Vec<T>::load(s.others0.of(i) + (row + r) * w.Hp + unit).store(all.s0[i] + to);
    }
  }

  template <int N>
  static BPTT_NOINLINE BPTT_FLATTEN void shared_group(Shared& all, Index first) {
    using V = Lockstep<T, N>;
    const auto load = [&](V& v, const T* from) { fill(v, [&](int n) { return Vec<T>::load(from + first + n * W); }); };
    const auto store = [&](const V& v, T* to) {
      for_each_register(v, [&](int n, Vec<T> each) { each.store(to + first + n * W); });
    };
    V av[A], p[P + 1], s0[S], s1[S], k[K + 1];
    for (int i = 0; i < A; ++i) load(av[i], all.a[i]);
    for (int i = 0; i < P; ++i) load(p[i], all.p[i]);
#pragma GCC unroll 4
    for (int i = 0; i < S; ++i) load(s0[i], all.s0[i]);
    Cell::forward(av, p, s0, s1, k);
    for (int i = 0; i < K; ++i) store(k[i], all.k[i]);
#pragma GCC unroll 4
    for (int i = 0; i < S; ++i) store(s1[i], all.s1[i]);
  }

  /// Units beyond H get the values of a unit of their row, with which every cell can go on.
  static BPTT_INLINE void unshare(const Step& s, const Shared& all, Index lanes, Index row, Index rows) {
    const Weights<T>& w = s.w;
    const Index unit = (w.blocks - 1) * W;
    const auto store = [&](const T* from, T* to) {
      Vec<T>(*from).store(to);
      Vec<T>::load(from).store(to, lanes);
    };
    for (Index r = 0; r < rows; ++r) {
      const Index from = r * lanes;
      for (int i = 0; s.keep && i < K; ++i) store(all.k[i] + from, gate(s, row + r, i) + unit);
      Vec<T>::load(all.s1[0] + from).store(s.h1 + (row + r) * w.H + unit, lanes);
      for (int i = 1; i < S; ++i) store(all.s1[i] + from, s.others1.of(i) + (row + r) * w.Hp + unit);
    }
  }
};

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
        dispatch<Tiles::kTailWidth>(int(step.w.tail_width),
                                    [&](auto width) { Tiles::template tail<kMaxRows, width>(step, rows); });
      }
    }
    const auto runs_backward = [&](Index begin, Index end) { for_block_runs_backward<kMaxBlocks>(begin, end, tiles); };
    if (t % 2 != 0) step.w.template for_bands<Tiles::kHeads>(units.begin, end, true, runs_backward);
  });
}

}  // namespace bptt::sequence
