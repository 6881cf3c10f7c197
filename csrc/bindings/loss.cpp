// SPDX-License-Identifier: Apache-2.0
// Losses: arrays in and out of csrc/nn.
#include <pybind11/stl.h>

#include <array>
#include <cstdio>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "nn/nn.h"

namespace bptt::bindings {
namespace {

using Mask = std::optional<py::array>;

/// (loss, gradient) of predictions [N,F]; f(&loss, rows, poll) runs without the GIL.
template <class T, class F>
py::tuple loss_of(const py::array& prediction, const Mask& mask, double scale, const F& f) {
  const Index N = axis(prediction, 2, 0, "loss: prediction"), width = axis(prediction, 2, 1, "loss: prediction");
  const T* values = read<T>(prediction, {N, width}, "loss: prediction");
  const bool* keep = mask ? read<bool>(*mask, {N}, "loss: mask") : nullptr;
  py::array_t<T> gradient = empty<T>({N, width});
  const nn::LossRows<T> rows{gradient.mutable_data(), values, keep, scale, N, width};
  double loss = 0;
  without_gil([&](Poll& poll) { return f(&loss, rows, poll); });
  return py::make_tuple(loss, gradient);
}

/// The same with targets [N,F / each]; f(&loss, rows, targets, poll).
template <class F>
py::tuple loss_of(const py::array& prediction, const py::array& target, Index each, const Mask& mask, double scale,
                  const F& f) {
  return for_dtype(prediction, "loss: prediction", [&](auto zero) {
    using T = decltype(zero);
    const Index N = axis(prediction, 2, 0, "loss: prediction"), width = axis(prediction, 2, 1, "loss: prediction");
    if (width % each != 0) {
      throw py::value_error("loss: prediction has " + std::to_string(width) + " columns, expected a multiple of " +
                            std::to_string(each));
    }
    const T* goal = read<T>(target, {N, width / each}, "loss: target");
    return loss_of<T>(prediction, mask, scale,
                      [&](double* loss, const nn::LossRows<T>& rows, Poll& poll) { return f(loss, rows, goal, poll); });
  });
}

/// Raises unless the targets of the rows that count are probabilities.
template <class T>
void check_probabilities(const T* target, const nn::LossRows<T>& rows) {
  for (Index i = 0; i < rows.N * rows.F; ++i) {
    if ((rows.mask && !rows.mask[i / rows.F]) || (target[i] >= 0 && target[i] <= 1)) continue;
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%g", double(target[i]));
    throw py::value_error("bce_with_logits: target has the value " + std::string(text.data()) + ", expected 0 to 1");
  }
}

py::tuple cross_entropy(const py::array& logits, const py::array& targets, const Mask& mask, double scale,
                        const std::optional<py::array>& class_weights, double label_smoothing) {
  return for_dtype(logits, "cross_entropy: logits", [&](auto zero) {
    using T = decltype(zero);
    const Index N = axis(logits, 2, 0, "cross_entropy: logits"), C = axis(logits, 2, 1, "cross_entropy: logits");
    const std::int64_t* target = read<std::int64_t>(targets, {N}, "cross_entropy: targets");
    nn::ClassWeights classes{nullptr, label_smoothing};
    if (class_weights) classes.weights = read<double>(*class_weights, {C}, "cross_entropy: class_weights");
    return loss_of<T>(logits, mask, scale, [&](double* loss, const nn::LossRows<T>& rows, Poll& poll) {
      check_ids(target, N, C, rows.mask, "cross_entropy: targets");
      return nn::cross_entropy(loss, rows, target, classes, poll);
    });
  });
}

py::tuple mse(const py::array& prediction, const py::array& target, const Mask& mask, double scale) {
  return loss_of(prediction, target, 1, mask, scale, [](double* loss, const auto& rows, const auto* goal, Poll& poll) {
    return nn::mse(loss, rows, goal, poll);
  });
}

py::tuple mae(const py::array& prediction, const py::array& target, const Mask& mask, double scale) {
  return loss_of(prediction, target, 1, mask, scale, [](double* loss, const auto& rows, const auto* goal, Poll& poll) {
    return nn::mae(loss, rows, goal, poll);
  });
}

py::tuple huber(const py::array& prediction, const py::array& target, const Mask& mask, double scale, double delta) {
  return loss_of(prediction, target, 1, mask, scale, [=](double* loss, const auto& rows, const auto* goal, Poll& poll) {
    return nn::huber(loss, rows, goal, delta, poll);
  });
}

py::tuple bce_with_logits(const py::array& logits, const py::array& target, const Mask& mask, double scale,
                          const std::optional<py::array>& pos_weight) {
  const char* name = "bce_with_logits: pos_weight";
  const double* weight =
      pos_weight ? read<double>(*pos_weight, {axis(logits, 2, 1, "bce_with_logits: logits")}, name) : nullptr;
  return loss_of(logits, target, 1, mask, scale, [=](double* loss, const auto& rows, const auto* goal, Poll& poll) {
    check_probabilities(goal, rows);
    return nn::bce_with_logits(loss, rows, goal, weight, poll);
  });
}

py::tuple gaussian_nll(const py::array& prediction, const py::array& target, const Mask& mask, double scale) {
  return loss_of(prediction, target, 2, mask, scale, [](double* loss, const auto& rows, const auto* goal, Poll& poll) {
    return nn::gaussian_nll(loss, rows, goal, poll);
  });
}

py::tuple quantile(const py::array& prediction, const py::array& target, const Mask& mask, double scale,
                   const std::vector<double>& quantiles) {
  if (quantiles.empty()) throw py::value_error("quantile: quantiles has length 0, expected at least one");
  const Index Q = Index(quantiles.size());
  return loss_of(prediction, target, Q, mask, scale, [&](double* loss, const auto& rows, const auto* goal, Poll& poll) {
    return nn::quantile(loss, rows, goal, quantiles, poll);
  });
}

}  // namespace

void register_loss(py::module_& m) {
  const auto prediction = py::arg("prediction"), target = py::arg("target"), scale = py::arg("scale");
  const auto mask = py::arg("mask").none(true);
  m.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("targets"), mask, scale,
        py::arg("class_weights") = py::none(), py::arg("label_smoothing") = 0.0);
  m.def("mse", &mse, prediction, target, mask, scale);
  m.def("mae", &mae, prediction, target, mask, scale);
  m.def("huber", &huber, prediction, target, mask, scale, py::arg("delta"));
  m.def("bce_with_logits", &bce_with_logits, py::arg("logits"), target, mask, scale, py::arg("pos_weight").none(true));
  m.def("gaussian_nll", &gaussian_nll, prediction, target, mask, scale);
  m.def("quantile", &quantile, prediction, target, mask, scale, py::arg("quantiles"));
}

}  // namespace bptt::bindings
