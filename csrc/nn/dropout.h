// SPDX-License-Identifier: Apache-2.0
// Dropout of the elements of an array, each by itself: y = x m / (1 - p), m ~ Bernoulli(1 - p) (Srivastava et al.
// 2014). The masks are a function of the seed and the element's place, so that backward needs the seed alone: dx = dy m
// / (1 - p).
#pragma once

#include <algorithm>

#include "core/random.h"
#include "core/threads.h"
#include "core/vec.h"

namespace bptt::nn {

template <class T>
void dropout(T* y, const T* x, Index n, double p, std::uint64_t seed) {
  constexpr int kHalf = 16, kBlock = 2 * kHalf;
  const Philox random(seed);
  const Index blocks = (n + kBlock - 1) / kBlock;
  Pool::instance().run(n < 65536 ? 1 : Pool::size().load(), [&](int thread, Barrier& barrier) {
    for (Index b = blocks * thread / barrier.size(); b < blocks * (thread + 1) / barrier.size(); ++b) {
      std::uint32_t word[2][kHalf];
      random(0, std::uint32_t(b), std::uint32_t(b >> 32), kElements, word[0], word[1]);
      for (int half = 0; half < 2; ++half) {
        T mask[kHalf];
        choose(word[half], p, T(0), T(1 / (1 - p)), mask);
        const Index begin = b * kBlock + half * kHalf;
        for (Index i = begin; i < std::min(n, begin + kHalf); ++i) y[i] = x[i] * mask[i - begin];
      }
    }
  });
}

}  // namespace bptt::nn
