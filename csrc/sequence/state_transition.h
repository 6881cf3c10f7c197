// SPDX-License-Identifier: Apache-2.0
// Changes of the states between two time steps: rows end or begin again from their reset state, states are clipped or
// keep their old value (zoneout), the product sees h without some units (recurrent dropout), gradients are clipped. One
// value per row and unit, for any cell; both loops call it.
//   leave    s1' = clip(s1);  s1'' = m s0 + (1-m) s1', m ~ Bernoulli(p), or p itself at inference
//   enter    s0 = keep s1'' + (1-keep) reset_state
//            the product sees s0 d, d ~ Bernoulli(1-p) / (1-p), drawn once for each sequence
#pragma once

#include "sequence/masks.h"

namespace bptt::sequence {

/// What both ways know of the transition behind a step. Rows are those of the step. A projected h is narrower than the
/// other states; what is padded has Hp for all.
template <class T>
struct StateTransitionBase {
  static constexpr int W = Vec<T>::kSize;

  const StateOptions<T>* options = nullptr;
  Index step = 0, R = 0, H = 0, Hp = 0;
  Index rows1 = 0;             // rows that go on
  const T* keep1 = nullptr;    // [rows1] or null: all
  const T* dropout = nullptr;  // [B,Hp] or null

  /// Of h, and of every other state.
  void masks(Index row, Index unit, Vec<T> (&m)[2]) const { zoneout_masks(*options, step, row, unit, m); }
  bool is_reset(Index row) const { return keep1 && keep1[row] == T(0); }
};

/// The states of one step as they enter the next.
template <class T>
struct StateTransition : StateTransitionBase<T> {
  using Base = StateTransitionBase<T>;
  using Base::W, Base::options, Base::R, Base::H, Base::Hp, Base::rows1, Base::dropout, Base::masks, Base::is_reset;

  const T* h0 = nullptr;  // the entering states: h [rows,h0_width]
  Index h0_width = 0;
  T* left_h = nullptr;         // as the cell leaves them, [rows,Hp]; null where nothing needs them later
  OtherStates<T> left_others;  // [S-1,rows,Hp]
  T* out = nullptr;            // y [rows,R]
  T* operand1 = nullptr;       // h as the next product takes it [rows1,R]
  T* h1 = nullptr;             // h as the next cell takes it [rows1,Hp]; null: the operand
  OtherStates<T> others1;      // [S-1,rows1,Hp]
  T* const* final = nullptr;   // [S] arrays: [B,R], then [B,H] each

  /// A register of units of a row: the states that entered and those that the cell made of them.
  template <int S>
  BPTT_INLINE void leave(Index row, Index unit, const Vec<T> (&s0)[S], const Vec<T> (&s1)[S]) const {
    Vec<T> m[2];
    masks(row, unit, m);
    leave_h(row, unit, s0[0], s1[0], m[0]);
#pragma GCC unroll 4
    for (int i = 1; i < S; ++i) leave_other(i, row, unit, s0[i], s1[i], m[1]);
  }

  BPTT_INLINE void leave_h(Index row, Index unit, Vec<T> s0, Vec<T> s1, Vec<T> m) const {
    const Index n = std::min<Index>(W, R - unit);
    if (left_h) s1.store(left_h + row * Hp + unit);
    s1 = mixed(s0, s1, m, options->rules.zoneout[0]);
    s1.store(out + row * R + unit, n);
    if (row >= rows1)
      s1.store(final[0] + row * R + unit, n);
    else
      enter_h(row, unit, s1);
  }

  /// State i, i > 0.
  BPTT_INLINE void leave_other(int i, Index row, Index unit, Vec<T> s0, Vec<T> s1, Vec<T> m) const {
    if (left_others.data) s1.store(left_others.of(i) + row * Hp + unit);
    s1 = mixed(s0, s1, m, options->rules.zoneout[1]);
    if (row >= rows1)
      s1.store(final[i] + row * H + unit, std::min<Index>(W, H - unit));
    else
      enter_other(i, row, unit, s1);
  }

