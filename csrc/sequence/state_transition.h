// SPDX-License-Identifier: Apache-2.0
// What happens to the states between two time steps, if anything: rows end or begin again from their reset state,
// states are clipped or keep their old value (zoneout), the hidden state loses units on its way into the product
// (recurrent dropout), gradients are clipped. One value per row and unit, whatever the cell; both loops call it.
//   leave    s1' = clip(s1);  s1'' = m s0 + (1-m) s1', m ~ Bernoulli(p), or p itself at inference
//   enter    s0 = keep s1'' + (1-keep) reset_state
//            the product sees s0 d, d ~ Bernoulli(1-p) / (1-p), drawn once for each sequence
#pragma once

#include "sequence/masks.h"

namespace bptt::sequence {

/// What both ways know of the transition behind a step. Rows are those of the step. The two states may differ in width
/// (a projected h is narrower than c); what is padded has Hp for both.
template <class T>
struct StateTransitionBase {
  static constexpr int W = Vec<T>::kSize;

  const StateOptions<T>* options = nullptr;
  Index step = 0, Hp = 0;
  Index width[kMaxStates] = {};
  Index rows1 = 0;             // rows that go on
  const T* keep1 = nullptr;    // [rows1] or null: all
  const T* dropout = nullptr;  // [B,Hp] or null

  void masks(Index row, Index unit, Vec<T> (&m)[kMaxStates]) const { zoneout_masks(*options, step, row, unit, m); }
};

/// The states of one step on their way into the next.
template <class T>
struct StateTransition : StateTransitionBase<T> {
  using Base = StateTransitionBase<T>;
  using Base::W, Base::options, Base::Hp, Base::width, Base::rows1, Base::keep1, Base::dropout, Base::masks;

  const T* h0 = nullptr;  // the entering states: h [rows,h0_width]
  Index h0_width = 0;
  T* left[kMaxStates] = {};   // as the cell leaves them, [rows,Hp]; null where nobody asks later
  T* out = nullptr;           // y [rows,width]
  T* operand1 = nullptr;      // h as the next product takes it [rows1,width]
  T* h1 = nullptr;            // h as the next cell takes it [rows1,Hp]; null: the operand
  T* c1 = nullptr;            // [rows1,Hp]
  T* final[kMaxStates] = {};  // [B,width]

  /// A register of units of a row: the states that entered and those that the cell made of them.
  template <int S>
  BPTT_INLINE void leave(Index row, Index unit, const Vec<T> (&s0)[S], const Vec<T> (&s1)[S]) const {
    Vec<T> m[kMaxStates];
    masks(row, unit, m);
    leave_state<0>(row, unit, s0[0], s1[0], m[0]);
    if constexpr (S > 1) leave_state<1>(row, unit, s0[1], s1[1], m[1]);
  }

  template <int I>
  BPTT_INLINE void leave_state(Index row, Index unit, Vec<T> s0, Vec<T> s1, Vec<T> m) const {
    const Index n = std::min<Index>(W, width[I] - unit);
    if (left[I]) s1.store(left[I] + row * Hp + unit);
    if (options->mixes()) {
      s1 = clamp(s1, Vec<T>(options->clip));
      if (options->zoneout[I] > 0) s1 = fma(m, s0, (Vec<T>(T(1)) - m) * s1);
    }
    if constexpr (I == 0) s1.store(out + row * width[0] + unit, n);
    if (row >= rows1)
      s1.store(final[I] + row * width[I] + unit, n);
    else
      enter_state<I>(row, unit, s1);
  }

  /// A state before the next step.
  template <int I>
  BPTT_INLINE void enter_state(Index row, Index unit, Vec<T> s) const {
    const Index n = std::min<Index>(W, width[I] - unit);
    if (keep1 && keep1[row] == T(0))
      s = options->reset_state[I] ? Vec<T>::load(options->reset_state[I] + unit, n) : Vec<T>(T(0));
    if constexpr (I == 0) {
      if (h1) s.store(h1 + row * Hp + unit);
      if (dropout) s = s * Vec<T>::load(dropout + row * Hp + unit);
      s.store(operand1 + row * width[0] + unit, n);
    } else {
      s.store(c1 + row * Hp + unit);
    }
  }
};

/// The way back: from the gradients of the states that enter the next step to those that the cell made.
template <class T>
struct StateTransitionBack : StateTransitionBase<T> {
  using Base = StateTransitionBase<T>;
  using Base::W, Base::options, Base::Hp, Base::width, Base::rows1, Base::keep1, Base::dropout;

  const T* left[kMaxStates] = {};
  Index left_width[kMaxStates] = {};
  T* dreset_state = nullptr;  // [B,kMaxStates,Hp] sums by row, or null

  /// From the gradient of the I-th state as it enters the next step to that of what left this one (its y apart). Of h,
  /// `dproduct` is the part that came through the product, where that part is not in ds.
  template <int I>
  BPTT_INLINE Vec<T> enter_state(Index row, Index unit, Vec<T> dproduct, Vec<T> ds) const {
    if (I == 0 && dropout) ds = fma(dproduct, Vec<T>::load(dropout + row * Hp + unit), ds);
    if (row >= rows1 || !keep1 || keep1[row] != T(0)) return ds;
    if (dreset_state) {
      T* sum = dreset_state + (row * kMaxStates + I) * Hp + unit;
      (Vec<T>::load(sum) + ds).store(sum);
    }
    return Vec<T>(T(0));
  }

  /// ds: in, the gradient of the I-th state that left; out, of the one that the cell made. Returns the share that went
  /// to the entering state directly.
  template <int I>
  BPTT_INLINE Vec<T> leave_state(Index row, Index unit, Vec<T> m, Vec<T>& ds) const {
    Vec<T> around(T(0));
    if (!options->mixes()) return around;
    if (options->zoneout[I] > 0) {
      around = m * ds;
      ds = ds - around;
    }
    const Index n = left_width[I] == Hp ? W : std::min<Index>(W, width[I] - unit);
    const Vec<T> s = Vec<T>::load(left[I] + row * left_width[I] + unit, n);
    ds = select_less(Vec<T>(options->clip), abs(s), Vec<T>(T(0)), ds);
    return around;
  }
};

}  // namespace bptt::sequence
