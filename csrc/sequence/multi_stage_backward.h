// SPDX-License-Identifier: Apache-2.0
// A backward step of a cell of several stages: staged_forward.h, the other way round.
#pragma once

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

  const Weights<T>& w;
  const T *dy, *dg1;
  T* lines;
  const T *scales, *h, *h0;
  const Index h0_width;
  const T *c0, *c1;
  T *dstates, *dvectors, *dlines, *ds;
  const Index batch;
  const StateTransitionBack<T>& transition;

  explicit MultiStageBackward(const BackwardStep<T>& s)
      : w(s.w),
        dy(s.dy),
        dg1(s.dg1),
        lines(s.gates),
        scales(s.scales),
        h(s.h),
        h0(s.h0),
        h0_width(s.h0_width),
        c0(s.c0),
        c1(s.c1),
        dstates(s.dstates),
        dvectors(s.dvectors),
        dlines(s.dlines),
        ds(s.ds),
        batch(s.batch),
        transition(*s.transition) {}

  void run(const RowBlocks& rows) const {
    if (rows.count == 0) return;
    const Index end = rows.first + rows.total;
    if (dg1) {
      const Segments through = gate_segments(w, w.cell.h_acc, w.cell.hidden_gates);
      product(ds + S * batch * w.Hp, w.Hp, dg1, L * w.Hp, through, w.h_back, static_cast<const T*>(nullptr), rows, 0,
              rows.count);
    }
    for (Index row = rows.first; row < end; ++row) {
      for (Index unit = 0; unit < w.H; unit += W) leave(row, unit);
    }
    if constexpr (Is::kProjects) {
      product(ds, w.Hp, line(0, Cell::kM + 1), L * w.Hp, Segments{w.R}, w.project_back, static_cast<const T*>(nullptr),
              rows, 0, rows.count);
    }
    stages<Cell::kStages - 1>(rows, end);
    for (Index row = rows.first; row < end; ++row) std::copy_n(dline(row, 0), A * w.Hp, line(row, 0));
  }

 private:
  T* line(Index row, int i) const { return lines + (row * L + i) * w.Hp; }
  T* dline(Index row, int i) const { return dlines + (row * L + i) * w.Hp; }

  /// The gradients of the states that the cell made, into ds; what went around it, into dstates.
  void leave(Index row, Index unit) const {
    const Index at = row * w.Hp + unit;
    Vec<T> m[kMaxStates];
    transition.masks(row, unit, m);
    if (unit < w.R) {
      const Index n = std::min<Index>(W, w.R - unit);
      const Vec<T> through = dg1 ? Vec<T>::load(ds + S * batch * w.Hp + at, n) : Vec<T>(T(0));
      Vec<T> d = Vec<T>::load(dstates + at);
      if (!transition.dropout) d = d + through;
      d = transition.template enter_state<0>(row, unit, through, d) + Vec<T>::load(dy + row * w.R + unit, n);
      transition.template leave_state<0>(row, unit, m[0], d).store(dstates + at);
      d = first_lanes(d, n);
      if constexpr (Is::kProjects)
        d.store(line(row, Cell::kM + 1) + unit);
      else
        d.store(ds + at);
    }
    if constexpr (S > 1) {
      const Index c = batch * w.Hp + at;
      Vec<T> d = transition.template enter_state<1>(row, unit, Vec<T>(T(0)), Vec<T>::load(dstates + c));
      transition.template leave_state<1>(row, unit, m[1], d).store(dstates + c);
      d.store(ds + c);
    }
  }

  template <int Stage>
  void stages(const RowBlocks& rows, Index end) const {
    constexpr cells::Link link = Cell::kBefore[Stage];
    for (Index row = rows.first; row < end; ++row) {
      for (Index unit = 0; unit < w.H; unit += W) stage<Stage>(row, unit);
      if constexpr (link.job == cells::Job::kNormalise) {
        const T* scale = scales + row * kScales + 2 * Stage;
        normalise_back(dline(row, link.from), line(row, link.from), scale[0], link.count, w.H, w.Hp);
        if constexpr (link.count2 > 0)
          normalise_back(dline(row, link.from2), line(row, link.from2), scale[1], link.count2, w.H, w.Hp);
      }
    }
    if constexpr (link.job == cells::Job::kProduct) {
      product(dline(0, link.from), L * w.Hp, dline(0, link.to), L * w.Hp, Segments{w.H}, w.second_back,
              static_cast<const T*>(nullptr), rows, 0, rows.count);
    }
    if constexpr (Stage > 0) stages<Stage - 1>(rows, end);
  }

  template <int Stage>
  BPTT_INLINE void stage(Index row, Index unit) const {
    const Index at = row * w.Hp + unit;
    Vec<T> values[L], d[L], p[P + 1], s0[S], s1[S], ds1[S], dp[P + 1], ds0[S], dh(T(0)), seen(T(0));
    for (int i = 0; i < L; ++i)
      values[i] = Vec<T>::load(line(row, i) + unit), d[i] = Vec<T>::load(dline(row, i) + unit);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit), dp[i] = Vec<T>(T(0));
    for (int i = 0; i < S; ++i) ds1[i] = Vec<T>::load(ds + i * batch * w.Hp + at), ds0[i] = Vec<T>(T(0));
    s0[0] = s1[0] = seen;
    if constexpr (!Is::kProjects) {
      const Index n = std::min<Index>(W, w.R - unit);
      seen = Vec<T>::load(h + row * w.R + unit, n);
      s0[0] = Vec<T>::load(h0 + row * h0_width + unit, h0_width == w.Hp ? W : n);
    }
    if constexpr (S > 1) s0[1] = Vec<T>::load(c0 + at), s1[1] = Vec<T>::load(c1 + at);
    Cell::template backward<Stage>(values, d, p, seen, s0, s1, ds1, Vec<T>(transition.options->clip_gradient), dp, ds0,
                                   &dh);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (Cell::kWritesBack[Stage] >> i & 1) d[i].store(dline(row, i) + unit);
    }
    if (transition.dropout) dh = dh * Vec<T>::load(transition.dropout + at);
    if constexpr (!Is::kProjects) add(dstates + at, ds0[0] + dh);
    if constexpr (S > 1) add(dstates + batch * w.Hp + at, ds0[1]);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      if (Cell::kVectorsBack[Stage] >> i & 1) add(dvectors + (row * P + i) * w.Hp + unit, dp[i]);
    }
  }

  static BPTT_INLINE void add(T* to, Vec<T> x) { (Vec<T>::load(to) + x).store(to); }
};

}  // namespace bptt::sequence
