// SPDX-License-Identifier: Apache-2.0
// Several registers that pass through the same equations side by side, so that each instruction has others to run
// beside it: the equations of one register are one chain of instructions, each of which waits for the one before. The
// parts are named members, not an array: GCC holds an array of registers in memory.
//
// Forward equations with AVX2 on Zen 3, in a loop by themselves, ns for each register, one or three side by side: LSTM
// 31 and 20, GRU 18 and 13. Registers that do not fit are spilled, which costs less than the wait.
#pragma once

#include "core/simd/math.h"

namespace bptt {

/// What A and B hold, in this order.
template <class A, class B>
struct Pair {
  using Scalar = typename A::Scalar;

  A low;
  B high;

  Pair() = default;
  BPTT_INLINE Pair(Scalar x) : low(x), high(x) {}  // implicit: cells write 1 - z
  BPTT_INLINE Pair(A low, B high) : low(low), high(high) {}

  friend BPTT_INLINE Pair operator+(Pair a, Pair b) { return {a.low + b.low, a.high + b.high}; }
  friend BPTT_INLINE Pair operator-(Pair a, Pair b) { return {a.low - b.low, a.high - b.high}; }
  friend BPTT_INLINE Pair operator*(Pair a, Pair b) { return {a.low * b.low, a.high * b.high}; }
  friend BPTT_INLINE Pair operator/(Pair a, Pair b) { return {a.low / b.low, a.high / b.high}; }
};

#define BPTT_SIDE_BY_SIDE(name)               \
  template <class A, class B>                 \
  BPTT_INLINE Pair<A, B> name(Pair<A, B> x) { \
    return {name(x.low), name(x.high)};       \
  }
#define BPTT_SIDE_BY_SIDE_2(name)                           \
  template <class A, class B>                               \
  BPTT_INLINE Pair<A, B> name(Pair<A, B> x, Pair<A, B> y) { \
    return {name(x.low, y.low), name(x.high, y.high)};      \
  }
BPTT_SIDE_BY_SIDE(abs)
BPTT_SIDE_BY_SIDE(round_small)
BPTT_SIDE_BY_SIDE(exp2_integer)
BPTT_SIDE_BY_SIDE_2(at_most)
BPTT_SIDE_BY_SIDE_2(at_least)
BPTT_SIDE_BY_SIDE_2(copysign)
BPTT_SIDE_BY_SIDE_2(ldexp)
#if defined(__AVX512F__)
BPTT_SIDE_BY_SIDE(piece)
#endif
#undef BPTT_SIDE_BY_SIDE
#undef BPTT_SIDE_BY_SIDE_2

template <class A, class B>
BPTT_INLINE Pair<A, B> fma(Pair<A, B> x, Pair<A, B> y, Pair<A, B> z) {
  return {fma(x.low, y.low, z.low), fma(x.high, y.high, z.high)};
}
template <class A, class B>
BPTT_INLINE Pair<A, B> select_less(Pair<A, B> x, Pair<A, B> y, Pair<A, B> a, Pair<A, B> b) {
  return {select_less(x.low, y.low, a.low, b.low), select_less(x.high, y.high, a.high, b.high)};
}
template <class Table, class A, class B>
BPTT_INLINE Pair<A, B> lookup(const Table& table, Pair<A, B> i) {
  return {lookup(table, i.low), lookup(table, i.high)};
}

namespace detail {

template <class T, int N>
struct LockstepOf;
template <class T>
struct LockstepOf<T, 1> {
  using Type = Vec<T>;
};
template <class T>
struct LockstepOf<T, 3> {
  using Type = Pair<Pair<Vec<T>, Vec<T>>, Vec<T>>;
};

/// Assigns f(0), f(1), ... to the registers in order.
template <class T, class F>
BPTT_INLINE void fill(Vec<T>& to, int& n, const F& f) {
  to = f(n++);
}
template <class A, class B, class F>
BPTT_INLINE void fill(Pair<A, B>& to, int& n, const F& f) {
  fill(to.low, n, f);
  fill(to.high, n, f);
}
template <class T, class F>
BPTT_INLINE void for_each_register(const Vec<T>& from, int& n, const F& f) {
  f(n++, from);
}
template <class A, class B, class F>
BPTT_INLINE void for_each_register(const Pair<A, B>& from, int& n, const F& f) {
  for_each_register(from.low, n, f);
  for_each_register(from.high, n, f);
}

}  // namespace detail

/// Most registers side by side.
constexpr int kLockstep = 3;

/// N registers, one or kLockstep.
template <class T, int N>
using Lockstep = typename detail::LockstepOf<T, N>::Type;

/// The n-th register is f(n).
template <class V, class F>
BPTT_INLINE void fill(V& to, const F& f) {
  int n = 0;
  detail::fill(to, n, f);
}
/// f(n, the n-th register).
template <class V, class F>
BPTT_INLINE void for_each_register(const V& from, const F& f) {
  int n = 0;
  detail::for_each_register(from, n, f);
}

}  // namespace bptt
