// SPDX-License-Identifier: Apache-2.0
// Optimizer steps: flat arrays in and out of csrc/optim.
#include "bindings/arrays.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/register.h"
#include "optim/step.h"

namespace bptt::bindings {
namespace {

py::tuple sgd_step(py::array& params, const py::array& grads, std::optional<py::array>& velocity, double lr,
                   double momentum, bool nesterov, double weight_decay, double clip_norm, double clip_value) {
  return for_dtype(params, "sgd_step: params", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Index n = axis(params, 1, 0, "sgd_step: params");
    T* w = write<T>(params, {n}, "sgd_step: params");
    const T* g = read<T>(grads, {n}, "sgd_step: grads");
    T* v = velocity ? write<T>(*velocity, {n}, "sgd_step: velocity") : nullptr;
    const auto clip = [&] {
      const GilRelease release;
      const optim::Clip<T> clip(g, n, clip_norm, clip_value);
      if (std::isfinite(clip.norm)) optim::SGD{lr, momentum, weight_decay, nesterov}.step(w, g, v, n, clip);
      return clip;
    }();
    return py::make_tuple(clip.norm, clip.clipped);
  });
}

py::tuple adam_step(py::array& params, const py::array& grads, py::array& m, py::array& v, Index step, double lr,
                    double beta1, double beta2, double eps, double weight_decay, double clip_norm, double clip_value) {
  return for_dtype(params, "adam_step: params", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Index n = axis(params, 1, 0, "adam_step: params");
    T* w = write<T>(params, {n}, "adam_step: params");
    const T* g = read<T>(grads, {n}, "adam_step: grads");
    T* first = write<T>(m, {n}, "adam_step: m");
    T* second = write<T>(v, {n}, "adam_step: v");
    if (step < 1) throw py::value_error("adam_step: step is " + std::to_string(step) + ", expected at least 1");
    const auto clip = [&] {
      const GilRelease release;
      const optim::Clip<T> clip(g, n, clip_norm, clip_value);
      if (std::isfinite(clip.norm)) {
        optim::Adam{lr, beta1, beta2, eps, weight_decay}.step(w, g, first, second, n, step, clip);
      }
      return clip;
    }();
    return py::make_tuple(clip.norm, clip.clipped);
  });
}

}  // namespace

void register_optim(py::module_& m) {
  m.def("sgd_step", &sgd_step, py::arg("params"), py::arg("grads"), py::arg("velocity").none(true), py::arg("lr"),
        py::arg("momentum"), py::arg("nesterov"), py::arg("weight_decay"), py::arg("clip_norm"), py::arg("clip_value"));
  m.def("adam_step", &adam_step, py::arg("params"), py::arg("grads"), py::arg("m"), py::arg("v"), py::arg("step"),
        py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
        py::arg("clip_norm"), py::arg("clip_value"));
}

}  // namespace bptt::bindings
