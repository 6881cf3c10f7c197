// SPDX-License-Identifier: Apache-2.0
// Linear and embedding: arrays in and out of csrc/nn.
#include <pybind11/stl.h>

#include <optional>

#include "bindings/arrays.h"
#include "bindings/nn_stream.h"
#include "bindings/register.h"
#include "nn/nn.h"

namespace bptt::bindings {
namespace {

py::array linear_forward(const py::array& x, const py::array& weight, const std::optional<py::array>& bias) {
  return for_dtype(x, "linear_forward: x", [&](auto zero) -> py::array {
    using T = decltype(zero);
    const Index N = axis(x, 2, 0, "linear_forward: x"), I = axis(x, 2, 1, "linear_forward: x");
    const Index O = axis(weight, 2, 0, "linear_forward: weight");
    const T* in = read<T>(x, {N, I}, "linear_forward: x");
    const T* w = read<T>(weight, {O, I}, "linear_forward: weight");
    const T* b = bias ? read<T>(*bias, {O}, "linear_forward: bias") : nullptr;
    py::array_t<T> y = empty<T>({N, O});
    T* out = y.mutable_data();
    without_gil([&](Poll& poll) { return nn::linear_forward(out, in, w, b, N, I, O, poll); });
    return y;
  });
}

py::array linear_backward(const py::array& x, const py::array& weight, const py::array& dy, py::array& dweight,
                          std::optional<py::array>& dbias) {
  return for_dtype(x, "linear_backward: x", [&](auto zero) -> py::array {
    using T = decltype(zero);
    const Index N = axis(x, 2, 0, "linear_backward: x"), I = axis(x, 2, 1, "linear_backward: x");
    const Index O = axis(weight, 2, 0, "linear_backward: weight");
    const T* in = read<T>(x, {N, I}, "linear_backward: x");
    const T* w = read<T>(weight, {O, I}, "linear_backward: weight");
    const T* dout = read<T>(dy, {N, O}, "linear_backward: dy");
    T* dw = write<T>(dweight, {O, I}, "linear_backward: dweight");
    T* db = dbias ? write<T>(*dbias, {O}, "linear_backward: dbias") : nullptr;
    py::array_t<T> dx = empty<T>({N, I});
    T* din = dx.mutable_data();
    without_gil([&](Poll& poll) { return nn::linear_backward(din, dw, db, in, w, dout, N, I, O, poll); });
    return dx;
  });
}

py::array embedding_forward(const py::array& ids, const py::array& weight) {
  return for_dtype(weight, "embedding_forward: weight", [&](auto zero) -> py::array {
    using T = decltype(zero);
    const Index N = axis(ids, 1, 0, "embedding_forward: ids");
    const Index V = axis(weight, 2, 0, "embedding_forward: weight"),
                E = axis(weight, 2, 1, "embedding_forward: weight");
    const T* w = read<T>(weight, {V, E}, "embedding_forward: weight");
    const std::int64_t* index = read<std::int64_t>(ids, {N}, "embedding_forward: ids");
    py::array_t<T> y = empty<T>({N, E});
    T* out = y.mutable_data();
    without_gil([&](Poll& poll) {
      check_ids(index, N, V, nullptr, "embedding_forward: ids");
      return nn::embedding_forward(out, index, w, N, E, poll);
    });
    return y;
  });
}

void embedding_backward(const py::array& ids, const py::array& dy, py::array& dweight) {
  for_dtype(dy, "embedding_backward: dy", [&](auto zero) {
    using T = decltype(zero);
    const Index N = axis(ids, 1, 0, "embedding_backward: ids");
    const Index V = axis(dweight, 2, 0, "embedding_backward: dweight");
    const Index E = axis(dweight, 2, 1, "embedding_backward: dweight");
    const T* dout = read<T>(dy, {N, E}, "embedding_backward: dy");
    T* dw = write<T>(dweight, {V, E}, "embedding_backward: dweight");
    const std::int64_t* index = read<std::int64_t>(ids, {N}, "embedding_backward: ids");
    without_gil([&](Poll& poll) {
      check_ids(index, N, V, nullptr, "embedding_backward: ids");
      return nn::embedding_backward(dw, index, dout, N, V, E, poll);
    });
  });
}

}  // namespace

void register_nn(py::module_& m) {
  m.def("linear_forward", &linear_forward, py::arg("x"), py::arg("weight"), py::arg("bias").none(true));
  m.def("linear_backward", &linear_backward, py::arg("x"), py::arg("weight"), py::arg("dy"), py::arg("dweight"),
        py::arg("dbias").none(true));
  py::class_<PyLinearStream> linear(m, "LinearStream", py::is_final(), py::module_local(), py::dynamic_attr());
  answer_by_source(linear)
      .def(py::init<const py::array&, const std::optional<py::array>&, Index>(), py::arg("weight"), py::arg("bias"),
           py::arg("batch"))
      .def("__call__", &PyLinearStream::call, py::arg("x"))
      .def("_take_weights", &PyLinearStream::take_weights, py::arg("weight"), py::arg("bias"))
      .def("_weights", &PyLinearStream::weights);
  py::class_<PyEmbeddingStream> embedding(m, "EmbeddingStream", py::is_final(), py::module_local(), py::dynamic_attr());
  answer_by_source(embedding)
      .def(py::init<py::array, Index>(), py::arg("weight"), py::arg("batch"))
      .def("__call__", &PyEmbeddingStream::call, py::arg("x"))
      .def("_take_weights", &PyEmbeddingStream::take_weights, py::arg("weight"))
      .def("_weights", &PyEmbeddingStream::weights);
  m.def("embedding_forward", &embedding_forward, py::arg("ids"), py::arg("weight"));
  m.def("embedding_backward", &embedding_backward, py::arg("ids"), py::arg("dy"), py::arg("dweight"));
}

}  // namespace bptt::bindings
