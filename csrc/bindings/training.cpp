// SPDX-License-Identifier: Apache-2.0
// The middle of a training step of a recurrent layer and a linear map: the map, the loss, and backward through both in
// one call, where Python would make three. The kernels are those of these calls, and so are the bits.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "bindings/stack.h"
#include "nn/nn.h"

namespace bptt::bindings {
namespace {

using Head = std::tuple<py::array, std::optional<py::array>>;                   // weight [O,H], bias [O]
using Gradients = std::tuple<py::object, py::array, std::optional<py::array>>;  // flat, of the layer; those of the head

/// The layer that made a tape. weights: flat, as forward had them; read where the tape keeps none.
struct Layer {
  const PyStack& stack;
  PyTape& tape;
  const py::object& weights;
};

/// The sizes of a call: y [T,B,H], and outputs O of each of its N = T B rows.
struct Outer {
  Index T, B, H, O;
  Index N() const { return T * B; }
};

/// Whether `target` can be read as it is: classes [T,B], or values [T,B,O].
template <class T>
bool is_target(const py::object& target, bool classes, const Outer& n) {
  return classes ? fits<std::int64_t>(target, {n.T, n.B}) : fits<T>(target, {n.T, n.B, n.O});
}

/// The mean loss of all rows, and its gradient; false where it was called off.
template <class T>
bool loss_of(const std::string& loss, double* value, nn::LossRows<T> rows, const void* target, Poll& poll) {
  if (loss == "cross_entropy") {
    const auto* classes = static_cast<const std::int64_t*>(target);
    check_ids(classes, rows.N, rows.F, nullptr, "cross_entropy: targets");
    return nn::cross_entropy(value, rows, classes, nn::ClassWeights(), poll);
  }
  rows.scale /= double(rows.F);
  const auto* values = static_cast<const T*>(target);
  return loss == "mse" ? nn::mse(value, rows, values, poll) : nn::mae(value, rows, values, poll);
}

template <class T>
py::object back_from_loss(const Layer& layer, const py::array& y, const Head& head, const std::string& loss,
                          const py::object& target, Gradients& grads) {
  auto& [weight, bias] = head;
  auto& [dlayer, dweight, dbias] = grads;
  const Outer n{axis(y, 3, 0, "y"), axis(y, 3, 1, "y"), axis(y, 3, 2, "y"), axis(weight, 2, 0, "weight")};
  if (!is_target<T>(target, loss == "cross_entropy", n)) return py::none();
  const T* in = read<T>(y, {n.T, n.B, n.H}, "y");
  const T* w = read<T>(weight, {n.O, n.H}, "weight");
  const T* b = bias ? read<T>(*bias, {n.O}, "bias") : nullptr;
  T* dw = write<T>(dweight, {n.O, n.H}, "dweight");
  T* db = dbias ? write<T>(*dbias, {n.O}, "dbias") : nullptr;
  const void* goal = py::reinterpret_borrow<py::array>(target).data();
  // Outputs, their gradient and that of y, in the memory of the arena: new arrays of NumPy cost page faults.
  Buffer<T> memory(checked_mul(n.N(), 2 * n.O + n.H));
  T *dout = memory.data(), *p = dout + n.N() * n.H, *dp = p + n.N() * n.O;
  double value = 0;
  without_gil([&](Poll& poll) {
    return nn::linear_forward(p, in, w, b, n.N(), n.H, n.O, poll) &&
           loss_of<T>(loss, &value, {dp, p, nullptr, 1 / double(n.N()), n.N(), n.O}, goal, poll) &&
           (!std::isfinite(value) || nn::linear_backward(dout, dw, db, in, w, dp, n.N(), n.H, n.O, poll));
  });
  if (std::isfinite(value)) {
    PyStack::BackwardOptions options;
    options.want_dx = options.want_dstate = false;
    options.weights = layer.weights;
    const py::array_t<T> dy({n.T, n.B, n.H}, dout, py::none());  // a view: the base says that it owns nothing
    layer.stack.backward(layer.tape, std::optional<py::array>(dy), py::none(), dlayer, {}, options);
  }
  return py::float_(value);
}

py::object backward_from_loss(const std::tuple<const PyStack*, PyTape*, py::object>& made_by, const py::array& y,
                              const Head& head, const std::string& loss, const py::object& target, Gradients grads) {
  if (loss != "mse" && loss != "mae" && loss != "cross_entropy")
    throw py::value_error("backward_from_loss: there is no loss " + loss + ", expected mse, mae or cross_entropy");
  const auto& [stack, tape, weights] = made_by;
  if (!stack || !tape) throw py::type_error("backward_from_loss: the stack or its tape is None");
  const Layer layer{*stack, *tape, weights};
  return for_dtype(y, "backward_from_loss: y",
                   [&](auto zero) { return back_from_loss<decltype(zero)>(layer, y, head, loss, target, grads); });
}

}  // namespace

void register_training(py::module_& m) {
  m.def("backward_from_loss", &backward_from_loss, py::arg("layer"), py::arg("y"), py::arg("head"), py::arg("loss"),
        py::arg("target"), py::arg("grads"));
}

}  // namespace bptt::bindings
