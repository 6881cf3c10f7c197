// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid and tanh of an array: in and out of core/simd/functions.h.
#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/simd/functions.h"

namespace bptt::bindings {
namespace {

py::array vector_function(const std::string& name, const py::array& x) {
  return for_dtype(x, "vector_function: x", [&](auto zero) -> py::array {
    using T = decltype(zero);
    const T* in = read<T>(x, {axis(x, 1, 0, "vector_function: x")}, "vector_function: x");
    py::array_t<T> y = empty<T>({x.size()});
    if (!bptt::vector_function(name, in, y.mutable_data(), x.size()))
      throw py::value_error("vector_function: name is '" + name + "', expected exp, sigmoid or tanh");
    return std::move(y);
  });
}

}  // namespace

void register_math(py::module_& m) { m.def("vector_function", &vector_function, py::arg("name"), py::arg("x")); }

}  // namespace bptt::bindings
