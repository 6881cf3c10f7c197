// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid, logsigmoid and tanh on a register, float and double. All reduce to one polynomial of r in
// [-ln2/2, ln2/2], but for sigmoid, logsigmoid and tanh of floats with AVX-512, which look up tables in registers:
//   x = n ln2 + r,   e^x = 2^n e^r,   e^r - 1 = r + r^2 q(r)
// q interpolates (e^r - 1 - r) / r^2 at the Chebyshev nodes (relative error of e^r: 1.0e-8 float, 3.2e-19 double).
// Logarithms are 2 atanh(s) = 2 s + s^3 p(s^2), |s| <= 1/3, p interpolated likewise (9.6e-10 float, 7.1e-18 double).
// Errors above each function: worst case over every 7th float and over 2^26 doubles, against the next wider type, of
// v2, v3 and v4, measured by `test_math full` (tests/cpp/test_math.cpp).
#pragma once

#include "core/simd/tanh_table.h"
#include "core/simd/vec.h"

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
  static constexpr float kSigmoidEnd = 87.4f;           // e^87.4 < 2^127
  static constexpr float kTanhOne = 10.0f;              // tanh is 1 to the last bit from 9.02
  static constexpr float kQ[] = {0.5f, 0.166665763f, 0.0416665524f, 0.00836323295f, 0.00139262504f};
  static constexpr float kAtanh[] = {0.6666667f, 0.39999706f, 0.28592357f, 0.21706575f, 0.2322433f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLog2e = 1.4426950408889634;
  static constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits
  static constexpr double kLn2Low = 1.9082149292705878e-10;
  static constexpr double kMin = -746.0, kMax = 710.0;
  static constexpr double kSigmoidEnd = 708.5;
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
  static constexpr double kAtanh[] = {
      0.6666666666666666,  0.40000000000014585, 0.2857142856710876,  0.22222222717427864, 0.18181789436132859,
      0.15385570064958623, 0.13314144209654935, 0.12001072809590713, 0.08800738486144674, 0.1616404561194353};
};

/// n = round(x / ln2) and e^r - 1 for the rest r.
template <class V>
BPTT_INLINE void exp_parts(V x, V& n, V& expm1_r) {
  using T = typename V::Scalar;
  using C = ExpConstants<T>;
  n = round_small(x * V(C::kLog2e));
  const V r = fma(n, V(-C::kLn2Low), fma(n, V(-C::kLn2High), x));
  constexpr int degree = sizeof(C::kQ) / sizeof(T) - 1;
  V q(C::kQ[degree]);
  for (int i = degree - 1; i >= 0; --i) q = fma(q, r, V(C::kQ[i]));
  expm1_r = fma(q, r * r, r);
}

#if defined(__AVX512F__)
constexpr bool kTables = true;
#else
constexpr bool kTables = false;
#endif

alignas(64) inline constexpr float kExp2[16] = {1.0f,       1.0442737f, 1.0905077f, 1.1387886f, 1.1892071f, 1.2418578f,
                                                1.2968396f, 1.3542556f, 1.4142135f, 1.4768262f, 1.5422108f, 1.6104903f,
                                                1.6817929f, 1.7562522f, 1.8340081f, 1.9152066f};  // 2^(j/16)

/// e^-x for |x| <= kSigmoidEnd, so that no exponent leaves its range.
template <class V>
BPTT_INLINE V exp_minus(V x) {
  using T = typename V::Scalar;
  if constexpr (kTables && sizeof(T) == 4) {
    // 2^(n/16) from the table times 2^r, |r| <= 1/32, by a cubic polynomial
    const V scale(-1.442695f), scale_low(-1.925963e-8f), magic(12582912.0f / 16);
    const V sum = fma(x, scale, magic), minus_n = magic - sum;  // the sum's low bits count sixteenths
    const V r = fma(x, scale_low, fma(x, scale, minus_n));
    const V p = r * fma(r, fma(r, V(0.055505086f), V(0.24023356f)), V(0.6931472f));
    const V power = lookup(kExp2, sum);
    return ldexp(fma(power, p, power), sum - magic);  // which takes the floor of n
  } else {
    V n, p;
    exp_parts(V(T(0)) - x, n, p);
    const V power = exp2_integer(n);
    return fma(power, p, power);
  }
}

