// SPDX-License-Identifier: Apache-2.0
// The micro-kernels of narrow weights (narrow.h): a tile of R rows x N registers of sums. What differs by level is
// here: sums of products of bytes, and bfloat16 made float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/gemm/mode.h"
#include "core/gemm/tile_shape.h"
#include "core/simd/vec.h"

namespace bptt::narrow {

constexpr Index kLanes = Vec<float>::kSize;
using Lanes = Vec<float>;

/// Most rows of a tile; of one row, two groups of sums are side by side, so that chains of FMAs do not wait.
constexpr int kRows = kRegisters >= 32 ? 4 : 2;

/// Columns from one register of a group of `group` on: from one step's words to the next are group * W.
struct Panel {
  const std::uint32_t* words;
  Index K, steps;
  int group;
  const float* scale;         // [n][W]
  const std::int32_t* start;  // [n][W]
};

// Of each level: a register of 32-bit integers, and
//   store_bytes   four registers of floats, rounded to nearest even, as bytes
//   add_products  adds to each 32-bit sum the products of its four bytes of magnitudes and of w ^ signs

#if defined(__AVX512BW__)

using Register = __m512i;
BPTT_INLINE Register load(const void* p) { return _mm512_loadu_si512(p); }
BPTT_INLINE Register repeat(std::int32_t x) { return _mm512_set1_epi32(x); }
BPTT_INLINE Register add(Register a, Register b) { return _mm512_add_epi32(a, b); }
// Masked, since GCC 12 warns of its own plain intrinsics.
BPTT_INLINE Lanes to_floats(Register x) { return Lanes(_mm512_maskz_cvtepi32_ps(__mmask16(-1), x)); }
BPTT_INLINE Lanes low_halves(Register x) {
  return Lanes(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(__mmask16(-1), x, 16)));
}
BPTT_INLINE Lanes high_halves(Register x) {
  return Lanes(_mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xffff0000u)))));
}

BPTT_INLINE void store_bytes(std::int8_t* to, const Lanes (&x)[4]) {
  constexpr __mmask16 all = __mmask16(-1);
  for (int i = 0; i < 4; ++i) {
    const __m128i bytes = _mm512_maskz_cvtepi32_epi8(all, _mm512_maskz_cvtps_epi32(all, x[i].v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * i), bytes);
  }
}
BPTT_INLINE void add_products(Register& sum, Register magnitudes, Register signs, const std::uint32_t* w) {
  const Register turned = _mm512_xor_si512(load(w), signs);
  const Register pairs = _mm512_maskz_maddubs_epi16(__mmask32(-1), magnitudes, turned);
  sum = _mm512_add_epi32(sum, _mm512_maskz_madd_epi16(__mmask16(-1), pairs, _mm512_set1_epi16(1)));
}

#elif defined(__AVX2__)

using Register = __m256i;
BPTT_INLINE Register load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
BPTT_INLINE Register repeat(std::int32_t x) { return _mm256_set1_epi32(x); }
BPTT_INLINE Register add(Register a, Register b) { return _mm256_add_epi32(a, b); }
BPTT_INLINE Lanes to_floats(Register x) { return Lanes(_mm256_cvtepi32_ps(x)); }
BPTT_INLINE Lanes low_halves(Register x) { return Lanes(_mm256_castsi256_ps(_mm256_slli_epi32(x, 16))); }
BPTT_INLINE Lanes high_halves(Register x) {
  return Lanes(_mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000u)))));
}

BPTT_INLINE void store_bytes(std::int8_t* to, const Lanes (&x)[4]) {
  const Register low = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0].v), _mm256_cvtps_epi32(x[1].v));
  const Register high = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2].v), _mm256_cvtps_epi32(x[3].v));
  const Register order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const Register bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<Register*>(to), bytes);
}
BPTT_INLINE void add_products(Register& sum, Register magnitudes, Register signs, const std::uint32_t* w) {
  const Register pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(load(w), signs));
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#elif defined(__SSE4_1__)

using Register = __m128i;
BPTT_INLINE Register load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
BPTT_INLINE Register repeat(std::int32_t x) { return _mm_set1_epi32(x); }
BPTT_INLINE Register add(Register a, Register b) { return _mm_add_epi32(a, b); }
BPTT_INLINE Lanes to_floats(Register x) { return Lanes(_mm_cvtepi32_ps(x)); }
BPTT_INLINE Lanes low_halves(Register x) { return Lanes(_mm_castsi128_ps(_mm_slli_epi32(x, 16))); }
BPTT_INLINE Lanes high_halves(Register x) {
  return Lanes(_mm_castsi128_ps(_mm_and_si128(x, _mm_set1_epi32(int(0xffff0000u)))));
}

