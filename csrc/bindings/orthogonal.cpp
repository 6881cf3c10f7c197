// SPDX-License-Identifier: Apache-2.0
// The orthogonal matrices of an initialiser: an array in and out of nn/nn.h.
#include "bindings/arrays.h"
#include "bindings/register.h"
#include "nn/nn.h"

namespace bptt::bindings {
namespace {

py::array orthogonal(const py::array& a) {
  const Index m = axis(a, 2, 0, "orthogonal: a"), n = axis(a, 2, 1, "orthogonal: a");
  const double* in = read<double>(a, {m, n}, "orthogonal: a");
  if (m < n)
    throw py::value_error("orthogonal: a has shape " + to_string({m, n}) + ", expected no more columns than rows");
  py::array_t<double> q = empty<double>({m, n});
  double* out = q.mutable_data();
  without_gil([&] { return nn::orthogonal(in, out, m, n, &interrupted); });
  return q;
}

}  // namespace

void register_orthogonal(py::module_& m) { m.def("orthogonal", &orthogonal, py::arg("a")); }

}  // namespace bptt::bindings
