// SPDX-License-Identifier: Apache-2.0
// Optimizer steps: flat arrays in and out of csrc/optim.
#include "bindings/arrays.h"

#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "bindings/register.h"
#include "optim/step.h"

namespace bptt::bindings {
namespace {

using SpanIn = std::tuple<Index, double, double>;     // end, lr, weight_decay
using LimitsIn = std::tuple<double, double, double>;  // of the norm of all, of the norm of each span, of a value

std::array<double, optim::kMaxOptions> values_of(const py::dict& options, const optim::RuleEntry& rule) {
  std::array<double, optim::kMaxOptions> values{};
  bool fits = int(options.size()) == rule.options_count;
  for (int k = 0; fits && k < rule.options_count; ++k) {
    PyObject* const value = PyDict_GetItemString(options.ptr(), rule.option_names[k]);
    fits = value != nullptr;
    if (fits) values[std::size_t(k)] = py::cast<double>(py::handle(value));
  }
  if (fits) return values;
  std::string names;
  for (int k = 0; k < rule.options_count; ++k) names += (k ? ", " : "") + std::string(rule.option_names[k]);
  throw py::value_error("optimizer_step: options has other names, expected " + names);
}

std::vector<optim::Span> spans_of(const std::vector<SpanIn>& given, Index n) {
  std::vector<optim::Span> spans;
  Index begin = 0;
  for (const auto& [end, lr, weight_decay] : given) {
    if (end < begin) throw py::value_error("optimizer_step: spans has ends that decrease, expected increasing ones");
    spans.push_back({begin = end, lr, weight_decay});
  }
  if (spans.empty() || begin != n)
    throw py::value_error("optimizer_step: spans ends at " + std::to_string(begin) + ", expected " + std::to_string(n));
  return spans;
}

py::tuple optimizer_step(const std::string& rule, const py::dict& options, py::array& params, const py::array& grads,
                         std::vector<py::array>& moments, const std::vector<SpanIn>& spans, const LimitsIn& limits,
                         bool known_small) {
  const optim::RuleEntry* const entry = optim::find_rule(rule.c_str(), int(moments.size()));
  if (!entry) {
    throw py::value_error("optimizer_step: there is no rule " + rule + " with " + std::to_string(moments.size()) +
                          " moments");
  }
  return for_dtype(params, "optimizer_step: params", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Index n = axis(params, 1, 0, "optimizer_step: params");
    std::vector<T*> values{write<T>(params, {n}, "optimizer_step: params")};
    for (py::array& moment : moments) values.push_back(write<T>(moment, {n}, "optimizer_step: a moment"));
    const optim::Arrays<T> arrays{values.data(), read<T>(grads, {n}, "optimizer_step: grads"), n};
    const auto [norm, span_norm, value] = limits;
    const optim::Setting setting{spans_of(spans, n), {norm, span_norm, value}, known_small};
    const auto numbers = values_of(options, *entry);
    optim::StepResult result;
    {
      const GilRelease release;
      result = entry->step(numbers.data(), arrays, setting);
    }
    return py::make_tuple(result.norm, result.limited_norm, result.clipped_norm, result.clipped, result.overflow,
                          result.small);
  });
}

}  // namespace

void register_optim(py::module_& m) {
  m.def("optimizer_step", &optimizer_step, py::arg("rule"), py::arg("options"), py::arg("params"), py::arg("grads"),
        py::arg("moments"), py::arg("spans"), py::arg("limits"), py::arg("known_small"));
}

}  // namespace bptt::bindings
