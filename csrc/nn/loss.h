// SPDX-License-Identifier: Apache-2.0
// Losses of rows and their gradients in one pass: scale times the sum over the rows that `mask` keeps (null: all).
// Masked rows are not read; their gradient is zero. The sum runs over rows in order, in double. Each function returns
// false where it was called off.
#pragma once

#include <cassert>
#include <cmath>

#include "core/memory/arena.h"
#include "core/simd/math.h"
#include "core/threads/parallel.h"

namespace bptt::nn {

namespace detail {

/// -log softmax(z)[target] and scale * (softmax(z) - onehot(target)) of one row of C logits.
template <class T>
double cross_entropy_row(T* dz, const T* z, Index target, Index C, T scale) {
  constexpr int W = Vec<T>::kSize;
  assert(0 <= target && target < C);
  const T top = *std::max_element(z, z + C);
  Vec<T> sum(T(0));
  for (Index j = 0; j < C; j += W) {
    const Index n = std::min<Index>(W, C - j);
    const Vec<T> e = exp(Vec<T>::load(z + j, n) - Vec<T>(top));
    e.store(dz + j, n);
    if (n == W)
      sum = sum + e;
    else
      sum = sum + Vec<T>::load(dz + j, n);  // the lanes beyond the row count nothing
  }
  T lanes[W];
  sum.store(lanes);
  double total = 0;
  for (T lane : lanes) total += double(lane);
  const T factor = T(double(scale) / total);
  for (Index j = 0; j < C; ++j) dz[j] *= factor;
  dz[target] -= scale;
  return std::log(total) - (double(z[target]) - double(top));
}

}  // namespace detail

/// loss, and dlogits [N,C] of logits [N,C]; targets [N] within [0,C) where kept.
template <class T>
bool cross_entropy(double* loss, T* dlogits, const T* logits, const std::int64_t* targets, const bool* mask,
                   double scale, Index N, Index C, Poll& poll) {
  Buffer<double> losses(N);
  const double ns = 40 + 1.2 * double(C);  // of a row: C=8 49, C=100 160, C=1000 1150
  const int threads = threads_for(ns * double(N));
  const bool complete = parallel_for(N, grain_of(ns), threads, poll, [&](int, Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      losses[n] = 0;
      if (mask && !mask[n])
        std::fill_n(dlogits + n * C, C, T(0));
      else
        losses[n] = detail::cross_entropy_row(dlogits + n * C, logits + n * C, targets[n], C, T(scale));
    }
  });
  double sum = 0;
  for (Index n = 0; n < N; ++n) sum += losses[n];
  *loss = scale * sum;
  return complete;
}

/// loss, and dprediction [N,F] of prediction and target [N,F].
template <class T>
bool mse(double* loss, T* dprediction, const T* prediction, const T* target, const bool* mask, double scale, Index N,
         Index F, Poll& poll) {
  const T factor = T(2 * scale);
  double sum = 0;
  const bool complete = parallel_for(N, grain_of(double(F)), 1, poll, [&](int, Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      for (Index i = n * F; i < (n + 1) * F; ++i) {
        const T error = !mask || mask[n] ? prediction[i] - target[i] : T(0);
        dprediction[i] = factor * error;
        sum += double(error) * double(error);
      }
    }
  });
  *loss = scale * sum;
  return complete;
}

}  // namespace bptt::nn
