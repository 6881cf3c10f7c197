// SPDX-License-Identifier: Apache-2.0
// A forward step of a cell of several stages (cells/staged.h): for all rows of a thread, product by product and stage
// by stage, through memory. Rows are whole: such a cell is not split by units.
#pragma once

#include <cmath>

#include "core/math.h"
#include "sequence/between.h"
#include "sequence/weights.h"

namespace bptt::sequence {

/// lines[row, Map(n)] = start + from[row,:] * panels for N gates, start: `bias` ([blocks][A][W]), else what is there
/// where `add`, else zero.
template <class Map, int N, int A, class T>
void line_products(T* lines, Index width, Index Hp, const T* from, Index ld, const T* panels, Index K, const T* bias,
                   bool add, const RowBlocks& rows) {
  constexpr int W = Vec<T>::kSize;
  for (Index j = 0; j < Hp / W; ++j) {
    for (Index i = 0; i < rows.count; ++i) {
      const Index row = rows.begin(i);
      dispatch<kTileRows>(rows.size(i), [&](auto height) {
        constexpr int R = height;
        Vec<T> acc[R][N];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
          for (int n = 0; n < N; ++n) {
            acc[r][n] = bias  ? Vec<T>::load(bias + (j * A + Map::at(n)) * W)
                        : add ? Vec<T>::load(lines + (row + r) * width + Map::at(n) * Hp + j * W)
                              : Vec<T>(T(0));
          }
        }
        accumulate<Identity, N, N>(acc, from + row * ld, ld, panels + j * K * N * W, 0, K);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
          for (int n = 0; n < N; ++n) acc[r][n].store(lines + (row + r) * width + Map::at(n) * Hp + j * W);
        }
      });
    }
  }
}

/// The map of one gate to a line.
template <int Line>
struct Only {
  static constexpr int at(int) { return Line; }
};

/// The first n lanes; the others become zero.
template <class T>
BPTT_INLINE Vec<T> first_lanes(Vec<T> x, Index n) {
  if (n >= Vec<T>::kSize) return x;
  alignas(64) T values[Vec<T>::kSize];
  x.store(values);
  return Vec<T>::load(values, n);
}

/// f(place, lanes) for each register of `count` lines of H values.
template <class T, class F>
BPTT_INLINE void each_register(int count, Index H, Index Hp, const F& f) {
  constexpr Index W = Vec<T>::kSize;
  for (int i = 0; i < count; ++i) {
    for (Index unit = 0; unit < H; unit += W) f(i * Hp + unit, std::min(W, H - unit));
  }
}

/// In place: (a - mean) / sqrt(variance + epsilon) over `count` lines of a row, lanes beyond H zero; returns 1 / that
/// root.
template <class T>
T normalise(T* a, int count, Index H, Index Hp) {
  const T n = T(count * H);
  Vec<T> sum(T(0)), squares(T(0));
  each_register<T>(count, H, Hp, [&](Index at, Index lanes) { sum = sum + Vec<T>::load(a + at, lanes); });
  const Vec<T> mean(sum.sum() / n);
  each_register<T>(count, H, Hp, [&](Index at, Index lanes) {
    const Vec<T> x = first_lanes(Vec<T>::load(a + at) - mean, lanes);
    squares = fma(x, x, squares);
    x.store(a + at);
  });
  const T scale = 1 / std::sqrt(squares.sum() / n + T(cells::kEpsilon));
  each_register<T>(count, H, Hp, [&](Index at, Index) { (Vec<T>::load(a + at) * Vec<T>(scale)).store(a + at); });
  return scale;
}

template <class Cell, class T>
struct StagedForward {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, P = Cell::P;
  static constexpr int L = kRowValues<Cell>, kH = kHiddenGates<Cell>;

  const Weights<Cell, T>& w;
  const T* x;  // [B,I]; null: the input product stands in lines
  const T* h;  // [B,R], as the product sees it
  const T* c0;
  T* lines;   // [B,L,Hp]
  T* scales;  // [B,kScales]
  T* made;    // the states that the cell makes [S,B,Hp], then a projected h [B,Hp]
  Index batch;
  const Crossing<T>& crossing;

