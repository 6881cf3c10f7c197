// SPDX-License-Identifier: Apache-2.0
// Two measures of a flat array [n]: its Euclidean norm and its largest magnitude. Both have the same bits for any
// number of threads: squares are summed in double, in blocks of a fixed size. Subnormal numbers count as zero, as in
// every job of the pool.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/memory/arena.h"
#include "core/memory/sizes.h"
#include "core/threads/pool.h"
#include "core/threads/share.h"
#include "core/threads/work.h"

namespace bptt::optim {

constexpr Index kBlock = 8192;

/// Threads for a pass over n elements. The whole step counts, 0.4 (SGD) to 0.8 ns (Adam) an element: its passes follow
/// each other while the workers spin.
inline int threads_for_pass(Index n) { return threads_for(0.6 * double(n)); }

namespace detail {

template <class T, class F>
double sum_of_squares(const T* g, Index n, double scale, const F& of) {
  const auto square = [&](T x) { return scale * of(x) * (scale * of(x)); };
  double lanes[8] = {};
  Index i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int l = 0; l < 8; ++l) lanes[l] += square(g[i + l]);
  }
  for (; i < n; ++i) lanes[0] += square(g[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/// The sum over i of (scale of(g[i]))^2.
template <class T, class F>
double scaled_sum(const T* g, Index n, double scale, const F& of) {
  const Index blocks = ceil_div(n, kBlock);
  Buffer<double> sums(blocks);
  Pool::instance().run(threads_for_pass(n), [&](int thread, Barrier& barrier) {
    const Share share(blocks, thread, barrier.size());
    for (Index b = share.end - 1; b >= share.begin; --b) {  // the update begins with what was read last
      sums[b] = sum_of_squares(g + b * kBlock, std::min(kBlock, n - b * kBlock), scale, of);
    }
  });
  double total = 0;
  for (Index b = 0; b < blocks; ++b) total += sums[b];
  return total;
}

}  // namespace detail

/// The norm of of(g[i]) over i, where `of` gives a double. Infinite only where an element or the norm itself is beyond
/// double. A second pass is needed where squares leave the range of double; it scales by a power of two that brings the
/// largest possible and the smallest normal squares into it.
template <class T, class F>
double norm(const T* g, Index n, const F& of) {
  const double sum = detail::scaled_sum(g, n, 1.0, of);
  if (sum >= 0x1p-900 && std::isfinite(sum)) return std::sqrt(sum);
  const double scale = sum < 1 ? 0x1p600 : 0x1p-600;
  return std::sqrt(detail::scaled_sum(g, n, scale, of)) / scale;
}
template <class T>
double norm(const T* g, Index n) {
  return norm(g, n, [](T x) { return double(x); });
}

/// The bits of |x|, which order as |x| does; NaN comes above infinity. As integers, since compilers vectorize the
/// maximum of integers only.
template <class T>
using Magnitude = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

template <class T>
Magnitude<T> magnitude(T x) {
  Magnitude<T> bits;
  std::memcpy(&bits, &x, sizeof x);
  return bits & std::numeric_limits<Magnitude<T>>::max();
}

template <class T>
bool is_finite(Magnitude<T> m) {
  return m < magnitude(std::numeric_limits<T>::infinity());
}

/// The largest of f(begin, end) over [0, n) by threads, in whole cache lines.
template <class T, class F>
Magnitude<T> largest_over(Index n, F&& f) {
  const Index lines = ceil_div(n, 16);
  std::vector<Magnitude<T>> largest(std::size_t(threads_for_pass(n)), 0);
  Pool::instance().run(int(largest.size()), [&](int thread, Barrier& barrier) {
    const Share share(lines, thread, barrier.size());
    largest[std::size_t(thread)] = f(share.begin * 16, std::min(n, share.end * 16));
  });
  return *std::max_element(largest.begin(), largest.end());
}

template <class T>
Magnitude<T> largest_magnitude(const T* x, Index n) {
  return largest_over<T>(n, [x](Index begin, Index end) {
    Magnitude<T> largest = 0;
    for (Index i = begin; i < end; ++i) largest = std::max(largest, magnitude(x[i]));
    return largest;
  });
}

}  // namespace bptt::optim
