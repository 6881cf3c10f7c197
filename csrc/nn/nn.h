// SPDX-License-Identifier: Apache-2.0
// Linear maps, embeddings, losses and an initialiser: rows without a time axis. The functions, whatever the instruction
// set; those that return bool return false when they were called off.
#pragma once

#include <memory>

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

/// loss = scale * the sum of -log softmax(logits [N,C]) at targets [N], over the rows that mask [N] (or null) keeps;
/// and its gradient.
template <class T>
bool cross_entropy(double* loss, T* dlogits, const T* logits, const std::int64_t* targets, const bool* mask,
                   double scale, Index N, Index C, Poll& poll);
/// loss = scale * the squared error of prediction [N,F], over the same rows; and its gradient.
template <class T>
bool mse(double* loss, T* dprediction, const T* prediction, const T* target, const bool* mask, double scale, Index N,
         Index F, Poll& poll);

/// a [m,n] -> q [m,n], m >= n: the orthogonal factor of a = q r with a positive diagonal of r.
bool orthogonal(const double* a, double* q, Index m, Index n, Poll::Interrupted interrupted);

}  // namespace bptt::nn
