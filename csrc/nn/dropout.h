// SPDX-License-Identifier: Apache-2.0
// Dropout of the elements of an array, each by itself: y = x m / (1 - p), m ~ Bernoulli(1 - p) (Srivastava et al. 2014).
// The masks are a function of the seed and the element's place, so that backward needs the seed alone: dx = dy m / (1 -
// p).
#pragma once

#include "core/random.h"
#include "core/threads.h"
#include "core/vec.h"

namespace bptt::nn {

template <class T>
void dropout(T* y, const T* x, Index n, double p, std::uint64_t seed) {
  constexpr int kBlock = 16;
  const Philox random(seed);
  Pool::instance().run(n < 65536 ? 1 : Pool::size().load(), [&](int thread, Barrier& barrier) {
    const Index blocks = (n + kBlock - 1) / kBlock;
    for (Index b = blocks * thread / barrier.size(); b < blocks * (thread + 1) / barrier.size(); ++b) {
      std::uint32_t word[kBlock], unused[kBlock];
      T mask[kBlock];
      random(0, std::uint32_t(b), std::uint32_t(b >> 32), 0xD0D0u, word, unused);
      choose(word, p, T(0), T(1 / (1 - p)), mask);
      for (Index i = b * kBlock; i < std::min(n, (b + 1) * kBlock); ++i) y[i] = x[i] * mask[i - b * kBlock];
    }
  });
}

}  // namespace bptt::nn