  void run(const RowBlocks& rows) const {
    if constexpr (Traits<Cell>::kStaged) {
      const Index end = rows.first + rows.total;
      if (rows.count == 0) return;
      if (x)
        line_products<InputMap<Cell>, G, A>(lines, L * w.Hp, w.Hp, x, w.I, w.x.data(), w.I, w.bias.data(), false, rows);
      constexpr bool kShared = Cell::h_acc(0) == Cell::x_acc(0);
      line_products<HiddenMap<Cell>, kH, A>(lines, L * w.Hp, w.Hp, h, w.R, w.h.data(), w.R,
                                            static_cast<const T*>(nullptr), kShared, rows);
      stages<0>(rows, end);
      leave(rows, end);
    }
  }

 private:
  T* line(Index row, int i) const { return lines + (row * L + i) * w.Hp; }

  template <int Stage>
  void stages(const RowBlocks& rows, Index end) const {
    constexpr cells::Link link = Cell::kBefore[Stage];
    if constexpr (link.job == cells::Job::kProduct) {
      line_products<Only<link.to>, 1, A>(lines, L * w.Hp, w.Hp, line(0, link.from), L * w.Hp, w.second.data(), w.R,
                                         static_cast<const T*>(nullptr), true, rows);
    }
    for (Index row = rows.first; row < end; ++row) {
      if constexpr (link.job == cells::Job::kNormalise) {
        scales[row * kScales + 2 * Stage] = normalise(line(row, link.from), link.count, w.H, w.Hp);
        if constexpr (link.count2 > 0)
          scales[row * kScales + 2 * Stage + 1] = normalise(line(row, link.from2), link.count2, w.H, w.Hp);
      }
      for (Index unit = 0; unit < w.H; unit += W) stage<Stage>(row, unit);
    }
    if constexpr (Stage + 1 < Cell::kStages) stages<Stage + 1>(rows, end);
  }

  template <int Stage>
  BPTT_INLINE void stage(Index row, Index unit) const {
    Vec<T> values[L], p[P + 1], s0[S], s1[S];
    for (int i = 0; i < L; ++i) values[i] = Vec<T>::load(line(row, i) + unit);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    Vec<T> seen(T(0));
    if constexpr (!Traits<Cell>::kProjects) {
      s0[0] = entering(row, unit);
      seen = Vec<T>::load(h + row * w.R + unit, std::min<Index>(W, w.R - unit));
    } else {
      s0[0] = seen;
    }
    if constexpr (S > 1) s0[1] = Vec<T>::load(c0 + row * w.Hp + unit);
    for (int i = 0; i < S; ++i) s1[i] = Vec<T>::load(made + (i * batch + row) * w.Hp + unit);
    Cell::template forward<Stage>(values, p, seen, s0, s1);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (Cell::kWrites[Stage] >> i & 1) values[i].store(line(row, i) + unit);
    }
    for (int i = 0; i < S; ++i) s1[i].store(made + (i * batch + row) * w.Hp + unit);
  }

  Vec<T> entering(Index row, Index unit) const {
    const Index n = crossing.h0_width == w.Hp ? W : std::min<Index>(W, w.R - unit);
    return Vec<T>::load(crossing.h0 + row * crossing.h0_width + unit, n);
  }

  void leave(const RowBlocks& rows, Index end) const {
    T* h1 = made;
    if constexpr (Traits<Cell>::kProjects) {
      h1 = made + S * batch * w.Hp;
      product(h1, w.Hp, line(0, Cell::kM), L * w.Hp, Segments{w.H}, w.project, static_cast<const T*>(nullptr), rows, 0,
              rows.count);
    }
    for (Index row = rows.first; row < end; ++row) {
      for (Index unit = 0; unit < w.H; unit += W) {
        Vec<T> m[kMaxStates];
        crossing.masks(row, unit, m);
        if (unit < w.R) {
          const Index n = std::min<Index>(W, w.R - unit);
          crossing.template leave_state<0>(row, unit, entering(row, unit), Vec<T>::load(h1 + row * w.Hp + unit, n),
                                           m[0]);
        }
        if constexpr (S > 1) {
          crossing.template leave_state<1>(row, unit, Vec<T>::load(c0 + row * w.Hp + unit),
                                           Vec<T>::load(made + (batch + row) * w.Hp + unit), m[1]);
        }
      }
    }
  }
};

}  // namespace bptt::sequence
