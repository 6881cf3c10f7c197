// SPDX-License-Identifier: Apache-2.0
// What ModeRows and ModePanels do with the 16 lanes of a register: bfloat16, and the scales of kWinograd. AVX-512 only.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/simd/vec.h"

#if defined(__AVX512F__) && defined(__GNUC__)

namespace bptt::lanes {

constexpr Index kLanes = 16;
using Lanes = Vec<float>;

/// One value in all lanes. VPBROADCASTD leaves the pipes of floating point free, which VBROADCASTSS does not (Zen 4).
BPTT_INLINE Lanes broadcast(const float* p) {
  Lanes v;
  asm("vpbroadcastd %1, %0" : "=v"(v.v) : "m"(*p));
  return v;
}

/// acc + the products of the pairs of bfloat16 in each lane. No flag of the compiler allows it at this level, and GCC
/// 12 copies accumulators around the intrinsic.
BPTT_INLINE void add_pairs(Lanes& acc, const Lanes& a, const Lanes& b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
}

/// Lanes rounded to bfloat16, to 16 places.
BPTT_INLINE void store_bfloat16(std::uint16_t* to, const Lanes& x) {
  __m256i narrow;
  asm("vcvtneps2bf16 %1, %0" : "=v"(narrow) : "v"(x.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow);
}

/// Two values of each lane, rounded to bfloat16, in 32 bits: the first one below.
BPTT_INLINE Lanes bfloat16_pairs(const Lanes& first, const Lanes& second) {
  __m256i low, high;
  asm("vcvtneps2bf16 %1, %0" : "=v"(low) : "v"(first.v));
  asm("vcvtneps2bf16 %1, %0" : "=v"(high) : "v"(second.v));
  constexpr __mmask16 all = __mmask16(-1);  // masked, since GCC 12 warns of its own plain intrinsics
  const __m512i upper = _mm512_maskz_slli_epi32(all, _mm512_maskz_cvtepu16_epi32(all, high), 16);
  return Lanes(_mm512_castsi512_ps(_mm512_or_si512(upper, _mm512_maskz_cvtepu16_epi32(all, low))));
}

// The bits of a magnitude order as the magnitudes do, NaN last; those of its exponent alone are the power of two below.
constexpr std::uint32_t kInfinity = 0x7f800000u, kMagnitude = 0x7fffffffu;
constexpr std::uint32_t kLeastScale = (127u - 100u) << 23, kLargestScale = (127u + 100u) << 23;

BPTT_INLINE float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

BPTT_INLINE __m512i in_all(std::uint32_t bits) { return _mm512_set1_epi32(int(bits)); }

/// In each lane the larger magnitude, as bits.
BPTT_INLINE __m512i larger_bits(__m512i most, const Lanes& x) {
  const __m512i size = _mm512_and_si512(_mm512_castps_si512(x.v), in_all(kMagnitude));
  return _mm512_mask_max_epu32(most, __mmask16(-1), most, size);
}

/// In each lane the largest magnitude of n values and of `most`, as bits.
BPTT_INLINE __m512i largest_bits(const float* a, Index n, __m512i most) {
  for (; n >= kLanes; a += kLanes, n -= kLanes) most = larger_bits(most, Lanes::load(a));
  return n > 0 ? larger_bits(most, Lanes::load(a, n)) : most;
}

/// The largest of all lanes.
BPTT_INLINE std::uint32_t largest_lane(__m512i x) {
  const auto larger = [&](__m512i y) { x = _mm512_mask_max_epu32(x, __mmask16(-1), x, y); };
  constexpr __mmask16 all = __mmask16(-1);  // masked, since GCC 12 warns of its own plain intrinsics
  larger(_mm512_maskz_shuffle_i32x4(all, x, x, 0x4e));
  larger(_mm512_maskz_shuffle_i32x4(all, x, x, 0xb1));
  larger(_mm512_maskz_shuffle_epi32(all, x, _MM_PERM_BADC));
  larger(_mm512_maskz_shuffle_epi32(all, x, _MM_PERM_CDAB));
  const float first = _mm512_cvtss_f32(_mm512_castsi512_ps(x));
  std::uint32_t bits;
  std::memcpy(&bits, &first, sizeof bits);
  return bits;
}

/// The lanes whose values have no scale, by their largest magnitude.
BPTT_INLINE __mmask16 has_no_scale(__m512i most) {
  const __mmask16 some = _mm512_cmpneq_epu32_mask(most, in_all(0));
  const __mmask16 small = _mm512_cmplt_epu32_mask(most, in_all(kLeastScale));
  const __mmask16 large = _mm512_cmpge_epu32_mask(most, in_all(kLargestScale));
  return __mmask16((some & small) | large);
}

/// What values are multiplied by, by their largest magnitude: 1 over the power of two below it. Where they have no
/// scale they are brought nearer to 1 if that is possible, so that products with values that have one stay finite.
BPTT_INLINE Lanes inverse_scale(__m512i most) {
  const auto choose = [](__mmask16 where, std::uint32_t bits, __m512i otherwise) {
    return _mm512_mask_blend_epi32(where, otherwise, in_all(bits));
  };
  constexpr std::uint32_t kOne = 127u << 23, k64 = 64u << 23;
  const __m512i power = _mm512_and_si512(most, in_all(kInfinity));
  __m512i inverse = _mm512_sub_epi32(in_all(2 * kOne), power);
  inverse = choose(_mm512_cmplt_epu32_mask(most, in_all(kLeastScale)), kOne + k64, inverse);
  inverse = choose(_mm512_cmpge_epu32_mask(most, in_all(kLargestScale)), kOne - k64, inverse);
  inverse = choose(_mm512_cmpge_epu32_mask(most, in_all(kInfinity)), kOne, inverse);
  return Lanes(_mm512_castsi512_ps(choose(_mm512_cmpeq_epu32_mask(most, in_all(0)), kOne, inverse)));
}

/// A row's scale: the power of two below its largest magnitude, or what inverse_scale chooses where it has none.
struct Scale {
  float value, inverse;
  bool none;
};

/// Of the magnitudes in all lanes.
BPTT_INLINE Scale row_scale(__m512i lanes) {
  const std::uint32_t most = largest_lane(lanes), power = most & kInfinity;
  if (kLeastScale <= most && most < kLargestScale) return {as_float(power), as_float((254u << 23) - power), false};
  const float inverse = _mm512_cvtss_f32(inverse_scale(in_all(most)).v);
  return {most == 0 ? 0.0f : 1 / inverse, inverse, has_no_scale(in_all(most)) != 0};
}

/// What sums of columns are multiplied by, 1 over inverse_scale; 0 where all values are 0, so that their products are
/// 0: sums of 0 and the other operand leave its rounding.
BPTT_INLINE Lanes scale_of(__m512i most, const Lanes& inverse) {
  return Lanes(_mm512_maskz_mov_ps(_mm512_cmpneq_epu32_mask(most, in_all(0)), (Lanes(1.0f) / inverse).v));
}

}  // namespace bptt::lanes

#endif
