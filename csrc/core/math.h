// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid and tanh on a register, float and double. All three reduce to one polynomial of r in [-ln2/2, ln2/2]:
//   x = n ln2 + r,   e^x = 2^n e^r,   e^r - 1 = r + r^2 q(r)
// q interpolates (e^r - 1 - r) / r^2 at the Chebyshev nodes (relative error of e^r: 1.0e-8 float, 3.2e-19 double).
// Errors above each function: worst case over every 7th float and over 2^26 doubles, against the next wider type, of
// v2, v3 and v4, measured by `test_math full` (tests/cpp/test_math.cpp).
#pragma once

#include "core/vec.h"

namespace bptt {
namespace detail {

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLog2e = 1.44269504f;
  static constexpr float kLn2High = 0.693145751953125f;  // 16 bits: n * kLn2High is exact
  static constexpr float kLn2Low = 1.42860682e-6f;
  static constexpr float kMin = -104.0f, kMax = 89.0f;  // beyond: 0 and infinity
  static constexpr float kTanhOne = 10.0f;              // tanh is 1 to the last bit from 9.02
  static constexpr float kQ[] = {0.5f, 0.166665763f, 0.0416665524f, 0.00836323295f, 0.00139262504f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLog2e = 1.4426950408889634;
  static constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits
  static constexpr double kLn2Low = 1.9082149292705878e-10;
  static constexpr double kMin = -746.0, kMax = 710.0;
  static constexpr double kTanhOne = 20.0;
  static constexpr double kQ[] = {0.5,
                                  0.1666666666666667,
                                  0.04166666666666667,
                                  0.008333333333326084,
                                  0.0013888888888883711,
                                  0.0001984126987500228,
                                  2.480158732567746e-05,
                                  2.755725517000089e-06,
                                  2.755727347871858e-07,
                                  2.5105312729622103e-08,
                                  2.09147553258932e-09};
};

/// n = round(x / ln2) and e^r - 1 for the rest r.
template <class T>
BPTT_INLINE void exp_parts(Vec<T> x, Vec<T>& n, Vec<T>& expm1_r) {
  using C = ExpConstants<T>;
  n = round_small(x * Vec<T>(C::kLog2e));
  const Vec<T> r = fma(n, Vec<T>(-C::kLn2Low), fma(n, Vec<T>(-C::kLn2High), x));
  constexpr int degree = sizeof(C::kQ) / sizeof(T) - 1;
  Vec<T> q(C::kQ[degree]);
  for (int i = degree - 1; i >= 0; --i) q = fma(q, r, Vec<T>(C::kQ[i]));
  expm1_r = fma(q, r * r, r);
}

}  // namespace detail

/// e^x. Float 1.055 ULP at -38.41, double 0.978 ULP at 416.99.
template <class T>
BPTT_INLINE Vec<T> exp(Vec<T> x) {
  using C = detail::ExpConstants<T>;
  const Vec<T> low = select_less(x, Vec<T>(C::kMin), Vec<T>(C::kMin), x);  // NaN passes both
  const Vec<T> bounded = select_less(Vec<T>(C::kMax), low, Vec<T>(C::kMax), low);
  Vec<T> n, p;
  detail::exp_parts(bounded, n, p);
  return ldexp(Vec<T>(T(1)) + p, n);
}

/// 1 / (1 + e^-x), from z = e^-|x| so that nothing overflows and the left tail keeps its digits.
/// Float 2.330 ULP at -3.462, double 2.384 ULP at -2.708.
template <class T>
BPTT_INLINE Vec<T> sigmoid(Vec<T> x) {
  using C = detail::ExpConstants<T>;
  const Vec<T> one(T(1));
  const Vec<T> minus = Vec<T>(T(0)) - abs(x);
  Vec<T> n, p;
  detail::exp_parts(select_less(minus, Vec<T>(C::kMin), Vec<T>(C::kMin), minus), n, p);
  const Vec<T> z = ldexp(one + p, n);
  return select_less(x, Vec<T>(T(0)), z, one) / (one + z);
}

/// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; e^-2|x| - 1 keeps its digits near zero.
/// Float 2.496 ULP at -4.506, double 2.530 ULP at 0.2178.
template <class T>
BPTT_INLINE Vec<T> tanh(Vec<T> x) {
  using C = detail::ExpConstants<T>;
  const Vec<T> magnitude = abs(x);
  const Vec<T> bounded = select_less(Vec<T>(C::kTanhOne), magnitude, Vec<T>(C::kTanhOne), magnitude);
  Vec<T> n, p;
  detail::exp_parts(bounded * Vec<T>(T(-2)), n, p);
  const Vec<T> scale = exp2_integer(n);
  const Vec<T> e = fma(scale, p, scale - Vec<T>(T(1)));  // e^-2|x| - 1
  return copysign(e / (e + Vec<T>(T(2))), x);
}

/// max(x, 0); NaN stays NaN.
template <class T>
BPTT_INLINE Vec<T> relu(Vec<T> x) {
  return select_less(x, Vec<T>(T(0)), Vec<T>(T(0)), x);
}

/// 1 where x > 0, else 0: the derivative of relu.
template <class T>
BPTT_INLINE Vec<T> heaviside(Vec<T> x) {
  return select_less(Vec<T>(T(0)), x, Vec<T>(T(1)), Vec<T>(T(0)));
}

}  // namespace bptt
