// SPDX-License-Identifier: Apache-2.0
// A table of vectors looked up by id: y[n] = weight[ids[n]]. weight [V,E]; ids are within [0,V), checked by the caller.
#pragma once

#include <algorithm>

#include "core/vec.h"

namespace bptt::nn {

template <class T>
void embedding_forward(T* y, const std::int64_t* ids, const T* weight, Index N, Index E) {
  for (Index n = 0; n < N; ++n) std::copy_n(weight + ids[n] * E, E, y + n * E);
}

/// dweight[v] = sum of dy[n] over the n with ids[n] = v, in the order of n.
template <class T>
void embedding_backward(T* dweight, const std::int64_t* ids, const T* dy, Index N, Index V, Index E) {
  std::fill_n(dweight, V * E, T(0));
  for (Index n = 0; n < N; ++n) {
    T* sum = dweight + ids[n] * E;
    for (Index e = 0; e < E; ++e) sum[e] += dy[n * E + e];
  }
}

}  // namespace bptt::nn
