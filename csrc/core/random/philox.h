// SPDX-License-Identifier: Apache-2.0
// Random bits as a function of a counter and a key: Philox4x32 of seven rounds, the least that passes all of BigCrush
// (Salmon et al. 2011, Random123). The same counter gives the same bits, in any order and on any thread, so that a
// mask needs no memory.
#pragma once

#include <cstdint>

#include "core/simd/vec.h"

namespace bptt {

namespace detail {

/// Lanes of 64 bits, of which the products read the low half.
#if defined(__AVX512F__)
struct Lanes {
  static constexpr int kSize = 8;
  __m512i v;
  static Lanes load(const std::uint64_t* p) { return {_mm512_loadu_si512(p)}; }
  static Lanes all(std::uint64_t x) { return {_mm512_set1_epi64(static_cast<long long>(x))}; }
  void store(std::uint64_t* p) const { _mm512_storeu_si512(p, v); }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm512_maskz_mul_epu32(__mmask8(-1), a.v, b.v)}; }
  friend Lanes operator^(Lanes a, Lanes b) { return {_mm512_xor_si512(a.v, b.v)}; }
  Lanes high() const { return {_mm512_maskz_srli_epi64(__mmask8(-1), v, 32)}; }
  Lanes low_to_high() const { return {_mm512_maskz_slli_epi64(__mmask8(-1), v, 32)}; }
  friend Lanes join(Lanes low, Lanes high) {
    return {_mm512_mask_blend_epi32(__mmask16(0xAAAA), low.v, high.low_to_high().v)};
  }
};
#elif defined(__AVX2__)
struct Lanes {
  static constexpr int kSize = 4;
  __m256i v;
  static Lanes load(const std::uint64_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Lanes all(std::uint64_t x) { return {_mm256_set1_epi64x(static_cast<long long>(x))}; }
  void store(std::uint64_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_epu32(a.v, b.v)}; }
  friend Lanes operator^(Lanes a, Lanes b) { return {_mm256_xor_si256(a.v, b.v)}; }
  Lanes high() const { return {_mm256_srli_epi64(v, 32)}; }
  friend Lanes join(Lanes low, Lanes high) { return {_mm256_blend_epi32(low.v, _mm256_slli_epi64(high.v, 32), 0xAA)}; }
};
#else
struct Lanes {
  static constexpr int kSize = 1;
  std::uint64_t v;
  static Lanes load(const std::uint64_t* p) { return {*p}; }
  static Lanes all(std::uint64_t x) { return {x}; }
  void store(std::uint64_t* p) const { *p = v; }
  friend Lanes operator*(Lanes a, Lanes b) { return {(a.v & 0xFFFFFFFFu) * (b.v & 0xFFFFFFFFu)}; }
  friend Lanes operator^(Lanes a, Lanes b) { return {a.v ^ b.v}; }
  Lanes high() const { return {v >> 32}; }
  friend Lanes join(Lanes low, Lanes high) { return {(low.v & 0xFFFFFFFFu) | high.v << 32}; }
};
#endif

}  // namespace detail

/// Separates the streams drawn from one seed: the last word of a counter.
enum Draw : std::uint32_t { kZoneout, kRecurrentDropout, kInputDropout };

struct Philox {
  std::uint32_t key[2] = {0, 0};

  constexpr explicit Philox(std::uint64_t seed = 0) : key{std::uint32_t(seed), std::uint32_t(seed >> 32)} {}

  /// Two words for each of N places from `first`, both even: places 2i and 2i+1 share the counter (i, b, c, d), whose
  /// words 0, 1 are those of the one and 2, 3 those of the other.
  template <int N>
  void operator()(std::uint32_t first, std::uint32_t b, std::uint32_t c, std::uint32_t d, std::uint32_t (&word0)[N],
                  std::uint32_t (&word1)[N]) const {
    static_assert(N % 2 == 0, "places come in pairs");
    using detail::Lanes;
    constexpr int kLanes = Lanes::kSize, kSteps = (N / 2 + kLanes - 1) / kLanes;
    std::uint64_t lanes[kSteps * kLanes], out[2][kSteps * kLanes];
    for (int i = 0; i < kSteps * kLanes; ++i) lanes[i] = first / 2 + std::uint32_t(i);
    for (int s = 0; s < kSteps; ++s) {
      Lanes x0 = Lanes::load(lanes + s * kLanes), x1 = Lanes::all(b), x2 = Lanes::all(c), x3 = Lanes::all(d);
      std::uint32_t k0 = key[0], k1 = key[1];
#pragma GCC unroll 7
      for (int round = 0; round < 7; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const Lanes p = Lanes::all(0xD2511F53u) * x0, q = Lanes::all(0xCD9E8D57u) * x2;
        x0 = q.high() ^ x1 ^ Lanes::all(k0), x2 = p.high() ^ x3 ^ Lanes::all(k1);
        x1 = q, x3 = p;
      }
      join(x0, x2).store(out[0] + s * kLanes);
      join(x1, x3).store(out[1] + s * kLanes);
    }
    std::memcpy(word0, out[0], sizeof word0);
    std::memcpy(word1, out[1], sizeof word1);
  }
};

/// mask[i] = `value` with probability p, else `other`; p is rounded to a multiple of 2^-32.
template <class T, int N>
BPTT_INLINE void choose(const std::uint32_t (&word)[N], double p, T value, T other, T (&mask)[N]) {
  const auto limit = std::uint32_t(p * 4294967296.0);  // p < 1
#pragma GCC unroll 1                                   // otherwise GCC makes branches, which random bits mispredict
  for (int i = 0; i < N; ++i) mask[i] = word[i] < limit ? value : other;
}

}  // namespace bptt
