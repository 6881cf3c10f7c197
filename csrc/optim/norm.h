// SPDX-License-Identifier: Apache-2.0
// The Euclidean norm of a flat gradient and what clipping makes of it. Squares are summed in double, in blocks of a
// fixed size, so that the norm has the same bits for any number of threads and float32 cannot overflow.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/gemm.h"
#include "core/threads/pool.h"

namespace bptt::optim {

constexpr Index kBlock = 8192;

/// Threads for a pass over n elements: one below about 20 us.
inline int threads_for(Index n) { return n < 65536 ? 1 : Pool::size().load(); }

namespace detail {

template <class T>
double sum_of_squares(const T* g, Index n, double scale) {
  double lanes[8] = {};
  Index i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int l = 0; l < 8; ++l) lanes[l] += scale * double(g[i + l]) * (scale * double(g[i + l]));
  }
  for (; i < n; ++i) lanes[0] += scale * double(g[i]) * (scale * double(g[i]));
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

template <class T>
double scaled_norm(const T* g, Index n, double scale) {
  const Index blocks = ceil_div(n, kBlock);
  Buffer<double> sums(blocks);
  Pool::instance().run(threads_for(n), [&](int thread, Barrier& barrier) {
    const Share share(blocks, thread, barrier.size());
    for (Index b = share.begin; b < share.end; ++b) {
      sums[b] = sum_of_squares(g + b * kBlock, std::min(kBlock, n - b * kBlock), scale);
    }
  });
  double total = 0;
  for (Index b = 0; b < blocks; ++b) total += sums[b];
  return std::sqrt(total) / scale;
}

}  // namespace detail

template <class T>
double norm(const T* g, Index n) {
  const double plain = detail::scaled_norm(g, n, 1.0);
  if (std::isfinite(plain)) return plain;
  T largest = 0;
  for (Index i = 0; i < n; ++i) largest = std::max(largest, std::abs(g[i]));
  return std::isfinite(largest) && !std::isnan(plain) ? detail::scaled_norm(g, n, 1.0 / double(largest)) : plain;
}

/// Scaling by the global norm first, then each element into [-value, value]; infinity switches either off.
template <class T>
struct Clip {
  double norm;  // before clipping
  T scale = 1, value;
  bool clipped;

  Clip(const T* g, Index n, double clip_norm, double clip_value) : norm(optim::norm(g, n)), value(T(clip_value)) {
    clipped = norm > clip_norm;
    if (clipped) scale = T(clip_norm / norm);
    if (std::isfinite(clip_value)) {
      for (Index i = 0; i < n && !clipped; ++i) clipped = std::abs(g[i]) * scale > value;
    }
  }
  T operator()(T g) const { return std::min(std::max(g * scale, -value), value); }
};

}  // namespace bptt::optim
