// SPDX-License-Identifier: Apache-2.0
// Linear maps, embeddings, losses and an initialiser: rows without a time axis. The functions, whatever the instruction
// set; those that return bool return false when they were called off.
#pragma once

#include <memory>
#include <vector>

#include "core/memory/sizes.h"
#include "core/threads/interrupt.h"

namespace bptt::nn {

/// y [N,O] = x [N,I] weight^T + bias; weight [O,I], bias [O] or null.
template <class T>
bool linear_forward(T* y, const T* x, const T* weight, const T* bias, Index N, Index I, Index O, Poll& poll);
/// dy [N,O] -> dx [N,I], dweight, dbias (or null).
template <class T>
bool linear_backward(T* dx, T* dweight, T* dbias, const T* x, const T* weight, const T* dy, Index N, Index I, Index O,
                     Poll& poll);

/// The affine map of a few rows at a time, with weights packed once.
template <class T>
class LinearStream {
 public:
  virtual ~LinearStream() = default;
  virtual Index inputs() const = 0;
  virtual Index outputs() const = 0;
  /// x [batch,I] -> y [batch,O], which may overlap.
  virtual void step(const T* x, T* y, Index batch) = 0;
  /// x [N,I] -> y [N,O], which may not.
  virtual bool chunk(const T* x, T* y, Index N, Poll& poll) const = 0;
  /// What was packed; bias may be null.
  virtual void get_weights(T* weight, T* bias) const = 0;
};
/// weight [O,I], bias [O] or null; steps of up to `batch` rows.
template <class T>
std::unique_ptr<LinearStream<T>> make_linear_stream(const T* weight, const T* bias, Index I, Index O, Index batch);

/// y [N,E] = weight [V,E] at ids [N], which are in [0, V).
template <class T>
bool embedding_forward(T* y, const std::int64_t* ids, const T* weight, Index N, Index E, Poll& poll);
/// dweight [V,E] = the sum of dy [N,E] over equal ids.
template <class T>
bool embedding_backward(T* dweight, const std::int64_t* ids, const T* dy, Index N, Index V, Index E, Poll& poll);

/// What every loss is given: predictions, which rows of them count, and where their gradients go.
template <class T>
struct LossRows {
  T* gradient;          // [N,F]
  const T* prediction;  // [N,F]
  const bool* mask;     // [N]; null: all rows count
  double scale;         // of the sum over the rows
  Index N, F;
};

/// The weights of classes [C], null for ones, and the share of each target that all classes have together.
struct ClassWeights {
  const double* weights = nullptr;
  double smoothing = 0;

  double of(Index j) const { return weights ? weights[j] : 1; }
};

/// loss = scale * the sum over the rows that count, and its gradient. Of a row:
/// -sum_j a_j log softmax(logits)_j, a_j = w_j ((1 - smoothing) [j = target] + smoothing / C); targets [N] in [0,C).
template <class T>
bool cross_entropy(double* loss, const LossRows<T>& logits, const std::int64_t* targets, const ClassWeights& classes,
                   Poll& poll);
/// sum_f e^2, |e|, or e^2 / 2 where |e| <= delta and delta (|e| - delta / 2) elsewhere; e = prediction - target [N,F].
template <class T>
bool mse(double* loss, const LossRows<T>& prediction, const T* target, Poll& poll);
template <class T>
bool mae(double* loss, const LossRows<T>& prediction, const T* target, Poll& poll);
template <class T>
bool huber(double* loss, const LossRows<T>& prediction, const T* target, double delta, Poll& poll);
/// sum_f -w_f t log sigmoid(z) - (1 - t) log sigmoid(-z); targets t [N,F] in [0,1], pos_weight w [F] or null for ones.
template <class T>
bool bce_with_logits(double* loss, const LossRows<T>& logits, const T* target, const double* pos_weight, Poll& poll);
/// sum_f (s + (m - t)^2 exp(-s)) / 2; prediction [N,2F]: the means m, then the log-variances s; target t [N,F].
template <class T>
bool gaussian_nll(double* loss, const LossRows<T>& prediction, const T* target, Poll& poll);
/// sum_f sum_q max(q e, (q - 1) e), e = target - prediction; prediction [N,F*Q], the quantiles of a feature together;
/// target [N,F].
template <class T>
bool quantile(double* loss, const LossRows<T>& prediction, const T* target, const std::vector<double>& quantiles,
              Poll& poll);

/// a [m,n] -> q [m,n], m >= n: the orthogonal factor of a = q r with a positive diagonal of r.
bool orthogonal(const double* a, double* q, Index m, Index n, Poll::Interrupted interrupted);

}  // namespace bptt::nn