  /// h before the next step.
  BPTT_INLINE void enter_h(Index row, Index unit, Vec<T> s) const {
    const Index n = std::min<Index>(W, R - unit);
    if (is_reset(row)) s = reset_state(0, unit, n);
    if (h1) s.store(h1 + row * Hp + unit);
    if (dropout) s = s * Vec<T>::load(dropout + row * Hp + unit);
    s.store(operand1 + row * R + unit, n);
  }

  /// State i, i > 0, before the next step.
  BPTT_INLINE void enter_other(int i, Index row, Index unit, Vec<T> s) const {
    if (is_reset(row)) s = reset_state(i, unit, std::min<Index>(W, H - unit));
    s.store(others1.of(i) + row * Hp + unit);
  }

 private:
  /// What leaves the step, of the old value and the one that the cell made.
  BPTT_INLINE Vec<T> mixed(Vec<T> s0, Vec<T> s1, Vec<T> m, double zoneout) const {
    if (!options->rules.mixes()) return s1;
    s1 = clamp(s1, Vec<T>(T(options->rules.clip)));
    return zoneout > 0 ? fma(m, s0, (Vec<T>(T(1)) - m) * s1) : s1;
  }
  BPTT_INLINE Vec<T> reset_state(int i, Index unit, Index n) const {
    return options->reset_state[i] ? Vec<T>::load(options->reset_state[i] + unit, n) : Vec<T>(T(0));
  }
};

/// Backward: from the gradients of the states that enter the next step to those of the states that the cell made.
template <class T>
struct StateTransitionBack : StateTransitionBase<T> {
  using Base = StateTransitionBase<T>;
  using Base::W, Base::options, Base::R, Base::H, Base::Hp, Base::rows1, Base::dropout, Base::is_reset;

  StridedRows<const T> left_h{};     // [rows,R] or [rows,Hp]
  OtherStates<const T> left_others;  // [S-1,rows,Hp]
  T* dreset_state = nullptr;         // [B,S,Hp] sums by row, or null
  int S = 0;

  /// From the gradient of h as it enters the next step to that of what left this one (its y apart). `dproduct` is the
  /// part that came through the product, where that part is not in ds.
  BPTT_INLINE Vec<T> enter_h(Index row, Index unit, Vec<T> dproduct, Vec<T> ds) const {
    if (dropout) ds = fma(dproduct, Vec<T>::load(dropout + row * Hp + unit), ds);
    return entered(0, row, unit, ds);
  }

  /// The same of state i, i > 0.
  BPTT_INLINE Vec<T> enter_other(int i, Index row, Index unit, Vec<T> ds) const { return entered(i, row, unit, ds); }

  /// ds: in, the gradient of h that left; out, of the one that the cell made. Returns the share that went to the
  /// entering state directly.
  BPTT_INLINE Vec<T> leave_h(Index row, Index unit, Vec<T> m, Vec<T>& ds) const {
    const Index n = left_h.ld == Hp ? W : std::min<Index>(W, R - unit);
    return leave(options->rules.zoneout[0], m, ds, left_h.data + row * left_h.ld + unit, n);
  }

  /// The same of state i, i > 0.
  BPTT_INLINE Vec<T> leave_other(int i, Index row, Index unit, Vec<T> m, Vec<T>& ds) const {
    return leave(options->rules.zoneout[1], m, ds, left_others.of(i) + row * Hp + unit, W);
  }

 private:
  /// A row that is reset hands its gradient to the reset state.
  BPTT_INLINE Vec<T> entered(int i, Index row, Index unit, Vec<T> ds) const {
    if (row >= rows1 || !is_reset(row)) return ds;
    if (dreset_state) {
      T* sum = dreset_state + (row * S + i) * Hp + unit;
      (Vec<T>::load(sum) + ds).store(sum);
    }
    return Vec<T>(T(0));
  }

  /// `left`: n lanes of the state as the cell made it.
  BPTT_INLINE Vec<T> leave(double zoneout, Vec<T> m, Vec<T>& ds, const T* left, Index n) const {
    Vec<T> around(T(0));
    if (!options->rules.mixes()) return around;
    if (zoneout > 0) {
      around = m * ds;
      ds = ds - around;
    }
    ds = select_less(Vec<T>(T(options->rules.clip)), abs(Vec<T>::load(left, n)), Vec<T>(T(0)), ds);
    return around;
  }
};

}  // namespace bptt::sequence
