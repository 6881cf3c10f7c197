// SPDX-License-Identifier: Apache-2.0
// A table of vectors looked up by id: y[n] = weight[ids[n]]. weight [V,E]; ids are within [0,V), checked by the caller.
// Each function returns false where it was called off.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/gemm/sums.h"
#include "core/threads/parallel.h"

namespace bptt::nn {

template <class T>
bool embedding_forward(T* y, const std::int64_t* ids, const T* weight, Index N, Index E, Poll& poll) {
  return parallel_for(N, grain_of(double(E)), 1, poll, [&](int, Index begin, Index end) {
    for (Index n = begin; n < end; ++n) std::copy_n(weight + ids[n] * E, E, y + n * E);
  });
}

/// dweight[v] = sum of dy[n] over the n with ids[n] = v, in the order of n. Rows are taken id by id, so that a frequent
/// id has a sum in two levels, as in core/gemm/sums.h.
template <class T>
bool embedding_backward(T* dweight, const std::int64_t* ids, const T* dy, Index N, Index V, Index E, Poll& poll) {
  Buffer<Index> end(V + 1), order(N);  // the rows of id v: order[end[v-1]] to order[end[v] - 1]
  end.clear();
  for (Index n = 0; n < N; ++n) {
    assert(0 <= ids[n] && ids[n] < V);
    ++end[ids[n] + 1];
  }
  for (Index v = 0; v < V; ++v) end[v + 1] += end[v];
  for (Index n = 0; n < N; ++n) order[end[ids[n]]++] = n;
  Buffer<double> total(E);
  const FlushDenormals flush;
  for (Index v = 0; v < V; ++v) {
    T* sum = dweight + v * E;
    const Index begin = v > 0 ? end[v - 1] : 0, stop = end[v];
    const bool is_long = stop - begin >= kSumRows;
    std::fill_n(sum, E, T(0));
    if (is_long) total.clear();
    for (Index i = begin; i < stop; ++i) {
      const T* row = dy + order[i] * E;
      for (Index e = 0; e < E; ++e) sum[e] += row[e];
      if ((i - begin + 1) % kSumRows != 0) continue;
      for (Index e = 0; e < E; ++e) total[e] += double(std::exchange(sum[e], T(0)));
      if (poll(kSumRows)) return false;
    }
    for (Index e = 0; is_long && e < E; ++e) sum[e] = T(total[e] + double(sum[e]));
    if (poll()) return false;
  }
  return true;
}

}  // namespace bptt::nn