template <class V>
BPTT_INLINE V tanh_by_pieces(V x) {
  const V bounded = at_most(abs(x), V(15.9f));
  const V i = piece(bounded);
  const V t = bounded - lookup(kTanhCentre, i);
  V y = lookup(kTanhC5, i);
  y = fma(y, t, lookup(kTanhC4, i));
  y = fma(y, t, lookup(kTanhC3, i));
  y = fma(y, t, lookup(kTanhC2, i));
  y = fma(y, t, lookup(kTanhC1, i));
  y = fma(y, t, lookup(kTanhC0, i));
  return copysign(y, x);
}

}  // namespace detail

/// e^x. Float 1.055 ULP at -38.41, double 0.978 ULP at 416.99.
template <class V, class T = typename V::Scalar>
BPTT_INLINE V exp(V x) {
  using C = detail::ExpConstants<T>;
  const V low = select_less(x, V(C::kMin), V(C::kMin), x);  // NaN passes both
  const V bounded = select_less(V(C::kMax), low, V(C::kMax), low);
  V n, p;
  detail::exp_parts(bounded, n, p);
  return ldexp(V(T(1)) + p, n);
}

/// 1 / (1 + e^-x). Beyond kSigmoidEnd 1, or less than any normal number.
/// Float 2.470 ULP at -16.64, with tables 3.079 ULP at -16.66; double 2.342 ULP at -36.74.
template <class V, class T = typename V::Scalar>
BPTT_INLINE V sigmoid(V x) {
  const V end(detail::ExpConstants<T>::kSigmoidEnd), one(T(1));
  return one / (one + detail::exp_minus(at_least(at_most(x, end), V(T(0)) - end)));
}

/// log(sigmoid(x)) = min(x, 0) - log(1 + e^-|x|), where log(1 + t) = 2 atanh(s), s = t / (2 + t).
/// Float 2.746 ULP at 2.017, double 2.687 ULP at 4.849; of v2 and v3, v4 not measured.
template <class V, class T = typename V::Scalar>
BPTT_INLINE V logsigmoid(V x) {
  using C = detail::ExpConstants<T>;
  const V t = detail::exp_minus(at_most(abs(x), V(C::kSigmoidEnd)));
  const V s = t / (t + V(T(2))), y = s * s;
  constexpr int degree = sizeof(C::kAtanh) / sizeof(T) - 1;
  V p(C::kAtanh[degree]);
  for (int i = degree - 1; i >= 0; --i) p = fma(p, y, V(C::kAtanh[i]));
  return at_most(x, V(T(0))) - fma(s * y, p, s + s);
}

/// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; e^-2|x| - 1 keeps its digits near zero.
/// Float 2.496 ULP at -4.506, with tables 0.997 ULP at -0.0618; double 2.530 ULP at 0.2178.
template <class V, class T = typename V::Scalar>
BPTT_INLINE V tanh(V x) {
  if constexpr (detail::kTables && sizeof(T) == 4) {
    return detail::tanh_by_pieces(x);
  } else {
    using C = detail::ExpConstants<T>;
    const V magnitude = abs(x), limit(C::kTanhOne);
    V n, p;
    detail::exp_parts(select_less(limit, magnitude, limit, magnitude) * V(T(-2)), n, p);
    const V scale = exp2_integer(n);
    const V e = fma(scale, p, scale - V(T(1)));  // e^-2|x| - 1
    return copysign(e / (e + V(T(2))), x);
  }
}

/// max(x, 0); NaN stays NaN.
template <class V, class T = typename V::Scalar>
BPTT_INLINE V relu(V x) {
  return select_less(x, V(T(0)), V(T(0)), x);
}

/// 1 where x > 0, else 0: the derivative of relu.
template <class V, class T = typename V::Scalar>
BPTT_INLINE V heaviside(V x) {
  return select_less(V(T(0)), x, V(T(1)), V(T(0)));
}

}  // namespace bptt
