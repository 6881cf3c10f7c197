// SPDX-License-Identifier: Apache-2.0
// The functions of nn.h in float and double.
#include "nn/nn.h"

#include "nn/embedding.h"
#include "nn/linear.h"
#include "nn/linear_stream.h"
#include "nn/loss.h"
#include "nn/orthogonal.h"

namespace bptt::nn {

template <class T>
std::unique_ptr<LinearStream<T>> make_linear_stream(const T* weight, const T* bias, Index I, Index O, Index batch) {
  return std::make_unique<PackedLinear<T>>(weight, bias, I, O, batch);
}

bool orthogonal(const double* a, double* q, Index m, Index n, Poll::Interrupted interrupted) {
  return Orthogonal(m, n).run(a, q, interrupted);
}

#define BPTT_INSTANTIATE(T)                                                                                  \
  template bool linear_forward(T*, const T*, const T*, const T*, Index, Index, Index, Poll&);                \
  template bool linear_backward(T*, T*, T*, const T*, const T*, const T*, Index, Index, Index, Poll&);       \
  template std::unique_ptr<LinearStream<T>> make_linear_stream(const T*, const T*, Index, Index, Index);     \
  template bool embedding_forward(T*, const std::int64_t*, const T*, Index, Index, Poll&);                   \
  template bool embedding_backward(T*, const std::int64_t*, const T*, Index, Index, Index, Poll&);           \
  template bool cross_entropy(double*, const LossRows<T>&, const std::int64_t*, const ClassWeights&, Poll&); \
  template bool mse(double*, const LossRows<T>&, const T*, Poll&);                                           \
  template bool mae(double*, const LossRows<T>&, const T*, Poll&);                                           \
  template bool huber(double*, const LossRows<T>&, const T*, double, Poll&);                                 \
  template bool bce_with_logits(double*, const LossRows<T>&, const T*, const double*, Poll&);                \
  template bool gaussian_nll(double*, const LossRows<T>&, const T*, Poll&);                                  \
  template bool quantile(double*, const LossRows<T>&, const T*, const std::vector<double>&, Poll&)

BPTT_INSTANTIATE(float);
BPTT_INSTANTIATE(double);
#undef BPTT_INSTANTIATE

}  // namespace bptt::nn
