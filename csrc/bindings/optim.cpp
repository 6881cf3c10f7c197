// SPDX-License-Identifier: Apache-2.0
// Optimizer steps: flat arrays in and out of csrc/optim.
#include "bindings/arrays.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/register.h"
#include "optim/step.h"

namespace bptt::bindings {
namespace {

/// The step without the GIL; (norm, clipped, overflow, small) as in optim::StepResult.
template <class Optimizer, class T, std::size_t N>
py::tuple take_step(const Optimizer& optimizer, const optim::Arrays<T, N>& arrays, const optim::Limits& limits,
                    bool known_small) {
  optim::StepResult result;
  {
    const GilRelease release;
    result = optim::step(optimizer, arrays, limits, known_small);
  }
  return py::make_tuple(result.norm, result.clipped, result.overflow, result.small);
}

py::tuple sgd_step(py::array& params, const py::array& grads, std::optional<py::array>& velocity, bool known_small,
                   double lr, double momentum, bool nesterov, double weight_decay, double clip_norm,
                   double clip_value) {
  return for_dtype(params, "sgd_step: params", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Index n = axis(params, 1, 0, "sgd_step: params");
    T* w = write<T>(params, {n}, "sgd_step: params");
    const T* g = read<T>(grads, {n}, "sgd_step: grads");
    const optim::SGD sgd{lr, momentum, weight_decay, nesterov};
    const optim::Limits limits{clip_norm, clip_value};
    if (!velocity) return take_step(sgd, optim::Arrays<T, 1>{{w}, g, n}, limits, known_small);
    T* v = write<T>(*velocity, {n}, "sgd_step: velocity");
    return take_step(sgd, optim::Arrays<T, 2>{{w, v}, g, n}, limits, known_small);
  });
}

py::tuple adam_step(py::array& params, const py::array& grads, py::array& m, py::array& s, bool known_small, Index step,
                    double lr, double beta1, double beta2, double eps, double weight_decay, double clip_norm,
                    double clip_value) {
  return for_dtype(params, "adam_step: params", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Index n = axis(params, 1, 0, "adam_step: params");
    T* w = write<T>(params, {n}, "adam_step: params");
    const T* g = read<T>(grads, {n}, "adam_step: grads");
    T* first = write<T>(m, {n}, "adam_step: m");
    T* root = write<T>(s, {n}, "adam_step: s");
    if (step < 1) throw py::value_error("adam_step: step is " + std::to_string(step) + ", expected at least 1");
    const optim::Adam adam{lr, beta1, beta2, eps, weight_decay, step};
    return take_step(adam, optim::Arrays<T, 3>{{w, first, root}, g, n}, {clip_norm, clip_value}, known_small);
  });
}

}  // namespace

void register_optim(py::module_& m) {
  m.def("sgd_step", &sgd_step, py::arg("params"), py::arg("grads"), py::arg("velocity").none(true),
        py::arg("known_small"), py::arg("lr"), py::arg("momentum"), py::arg("nesterov"), py::arg("weight_decay"),
        py::arg("clip_norm"), py::arg("clip_value"));
  m.def("adam_step", &adam_step, py::arg("params"), py::arg("grads"), py::arg("m"), py::arg("s"),
        py::arg("known_small"), py::arg("step"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"),
        py::arg("weight_decay"), py::arg("clip_norm"), py::arg("clip_value"));
}

}  // namespace bptt::bindings
