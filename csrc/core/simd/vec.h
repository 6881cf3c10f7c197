// SPDX-License-Identifier: Apache-2.0
// Vec<T>: one SIMD register of float or double, as wide as the instruction set this file is compiled for. Arithmetic is
// Eigen's packet arithmetic; what Eigen lacks (part of a register in memory, exponent bits) is written here per
// instruction set, with a scalar fallback, so that every other file is one text for all of them.
#pragma once

#include <Eigen/Core>
#include <cassert>
#include <cstdint>
#include <cstring>

#include "core/inline.h"
#include "core/memory/sizes.h"

namespace bptt {

/// The cache line at p, soon to be used; p may be anywhere.
template <class T>
BPTT_INLINE void prefetch([[maybe_unused]] const T* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#endif
}

template <class T>
struct Vec {
  using Scalar = T;
  using Packet = typename Eigen::internal::packet_traits<T>::type;
  static constexpr int kSize = Eigen::internal::unpacket_traits<Packet>::size;

  Packet v;

  Vec() = default;
  BPTT_INLINE explicit Vec(Packet p) : v(p) {}
  BPTT_INLINE Vec(T x) : v(Eigen::internal::pset1<Packet>(x)) {}  // implicit: cells write 1 - z

  static BPTT_INLINE Vec load(const T* p) { return Vec(Eigen::internal::ploadu<Packet>(p)); }
  static BPTT_INLINE Vec load(const T* p, Index n);  // lanes 0..n-1; the others are zero and not touched in memory
  BPTT_INLINE void store(T* p) const { Eigen::internal::pstoreu(p, v); }
  BPTT_INLINE void store(T* p, Index n) const;
  BPTT_INLINE T sum() const;  // of all lanes: halves added to halves

  friend BPTT_INLINE Vec operator+(Vec a, Vec b) { return Vec(Eigen::internal::padd(a.v, b.v)); }
  friend BPTT_INLINE Vec operator-(Vec a, Vec b) { return Vec(Eigen::internal::psub(a.v, b.v)); }
  friend BPTT_INLINE Vec operator*(Vec a, Vec b) { return Vec(Eigen::internal::pmul(a.v, b.v)); }
  friend BPTT_INLINE Vec operator/(Vec a, Vec b) { return Vec(Eigen::internal::pdiv(a.v, b.v)); }
};

/// a*b + c: one rounding where the machine has FMA (v3, v4, NEON), two on v2.
template <class T>
BPTT_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return Vec<T>(Eigen::internal::pmadd(a.v, b.v, c.v));
}

template <class T>
BPTT_INLINE Vec<T> abs(Vec<T> a) {
  return Vec<T>(Eigen::internal::pabs(a.v));
}

/// a where x < y, else b; a NaN in x or y chooses b.
template <class T>
BPTT_INLINE Vec<T> select_less(Vec<T> x, Vec<T> y, Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)  // Eigen 3.4 passes the mask through a vector register: 3 instructions more
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v));
  else
    return Vec<T>(_mm512_mask_blend_pd(_mm512_cmp_pd_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v));
#else
  return Vec<T>(Eigen::internal::pselect(Eigen::internal::pcmp_lt(x.v, y.v), a.v, b.v));
#endif
}

/// The lesser, the larger of x and a limit; a NaN stays.
template <class T>
BPTT_INLINE Vec<T> at_most(Vec<T> x, Vec<T> limit) {
#if defined(__AVX512F__)  // masked, since GCC 12 warns of its own plain intrinsic
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_maskz_min_ps(__mmask16(-1), limit.v, x.v));
  else
    return Vec<T>(_mm512_maskz_min_pd(__mmask8(-1), limit.v, x.v));
#else
  return Vec<T>(Eigen::internal::pmin(x.v, limit.v));
#endif
}

template <class T>
BPTT_INLINE Vec<T> at_least(Vec<T> x, Vec<T> limit) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_maskz_max_ps(__mmask16(-1), limit.v, x.v));
  else
    return Vec<T>(_mm512_maskz_max_pd(__mmask8(-1), limit.v, x.v));
