// SPDX-License-Identifier: Apache-2.0
// Weights rounded to fewer bits, as files and layers for inference keep them.
#include <pybind11/pybind11.h>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/gemm/narrow_values.h"

namespace bptt::bindings {
namespace {

/// weight [N,K] -> integers [N,K] and scales [N].
py::tuple to_int8(const py::array& weight) {
  const Index N = axis(weight, 2, 0, "to_int8: weight"), K = axis(weight, 2, 1, "to_int8: weight");
  const float* from = read<float>(weight, {N, K}, "to_int8: weight");
  py::array_t<std::int8_t> values({N, K});
  py::array_t<float> scales = empty<float>({N});
  std::int8_t* to = values.mutable_data();
  float* scale = scales.mutable_data();
  without_gil([&](Poll& poll) {
    for (Index n = 0; n < N; ++n) {
      scale[n] = quantize_weights(to + n * K, from + n * K, K);
      if (poll(K)) return false;
    }
    return true;
  });
  return py::make_tuple(values, scales);
}

/// weight [N,K] -> the bits of bfloat16 [N,K].
py::array to_bfloat16_bits(const py::array& weight) {
  const Index N = axis(weight, 2, 0, "to_bfloat16: weight"), K = axis(weight, 2, 1, "to_bfloat16: weight");
  const float* from = read<float>(weight, {N, K}, "to_bfloat16: weight");
  py::array_t<std::uint16_t> values({N, K});
  std::uint16_t* to = values.mutable_data();
  without_gil([&](Poll& poll) {
    for (Index i = 0; i < N * K; ++i) to[i] = to_bfloat16(from[i]);
    return !poll();
  });
  return values;
}

}  // namespace

void register_narrow(py::module_& m) {
  m.def("to_int8", &to_int8, py::arg("weight"));
  m.def("to_bfloat16", &to_bfloat16_bits, py::arg("weight"));
}

}  // namespace bptt::bindings
