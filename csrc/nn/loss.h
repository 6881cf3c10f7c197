// SPDX-License-Identifier: Apache-2.0
// Losses of rows and their gradients in one pass: scale times the sum over the rows that the mask keeps. Masked rows
// are not read; their gradient is zero. The loss of a row and the sum over rows run in order, in double, for any number
// of threads. Each function returns false where it was called off. Where an infinite operand is multiplied by a weight
// of zero, the product is taken as zero.
#pragma once

#include <cassert>
#include <cmath>

#include "core/memory/arena.h"
#include "core/simd/math.h"
#include "core/threads/parallel.h"
#include "nn/nn.h"

namespace bptt::nn {

namespace detail {

/// loss = scale * the sum over the rows that count of row(n, d, z), which writes the gradient d [F] of the n-th row z
/// [F]. ns: of a row.
template <class T, class Row>
bool sum_rows(double* loss, const LossRows<T>& rows, double ns, Poll& poll, const Row& row) {
  Buffer<double> losses(rows.N);
  const int threads = threads_for(ns * double(rows.N));
  const bool complete = parallel_for(rows.N, grain_of(ns), threads, poll, [&](int, Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      T* d = rows.gradient + n * rows.F;
      losses[n] = 0;
      if (rows.mask && !rows.mask[n])
        std::fill_n(d, rows.F, T(0));
      else
        losses[n] = row(n, d, rows.prediction + n * rows.F);
    }
  });
  double sum = 0;
  for (Index n = 0; n < rows.N; ++n) sum += losses[n];
  *loss = rows.scale * sum;
  return complete;
}

/// The same where each value has a target [N,F] and a loss: element(z, target, j, &slope), slope = d loss / d z.
template <class T, class Element>
bool sum_elements(double* loss, const LossRows<T>& rows, const T* target, double ns, Poll& poll,
                  const Element& element) {
  return sum_rows(loss, rows, 4 + ns * double(rows.F), poll, [&](Index n, T* d, const T* z) {
    double sum = 0;
    for (Index j = 0; j < rows.F; ++j) {
      double slope;
      sum += element(double(z[j]), double(target[n * rows.F + j]), j, &slope);
      d[j] = T(rows.scale * slope);
    }
    return sum;
  });
}

/// -sum_j a_j log softmax(z)_j and scale * (sum(a) softmax(z) - a) of one row of C logits. a_j = rest w_j, and (1 -
/// smoothing) w_j more at the target, with rest = smoothing / C and all_rest = the sum of rest w_j.
template <class T>
double cross_entropy_row(T* dz, const T* z, Index target, const LossRows<T>& rows, const ClassWeights& classes,
                         double all_rest) {
  constexpr int W = Vec<T>::kSize;
  const Index C = rows.F;
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
  const double scale = double(T(rows.scale)), own = (1 - classes.smoothing) * classes.of(target);
  const T factor = T(scale * (own + all_rest) / total);
  for (Index j = 0; j < C; ++j) dz[j] *= factor;
  dz[target] -= T(scale * own);
  const double log_total = std::log(total);
  double loss = own > 0 ? own * (log_total - (double(z[target]) - double(top))) : 0;
  for (Index j = 0; all_rest > 0 && j < C; ++j) {
    const double share = classes.smoothing / double(C) * classes.of(j);
    dz[j] -= T(scale * share);
    if (share > 0) loss += share * (log_total - (double(z[j]) - double(top)));
  }
  return loss;
}

}  // namespace detail

template <class T>
bool cross_entropy(double* loss, const LossRows<T>& logits, const std::int64_t* targets, const ClassWeights& classes,
                   Poll& poll) {
  const Index C = logits.F;
  double all_rest = 0;
  for (Index j = 0; classes.smoothing > 0 && j < C; ++j) all_rest += classes.smoothing / double(C) * classes.of(j);
  const double ns = 40 + 1.2 * double(C);  // of a row: C=8 49, C=100 160, C=1000 1150
  return detail::sum_rows(loss, logits, ns, poll, [&](Index n, T* dz, const T* z) {
    return detail::cross_entropy_row(dz, z, targets[n], logits, classes, all_rest);
  });
}