BPTT_INLINE void store_bytes(std::int8_t* to, const Lanes (&x)[4]) {
  const Register low = _mm_packs_epi32(_mm_cvtps_epi32(x[0].v), _mm_cvtps_epi32(x[1].v));
  const Register high = _mm_packs_epi32(_mm_cvtps_epi32(x[2].v), _mm_cvtps_epi32(x[3].v));
  _mm_storeu_si128(reinterpret_cast<Register*>(to), _mm_packs_epi16(low, high));
}
BPTT_INLINE void add_products(Register& sum, Register magnitudes, Register signs, const std::uint32_t* w) {
  const Register pairs = _mm_maddubs_epi16(magnitudes, _mm_xor_si128(load(w), signs));
  sum = _mm_add_epi32(sum, _mm_madd_epi16(pairs, _mm_set1_epi16(1)));
}

#else

struct Register {
  std::int32_t lane[kLanes];
};
BPTT_INLINE Register load(const void* p) {
  Register x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
BPTT_INLINE Register repeat(std::int32_t x) {
  Register made;
  for (std::int32_t& each : made.lane) each = x;
  return made;
}
BPTT_INLINE Lanes to_floats(const Register& x) {
  float lane[kLanes];
  for (Index i = 0; i < kLanes; ++i) lane[i] = float(x.lane[i]);
  return Lanes::load(lane);
}
template <class F>
BPTT_INLINE Lanes of_bits(const Register& x, const F& f) {
  float lane[kLanes];
  for (Index i = 0; i < kLanes; ++i) {
    const std::uint32_t bits = f(std::uint32_t(x.lane[i]));
    std::memcpy(lane + i, &bits, sizeof bits);
  }
  return Lanes::load(lane);
}
BPTT_INLINE Lanes low_halves(const Register& x) {
  return of_bits(x, [](std::uint32_t bits) { return bits << 16; });
}
BPTT_INLINE Lanes high_halves(const Register& x) {
  return of_bits(x, [](std::uint32_t bits) { return bits & 0xffff0000u; });
}

BPTT_INLINE Register add(const Register& a, const Register& b) {
  Register sum;
  for (Index i = 0; i < kLanes; ++i) sum.lane[i] = a.lane[i] + b.lane[i];
  return sum;
}
BPTT_INLINE void store_bytes(std::int8_t* to, const Lanes (&x)[4]) {
  for (int i = 0; i < 4; ++i) {
    float lanes[kLanes];
    round_small(x[i]).store(lanes);
    for (Index l = 0; l < kLanes; ++l) to[i * kLanes + l] = std::int8_t(lanes[l]);
  }
}
BPTT_INLINE void add_products(Register& sum, const Register& magnitudes, const Register& signs,
                              const std::uint32_t* w) {
  for (Index i = 0; i < kLanes; ++i) {
    std::uint8_t magnitude[4];
    std::int8_t sign[4], weight[4];
    std::memcpy(magnitude, magnitudes.lane + i, 4), std::memcpy(sign, signs.lane + i, 4), std::memcpy(weight, w + i, 4);
    for (int j = 0; j < 4; ++j) sum.lane[i] += magnitude[j] * (weight[j] ^ sign[j]);
  }
}

#endif

/// As `hold` of vec.h: without it GCC 12 keeps sums in memory.
BPTT_INLINE void hold_sums([[maybe_unused]] Register& x) {
#if defined(__GNUC__) && defined(__AVX512BW__)
  asm("" : "+v"(x));
#elif defined(__GNUC__) && defined(__SSE4_1__)
  asm("" : "+x"(x));
#endif
}

/// A step's four bytes of a row, for all lanes, by instructions that every processor of this level has. VPMADDUBSW
/// multiplies a byte without sign by one with sign, and saturates sums of two products. Magnitudes of at most 127 and
/// weights, which are at least -128 after the change of their signs, cannot: 2 * 127 * 128 < 2^15. Of a negative value
/// v, whose sign is all ones, w ^ sign = -w - 1, so that |v| (w ^ sign) = v w - |v|: sums begin with all those |v|.
/// VPSIGNB in the place of the exclusive or is slower, as it needs the pipes of products (Zen 3: 50 of 77 G
/// products/s).
struct Multiply {
  Register magnitudes, signs;
  BPTT_INLINE Multiply(const std::int8_t* magnitude, const std::int8_t* sign)
      : magnitudes(repeat(read(magnitude))), signs(repeat(read(sign))) {}
  static BPTT_INLINE std::int32_t read(const std::int8_t* p) {
    std::int32_t x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  BPTT_INLINE void accumulate(Register& sum, const std::uint32_t* w) const {
    add_products(sum, magnitudes, signs, w);
    hold_sums(sum);
  }
  static BPTT_INLINE Register start(std::int32_t row, const std::int32_t*) { return repeat(row); }
};

#if defined(__AVX512BW__) && defined(__GNUC__)
constexpr bool kHasVnni = true;
/// The same by VPDPBUSD, whose first factor has no sign: values + 128, and sums that begin at -128 * the weights' sum.
struct Vnni {
  Register values;
  BPTT_INLINE Vnni(const std::int8_t* value, const std::int8_t*) : values(repeat(Multiply::read(value))) {}
  // No flag of the compiler allows it at this level, and GCC 12 copies accumulators around the intrinsic.
  BPTT_INLINE void accumulate(Register& sum, const std::uint32_t* w) const {
    const Register weights = load(w);
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(values), "v"(weights));
  }
  static BPTT_INLINE Register start(std::int32_t, const std::int32_t* columns) { return load(columns); }
};
#else
constexpr bool kHasVnni = false;
using Vnni = Multiply;
#endif

/// Rows of bytes (NarrowRows).
struct ByteRows {
  const std::int8_t* bytes;
  Index ld, signs;  // from a row to the next, and to its signs
  const float* scale;
  const std::int32_t* start;
};

/// One step of a tile.
template <class Step, int R, int N>
BPTT_INLINE void int8_step(Register (&acc)[R][N], const std::int8_t* bytes, Index ld, Index signs,
                           const std::uint32_t* words) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Step row(bytes + r * ld, bytes + r * ld + signs);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) row.accumulate(acc[r][n], words + n * kLanes);
  }
}

