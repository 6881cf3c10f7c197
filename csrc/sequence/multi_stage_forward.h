// SPDX-License-Identifier: Apache-2.0
// A forward step of a cell of several stages (cells/multi_stage.h): for all rows of a thread, product by product and
// stage by stage, through memory. Rows are whole: such a cell is not split by units.
#pragma once

#include <cmath>

#include "core/gemm/product.h"
#include "core/simd/math.h"
#include "sequence/input_products.h"

namespace bptt::sequence {

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
struct MultiStageForward {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, P = Cell::P;
  static constexpr int L = cells::kInfo<Cell>.lines, kH = cells::kInfo<Cell>.hidden_gates;
  using Is = cells::Traits<Cell>;

  const ForwardStep<T>& s;

  void run(const RowBlocks& rows) const {
    const Index end = rows.first + rows.total;
    if (rows.count == 0) return;
    if (s.x) {
      products<G>(Cell::x_acc(0), s.x, s.w.I, s.w.x.data(), s.w.I, rows, s.w.bias.data(), A);
    }
    constexpr bool kShared = Cell::h_acc(0) == Cell::x_acc(0);
    const T zeros[kH * W] = {};
    products<kH>(Cell::h_acc(0), s.h, s.w.R, s.w.h.data(), s.w.R, rows, kShared ? nullptr : zeros, 0);
    stages<0>(rows, end);
    leave(rows, end);
  }

 private:
  T* line(Index row, int i) const { return s.gates + (row * L + i) * s.w.Hp; }

  /// N lines from `first` = start + from[row,:] * panels. start: registers for each line, those of the next block
  /// `next` registers further; null: what the lines hold.
  template <int N>
  void products(int first, const T* from, Index ld, const typename Weights<T>::Stored* panels, Index K,
                const RowBlocks& rows, const T* start, Index next) const {
    for (Index j = 0; j < s.w.blocks; ++j) {
      block_products<Identity, N, N>(line(0, first) + j * W, L * s.w.Hp, s.w.Hp, from, ld, panels + j * K * N * W, K,
                                     rows, start ? start + j * next * W : nullptr);
    }
  }

  template <int Stage>
  void stages(const RowBlocks& rows, Index end) const {
    constexpr cells::Link link = Cell::kBefore[Stage];
    if constexpr (link.job == cells::Job::kProduct) {
      products<1>(link.to, line(0, link.from), L * s.w.Hp, s.w.second.data(), s.w.R, rows,
                  static_cast<const T*>(nullptr), 0);
    }
    for (Index row = rows.first; row < end; ++row) {
      if constexpr (link.job == cells::Job::kNormalise) {
        s.scales[row * kScales + 2 * Stage] = normalise(line(row, link.from), link.count, s.w.H, s.w.Hp);
        if constexpr (link.count2 > 0)
          s.scales[row * kScales + 2 * Stage + 1] = normalise(line(row, link.from2), link.count2, s.w.H, s.w.Hp);
      }
      for (Index unit = 0; unit < s.w.H; unit += W) stage<Stage>(row, unit);
    }
    if constexpr (Stage + 1 < Cell::kStages) stages<Stage + 1>(rows, end);
  }

  template <int Stage>
  BPTT_INLINE void stage(Index row, Index unit) const {
    Vec<T> values[L], p[P + 1], s0[S], s1[S];
    for (int i = 0; i < L; ++i) values[i] = Vec<T>::load(line(row, i) + unit);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(s.w.vectors.data() + i * s.w.Hp + unit);
    Vec<T> seen(T(0));
    if constexpr (!Is::kProjects) {
      s0[0] = entering(row, unit);
      seen = Vec<T>::load(s.h + row * s.w.R + unit, std::min<Index>(W, s.w.R - unit));
    } else {
      s0[0] = seen;
    }
    for (int i = 1; i < S; ++i) s0[i] = Vec<T>::load(s.others0.of(i) + row * s.w.Hp + unit);
    for (int i = 0; i < S; ++i) s1[i] = Vec<T>::load(s.made + (i * s.batch + row) * s.w.Hp + unit);
    Cell::template forward<Stage>(values, p, seen, s0, s1);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (Cell::kWrites[Stage] >> i & 1) values[i].store(line(row, i) + unit);
    }
    for (int i = 0; i < S; ++i) s1[i].store(s.made + (i * s.batch + row) * s.w.Hp + unit);
  }

  Vec<T> entering(Index row, Index unit) const {
    const Index n = s.transition->h0_width == s.w.Hp ? W : std::min<Index>(W, s.w.R - unit);
    return Vec<T>::load(s.transition->h0 + row * s.transition->h0_width + unit, n);
  }

  void leave(const RowBlocks& rows, Index end) const {
    T* h1 = s.made;
    if constexpr (Is::kProjects) {
      h1 = s.made + S * s.batch * s.w.Hp;
      product(h1, s.w.Hp, line(0, Cell::kM), L * s.w.Hp, Segments{s.w.H}, s.w.project, static_cast<const T*>(nullptr),
              rows, 0, rows.count);
    }
    for (Index row = rows.first; row < end; ++row) {
      for (Index unit = 0; unit < s.w.H; unit += W) {
        Vec<T> m[2];
        s.transition->masks(row, unit, m);
        if (unit < s.w.R) {
          const Index n = std::min<Index>(W, s.w.R - unit);
          s.transition->leave_h(row, unit, entering(row, unit), Vec<T>::load(h1 + row * s.w.Hp + unit, n), m[0]);
        }
        for (int i = 1; i < S; ++i) {
          s.transition->leave_other(i, row, unit, Vec<T>::load(s.others0.of(i) + row * s.w.Hp + unit),
                                    Vec<T>::load(s.made + (i * s.batch + row) * s.w.Hp + unit), m[1]);
        }
      }
    }
  }
};

}  // namespace bptt::sequence