#else
  return Vec<T>(Eigen::internal::pmax(x.v, limit.v));
#endif
}

/// x, at least -limit and at most limit >= 0.
template <class T>
BPTT_INLINE Vec<T> clamp(Vec<T> x, Vec<T> limit) {
  return at_least(at_most(x, limit), Vec<T>(T(0)) - limit);
}

/// |a| with the sign bit of s.
template <class T>
BPTT_INLINE Vec<T> copysign(Vec<T> a, Vec<T> s) {
  const Vec<T> sign(T(-0.0));
  using namespace Eigen::internal;
  return Vec<T>(por(pandnot(a.v, sign.v), pand(s.v, sign.v)));
}

/// Makes the compiler hold `a` in a register from here on, where it would load it again for each use.
template <class T>
BPTT_INLINE void hold([[maybe_unused]] Vec<T>& a) {
#if defined(__GNUC__) && defined(__AVX512F__)
  asm("" : "+v"(a.v));
#elif defined(__GNUC__) && defined(__SSE2__)
  asm("" : "+x"(a.v));
#endif
}

// ---- Part of a register -------------------------------------------------------------------------------------------

#if defined(__AVX2__) && !defined(__AVX512F__)
namespace detail {
alignas(64) inline constexpr std::int32_t kFirstLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};  // then zeros
}
#endif

template <class T>
BPTT_INLINE Vec<T> Vec<T>::load(const T* p, Index n) {
  assert(0 <= n && n <= kSize);
  if (n == kSize) return load(p);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec(Packet(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p)));
  else
    return Vec(Packet(_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p)));
#elif defined(__AVX2__)  // copied through memory, a register waits until the stores of its parts are done
  const __m256i* mask = reinterpret_cast<const __m256i*>(detail::kFirstLanes + (kSize - n) * Index(sizeof(T) / 4));
  if constexpr (sizeof(T) == 4)
    return Vec(Packet(_mm256_maskload_ps(p, _mm256_loadu_si256(mask))));
  else
    return Vec(Packet(_mm256_maskload_pd(p, _mm256_loadu_si256(mask))));
#else
  alignas(64) T lanes[kSize] = {};
  std::memcpy(lanes, p, size_t(n) * sizeof(T));
  return load(lanes);
#endif
}

template <class T>
BPTT_INLINE void Vec<T>::store(T* p, Index n) const {
  assert(0 <= n && n <= kSize);
  if (n == kSize) return store(p);  // what a masked store wrote reaches the next load later
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), v);
  else
    _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), v);
#elif defined(__AVX2__)  // masked stores take AMD's Zen 2 and 3 some 12 cycles
  if constexpr (sizeof(T) == 4) {
    __m128 rest = _mm256_castps256_ps128(v);
    if (n & 4) {
      _mm_storeu_ps(p, rest);
      rest = _mm256_extractf128_ps(v, 1);
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p + (n & 4)), rest);
      rest = _mm_movehl_ps(rest, rest);
    }
    if (n & 1) _mm_store_ss(p + (n & 6), rest);
  } else {
    if (n & 2) _mm_storeu_pd(p, _mm256_castpd256_pd128(v));
    if (n & 1) _mm_store_sd(p + (n & 2), n & 2 ? _mm256_extractf128_pd(v, 1) : _mm256_castpd256_pd128(v));
  }
#else
  alignas(64) T lanes[kSize];
  store(lanes);
  std::memcpy(p, lanes, size_t(n) * sizeof(T));
#endif
}

/// The first n lanes; the others become zero.
template <class T>
BPTT_INLINE Vec<T> first_lanes(Vec<T> x, Index n) {
  if (n >= Vec<T>::kSize) return x;
  alignas(64) T values[Vec<T>::kSize];
  x.store(values);
  return Vec<T>::load(values, n);
}

template <class T>
BPTT_INLINE T Vec<T>::sum() const {
#if defined(__AVX512F__)  // Eigen's own predux makes GCC 12 warn of an intrinsic
  alignas(64) T lanes[kSize];
  store(lanes);
  if constexpr (sizeof(T) == 4)
    return Eigen::internal::predux(_mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 8)));
  else
    return Eigen::internal::predux(_mm256_add_pd(_mm256_load_pd(lanes), _mm256_load_pd(lanes + 4)));