/// Adds the product of R rows with N registers.
template <class Step, int R, int N>
BPTT_NOINLINE void int8_tile(const ModeSums& to, const ByteRows& a, const Panel& b) {
  Register acc[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[r][n] = Step::start(a.start[r], b.start + n * kLanes);
  }
  const std::int8_t* bytes = a.bytes;
  const std::uint32_t* words = b.words;
  const Index ld = a.ld, signs = a.signs, next = b.group * kLanes;
  Index steps = b.steps;
  if (steps % 2 != 0) {
    int8_step<Step>(acc, bytes, ld, signs, words);
    bytes += 4, words += next, --steps;
  }
  for (; steps > 0; steps -= 2, bytes += 8, words += 2 * next) {
    int8_step<Step>(acc, bytes, ld, signs, words);
    int8_step<Step>(acc, bytes + 4, ld, signs, words + next);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      float* sum = to.to + r * to.row_stride + to.place[n];
      const Lanes product = to_floats(acc[r][n]) * Lanes(a.scale[r]);
      fma(product, Lanes::load(b.scale + n * kLanes), Lanes::load(sum)).store(sum);
    }
  }
}

/// One k of a tile: a half of each word.
template <bool kHigh, int R, int N>
BPTT_INLINE void bfloat16_step(Lanes (&acc)[R][N], const float* a, Index ld, const std::uint32_t* words) {
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Register pair = load(words + n * kLanes);
    Lanes weight = kHigh ? high_halves(pair) : low_halves(pair);
    hold(weight);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][n] = fma(Lanes(a[r * ld]), weight, acc[r][n]);
  }
}

/// Adds the product of R rows of floats, ld apart, with N registers: one chain of FMAs for each sum.
template <int R, int N>
BPTT_NOINLINE void bfloat16_tile(const ModeSums& to, const float* a, Index ld, const Panel& b) {
  Lanes acc[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[r][n] = Lanes::load(to.to + r * to.row_stride + to.place[n]);
  }
  const std::uint32_t* words = b.words;
  const Index next = b.group * kLanes;
  Index k = 0;
  for (; k + 2 <= b.K; k += 2, words += next) {
    bfloat16_step<false>(acc, a + k, ld, words);
    bfloat16_step<true>(acc, a + k + 1, ld, words);
  }
  if (k < b.K) bfloat16_step<false>(acc, a + k, ld, words);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[r][n].store(to.to + r * to.row_stride + to.place[n]);
  }
}

}  // namespace bptt::narrow