template <class T>
bool mse(double* loss, const LossRows<T>& prediction, const T* target, Poll& poll) {
  const Index F = prediction.F;
  const T factor = T(2 * prediction.scale);
  return detail::sum_rows(loss, prediction, 4 + double(F), poll, [&](Index n, T* d, const T* p) {
    double sum = 0;
    for (Index j = 0; j < F; ++j) {
      const T error = p[j] - target[n * F + j];
      d[j] = factor * error;
      sum += double(error) * double(error);
    }
    return sum;
  });
}

template <class T>
bool mae(double* loss, const LossRows<T>& prediction, const T* target, Poll& poll) {
  return detail::sum_elements(loss, prediction, target, 1, poll, [](double p, double t, Index, double* slope) {
    const double e = p - t;
    *slope = e > 0 ? 1 : e < 0 ? -1 : e;  // NaN stays NaN
    return std::abs(e);
  });
}

template <class T>
bool huber(double* loss, const LossRows<T>& prediction, const T* target, double delta, Poll& poll) {
  return detail::sum_elements(loss, prediction, target, 1, poll, [=](double p, double t, Index, double* slope) {
    const double e = p - t, size = std::abs(e);
    *slope = size <= delta ? e : e > 0 ? delta : e < 0 ? -delta : e;
    return size <= delta ? 0.5 * e * e : delta * (size - 0.5 * delta);
  });
}

template <class T>
bool bce_with_logits(double* loss, const LossRows<T>& logits, const T* target, const double* pos_weight, Poll& poll) {
  constexpr double ns = 25;  // of an exponential and a logarithm
  return detail::sum_elements(loss, logits, target, ns, poll, [=](double z, double t, Index j, double* slope) {
    const double e = std::exp(-std::abs(z)), log_sum = std::log1p(e);
    const double large = 1 / (1 + e), small = e / (1 + e);  // sigmoid(|z|) and sigmoid(-|z|)
    const double positive = (pos_weight ? pos_weight[j] : 1.0) * t, negative = 1 - t;
    *slope = negative * (z < 0 ? small : large) - positive * (z < 0 ? large : small);
    const double of_positive = positive > 0 ? positive * (std::max(-z, 0.0) + log_sum) : 0;
    return of_positive + (negative > 0 ? negative * (std::max(z, 0.0) + log_sum) : 0);
  });
}

template <class T>
bool gaussian_nll(double* loss, const LossRows<T>& prediction, const T* target, Poll& poll) {
  const Index F = prediction.F / 2;
  return detail::sum_rows(loss, prediction, 4 + 12 * double(F), poll, [&](Index n, T* d, const T* p) {
    double sum = 0;
    for (Index j = 0; j < F; ++j) {
      const double e = double(p[j]) - double(target[n * F + j]), log_variance = double(p[F + j]);
      const double precision = std::exp(-0.5 * log_variance);  // 1 / the standard deviation
      const double u = e == 0 ? 0 : e * precision, square = u * u;
      d[j] = T(prediction.scale * (e == 0 ? 0 : u * precision));
      d[F + j] = T(prediction.scale * (0.5 - 0.5 * square));
      sum += std::isinf(square) ? square : 0.5 * (log_variance + square);
    }
    return sum;
  });
}

template <class T>
bool quantile(double* loss, const LossRows<T>& prediction, const T* target, const std::vector<double>& quantiles,
              Poll& poll) {
  const Index Q = Index(quantiles.size()), F = prediction.F / Q;
  return detail::sum_rows(loss, prediction, 4 + double(prediction.F), poll, [&](Index n, T* d, const T* p) {
    double sum = 0;
    for (Index j = 0; j < F; ++j, p += Q, d += Q) {
      for (Index i = 0; i < Q; ++i) {
        const double q = quantiles[std::size_t(i)], e = double(target[n * F + j]) - double(p[i]);
        d[i] = T(prediction.scale * (e > 0 ? -q : e < 0 ? 1 - q : e));  // NaN stays NaN
        sum += e > 0 ? q * e : (q - 1) * e;
      }
    }
    return sum;
  });
}

}  // namespace bptt::nn
