// SPDX-License-Identifier: Apache-2.0
// Random bits as a function of a counter and a key: Philox4x32-10 (Salmon et al. 2011, Random123). Who asks for the same
// counter gets the same bits, in any order and on any thread, so that a mask needs no memory.
#pragma once

#include <cstdint>

namespace bptt {

struct Philox {
  std::uint32_t key[2] = {0, 0};

  explicit Philox(std::uint64_t seed = 0) : key{std::uint32_t(seed), std::uint32_t(seed >> 32)} {}

  /// The first two words of the counters (first + i, b, c, d), i < N.
  template <int N>
  void operator()(std::uint32_t first, std::uint32_t b, std::uint32_t c, std::uint32_t d, std::uint32_t (&word0)[N],
                  std::uint32_t (&word1)[N]) const {
    std::uint32_t x0[N], x1[N], x2[N], x3[N], k0 = key[0], k1 = key[1];
    for (int i = 0; i < N; ++i) x0[i] = first + std::uint32_t(i), x1[i] = b, x2[i] = c, x3[i] = d;
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      for (int i = 0; i < N; ++i) {
        const std::uint64_t p = std::uint64_t(0xD2511F53u) * x0[i], q = std::uint64_t(0xCD9E8D57u) * x2[i];
        x0[i] = std::uint32_t(q >> 32) ^ x1[i] ^ k0, x2[i] = std::uint32_t(p >> 32) ^ x3[i] ^ k1;
        x1[i] = std::uint32_t(q), x3[i] = std::uint32_t(p);
      }
    }
    for (int i = 0; i < N; ++i) word0[i] = x0[i], word1[i] = x1[i];
  }
};

/// mask[i] = `value` with probability p, else `other`; p is rounded to a multiple of 2^-32.
template <class T, int N>
void choose(const std::uint32_t (&word)[N], double p, T value, T other, T (&mask)[N]) {
  const auto limit = std::uint64_t(p * 4294967296.0);
  for (int i = 0; i < N; ++i) mask[i] = word[i] < limit ? value : other;
}

}  // namespace bptt
