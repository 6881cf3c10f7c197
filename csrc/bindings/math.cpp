// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid and tanh of an array, for the tests of their accuracy and for a look at them from Python.
#include "core/simd/math.h"

#include "bindings/arrays.h"
#include "bindings/register.h"

namespace bptt::bindings {
namespace {

template <class T, class F>
py::array apply(const py::array& x, F f) {
  constexpr Index W = Vec<T>::kSize;
  const T* in = read<T>(x, {axis(x, 1, 0, "vector_function: x")}, "vector_function: x");
  py::array_t<T> y = empty<T>({x.size()});
  T* out = y.mutable_data();
  for (Index i = 0, n = x.size(); i < n; i += W) {
    const Index lanes = std::min(W, n - i);
    f(Vec<T>::load(in + i, lanes)).store(out + i, lanes);
  }
  return y;
}

py::array vector_function(const std::string& name, const py::array& x) {
  return for_dtype(x, "vector_function: x", [&](auto zero) -> py::array {
    using V = Vec<decltype(zero)>;
    if (name == "exp") return apply<decltype(zero)>(x, [](V v) { return exp(v); });
    if (name == "sigmoid") return apply<decltype(zero)>(x, [](V v) { return sigmoid(v); });
    if (name == "tanh") return apply<decltype(zero)>(x, [](V v) { return tanh(v); });
    throw py::value_error("vector_function: name is '" + name + "', expected exp, sigmoid or tanh");
  });
}

}  // namespace

void register_math(py::module_& m) { m.def("vector_function", &vector_function, py::arg("name"), py::arg("x")); }

}  // namespace bptt::bindings
