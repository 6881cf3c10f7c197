// SPDX-License-Identifier: Apache-2.0
// A backward step of a cell of several stages: the inverse of multi_stage_forward.h.
#pragma once

#include "core/gemm/product.h"
#include "sequence/multi_stage_forward.h"

namespace bptt::sequence {

/// d = (d - mean(d) - n mean(d n)) scale over `count` lines of a row, n the normalised values: the gradient of what was
/// normalised.
template <class T>
void normalise_back(T* d, const T* n, T scale, int count, Index H, Index Hp) {
  Vec<T> sum(T(0)), products(T(0));
  each_register<T>(count, H, Hp, [&](Index at, Index lanes) {
    const Vec<T> x = Vec<T>::load(d + at, lanes);
    sum = sum + x;
    products = fma(x, Vec<T>::load(n + at), products);
  });
  const T size = T(count * H);
  const Vec<T> mean(sum.sum() / size), mean_product(products.sum() / size);
  each_register<T>(count, H, Hp, [&](Index at, Index lanes) {
    const Vec<T> x = Vec<T>::load(d + at) - mean - Vec<T>::load(n + at) * mean_product;
    first_lanes(x * Vec<T>(scale), lanes).store(d + at);
  });
}

template <class Cell, class T>
struct MultiStageBackward {
  static constexpr int W = Vec<T>::kSize, A = Cell::A, S = Cell::S, P = Cell::P;
  static constexpr int L = cells::kInfo<Cell>.lines;
  using Is = cells::Traits<Cell>;

  const BackwardStep<T>& s;

  void run(const RowBlocks& rows) const {
    if (rows.count == 0) return;
    const Index end = rows.first + rows.total;
    if (s.dg1) {
      const Segments through = gate_segments(s.w, s.w.cell.h_acc, s.w.cell.hidden_gates);
      product(s.ds + S * s.batch * s.w.Hp, s.w.Hp, s.dg1, L * s.w.Hp, through, s.w.h_back,
              static_cast<const T*>(nullptr), rows, 0, rows.count);
    }
    for (Index row = rows.first; row < end; ++row) {
      for (Index unit = 0; unit < s.w.H; unit += W) leave(row, unit);
    }
    if constexpr (Is::kProjects) {
      product(s.ds, s.w.Hp, line(0, Cell::kM + 1), L * s.w.Hp, Segments{s.w.R}, s.w.project_back,
              static_cast<const T*>(nullptr), rows, 0, rows.count);
    }
    stages<Cell::kStages - 1>(rows, end);
    for (Index row = rows.first; row < end; ++row) std::copy_n(dline(row, 0), A * s.w.Hp, line(row, 0));
  }

 private:
  T* line(Index row, int i) const { return s.gates + (row * L + i) * s.w.Hp; }
  T* dline(Index row, int i) const { return s.dlines + (row * L + i) * s.w.Hp; }

  /// The gradients of the states that the cell made, into ds; what went around it, into dstates.
  void leave(Index row, Index unit) const {
    const Index at = row * s.w.Hp + unit;
    Vec<T> m[2];
    s.transition->masks(row, unit, m);
    if (unit < s.w.R) {
      const Index n = std::min<Index>(W, s.w.R - unit);
      const Vec<T> through = s.dg1 ? Vec<T>::load(s.ds + S * s.batch * s.w.Hp + at, n) : Vec<T>(T(0));
      Vec<T> d = Vec<T>::load(s.dstates + at);
      if (!s.transition->dropout) d = d + through;
      d = s.transition->enter_h(row, unit, through, d) + Vec<T>::load(s.dy + row * s.w.R + unit, n);
      if (s.dsteps) d.store(s.dsteps[0] + row * s.w.R + unit, n);
      s.transition->leave_h(row, unit, m[0], d).store(s.dstates + at);
      d = first_lanes(d, n);
      if constexpr (Is::kProjects)
        d.store(line(row, Cell::kM + 1) + unit);
      else
        d.store(s.ds + at);
    }
    for (int i = 1; i < S; ++i) {
      const Index other = i * s.batch * s.w.Hp + at;
      Vec<T> d = s.transition->enter_other(i, row, unit, Vec<T>::load(s.dstates + other));
      if (s.dsteps) d.store(s.dsteps[i] + row * s.w.H + unit, std::min<Index>(W, s.w.H - unit));
      s.transition->leave_other(i, row, unit, m[1], d).store(s.dstates + other);
      d.store(s.ds + other);
    }
  }

