// SPDX-License-Identifier: Apache-2.0
#include "core/simd/functions.h"

#include <algorithm>

#include "core/simd/math.h"

namespace bptt {
namespace {

template <class T, class F>
bool apply(const T* x, T* y, Index n, F f) {
  constexpr Index W = Vec<T>::kSize;
  for (Index i = 0; i < n; i += W) {
    const Index lanes = std::min(W, n - i);
    f(Vec<T>::load(x + i, lanes)).store(y + i, lanes);
  }
  return true;
}

}  // namespace

template <class T>
bool vector_function(const std::string& name, const T* x, T* y, Index n) {
  using V = Vec<T>;
  if (name == "exp") return apply(x, y, n, [](V v) { return exp(v); });
  if (name == "sigmoid") return apply(x, y, n, [](V v) { return sigmoid(v); });
  if (name == "tanh") return apply(x, y, n, [](V v) { return tanh(v); });
  return false;
}

template bool vector_function(const std::string&, const float*, float*, Index);
template bool vector_function(const std::string&, const double*, double*, Index);

}  // namespace bptt