#else
  return Eigen::internal::predux(v);
#endif
}

// ---- Exponent bits ------------------------------------------------------------------------------------------------

namespace detail {

template <class T>
struct FloatBits;
template <>
struct FloatBits<float> {
  using Int = std::uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kMagic = 12582912.0f + 127.0f;  // 1.5 * 2^23 + bias: the sum's low bits are n + bias
};
template <>
struct FloatBits<double> {
  using Int = std::uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kMagic = 6755399441055744.0 + 1023.0;
};

/// The low bits of each lane moved into the exponent field.
template <class T>
BPTT_INLINE Vec<T> shift_to_exponent(Vec<T> a) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(__mmask16(-1), _mm512_castps_si512(a.v), 23)));
  else
    return Vec<T>(_mm512_castsi512_pd(_mm512_maskz_slli_epi64(__mmask8(-1), _mm512_castpd_si512(a.v), 52)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.v), 23)));
  else
    return Vec<T>(_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a.v), 52)));
#else
  using Bits = FloatBits<T>;
  T lanes[Vec<T>::kSize];
  typename Bits::Int bits[Vec<T>::kSize];
  a.store(lanes);
  std::memcpy(bits, lanes, sizeof lanes);
  for (auto& b : bits) b <<= Bits::kMantissa;
  std::memcpy(lanes, bits, sizeof lanes);
  return Vec<T>::load(lanes);
#endif
}

}  // namespace detail

/// 2^n for integer-valued n within the range of normal numbers.
template <class T>
BPTT_INLINE Vec<T> exp2_integer(Vec<T> n) {
  return detail::shift_to_exponent(n + Vec<T>(detail::FloatBits<T>::kMagic));
}

/// x rounded to the nearest integer; |x| < 2^22 (float), 2^51 (double).
template <class T>
BPTT_INLINE Vec<T> round_small(Vec<T> x) {
  const Vec<T> magic(T(sizeof(T) == 4 ? 12582912.0 : 6755399441055744.0));
  return (x + magic) - magic;
}

/// a * 2^n for integer-valued n, into subnormals and infinity with one rounding.
template <class T>
BPTT_INLINE Vec<T> ldexp(Vec<T> a, Vec<T> n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_maskz_scalef_ps(__mmask16(-1), a.v, n.v));
  else
    return Vec<T>(_mm512_maskz_scalef_pd(__mmask8(-1), a.v, n.v));
#else
  const Vec<T> half = round_small(n * Vec<T>(T(0.5)));
  return (a * exp2_integer(half)) * exp2_integer(n - half);
#endif
}

// ---- Tables in registers ------------------------------------------------------------------------------------------

#if defined(__AVX512F__)
/// Entry i mod 16 of a table, i the low bits of each lane.
BPTT_INLINE Vec<float> lookup(const float (&table)[16], Vec<float> i) {
  return Vec<float>(_mm512_maskz_permutexvar_ps(__mmask16(-1), _mm512_castps_si512(i.v), _mm512_load_ps(table)));
}

/// Entry i mod 32.
BPTT_INLINE Vec<float> lookup(const float (&table)[32], Vec<float> i) {
  return Vec<float>(
      _mm512_permutex2var_ps(_mm512_load_ps(table), _mm512_castps_si512(i.v), _mm512_load_ps(table + 16)));
}

/// The exponent of x >= 0 and its two highest bits of mantissa as an integer, at least those of 1/16.
BPTT_INLINE Vec<float> piece(Vec<float> x) {
  const __mmask16 all(-1);
  const __m512i bits = _mm512_maskz_srli_epi32(all, _mm512_castps_si512(x.v), 21);
  return Vec<float>(_mm512_castsi512_ps(_mm512_maskz_max_epi32(all, bits, _mm512_set1_epi32(0x3d800000 >> 21))));
}
#endif

}  // namespace bptt