  template <int Stage>
  void stages(const RowBlocks& rows, Index end) const {
    constexpr cells::Link link = Cell::kBefore[Stage];
    for (Index row = rows.first; row < end; ++row) {
      for (Index unit = 0; unit < s.w.H; unit += W) stage<Stage>(row, unit);
      if constexpr (link.job == cells::Job::kNormalise) {
        const T* scale = s.scales + row * kScales + 2 * Stage;
        normalise_back(dline(row, link.from), line(row, link.from), scale[0], link.count, s.w.H, s.w.Hp);
        if constexpr (link.count2 > 0)
          normalise_back(dline(row, link.from2), line(row, link.from2), scale[1], link.count2, s.w.H, s.w.Hp);
      }
    }
    if constexpr (link.job == cells::Job::kProduct) {
      product(dline(0, link.from), L * s.w.Hp, dline(0, link.to), L * s.w.Hp, Segments{s.w.H}, s.w.second_back,
              static_cast<const T*>(nullptr), rows, 0, rows.count);
    }
    if constexpr (Stage > 0) stages<Stage - 1>(rows, end);
  }

  template <int Stage>
  BPTT_INLINE void stage(Index row, Index unit) const {
    const Index at = row * s.w.Hp + unit;
    Vec<T> values[L], d[L], p[P + 1], s0[S], s1[S], ds1[S], dp[P + 1], ds0[S], dh(T(0)), seen(T(0));
    for (int i = 0; i < L; ++i)
      values[i] = Vec<T>::load(line(row, i) + unit), d[i] = Vec<T>::load(dline(row, i) + unit);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(s.w.vectors.data() + i * s.w.Hp + unit), dp[i] = Vec<T>(T(0));
    for (int i = 0; i < S; ++i) ds1[i] = Vec<T>::load(s.ds + i * s.batch * s.w.Hp + at), ds0[i] = Vec<T>(T(0));
    s0[0] = s1[0] = seen;
    if constexpr (!Is::kProjects) {
      const Index n = std::min<Index>(W, s.w.R - unit);
      seen = Vec<T>::load(s.h + row * s.w.R + unit, n);
      s0[0] = Vec<T>::load(s.h0 + row * s.h0_width + unit, s.h0_width == s.w.Hp ? W : n);
    }
    for (int i = 1; i < S; ++i) s0[i] = Vec<T>::load(s.others0.of(i) + at), s1[i] = Vec<T>::load(s.others1.of(i) + at);
    Cell::template backward<Stage>(values, d, p, seen, s0, s1, ds1,
                                   Vec<T>(T(s.transition->options->rules.clip_gradient)), dp, ds0, &dh);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (Cell::kWritesBack[Stage] >> i & 1) d[i].store(dline(row, i) + unit);
    }
    if (s.transition->dropout) dh = dh * Vec<T>::load(s.transition->dropout + at);
    if constexpr (!Is::kProjects) add(s.dstates + at, ds0[0] + dh);
    for (int i = 1; i < S; ++i) add(s.dstates + i * s.batch * s.w.Hp + at, ds0[i]);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      if (Cell::kVectorsBack[Stage] >> i & 1) add(s.dvectors + (row * P + i) * s.w.Hp + unit, dp[i]);
    }
  }

  static BPTT_INLINE void add(T* to, Vec<T> x) { (Vec<T>::load(to) + x).store(to); }
};

}  // namespace bptt::sequence
