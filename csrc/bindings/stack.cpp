// SPDX-License-Identifier: Apache-2.0
// What Python sees of a layer's kernels. Interface: python/bptt/_core.pyi.
#include "bindings/stack.h"

#include <pybind11/stl.h>

#include "bindings/register.h"
#include "bindings/stream.h"
#include "bindings/tensor_calls.h"
#include "core/threads/pool.h"

namespace bptt::bindings {

namespace {

void force_division(int groups, int members) {
  if (groups < 0 || members < 0 || (groups == 0) != (members == 0) || groups > Pool::kMaxThreads ||
      members > Pool::kMaxThreads) {
    throw py::value_error("force_division: has " + std::to_string(groups) + " groups of " + std::to_string(members) +
                          ", expected 1 to " + std::to_string(Pool::kMaxThreads) + " each, or 0 for both");
  }
  sequence::forced_division = sequence::Division{groups, members};
}

}  // namespace

void register_stack(py::module_& m) {
  register_call_options(m);
  m.def("set_tensor_classes", &Tensors::set_classes, py::arg("tensor"), py::arg("parameter"), py::arg("of_array"));
  m.def("are_plain_tensors", &Tensors::are_plain, py::arg("tensors"));
  m.def("force_division", &force_division, py::arg("groups"), py::arg("members"));
  py::class_<PyTape>(m, "Tape", py::is_final(), py::module_local())
      .def_property_readonly("nbytes", &PyTape::bytes)
      .def("kept", &PyTape::kept, py::arg("indices"), py::arg("kernel") = 0);
  py::class_<PyStack>(m, "Stack", py::is_final(), py::module_local())
      .def(py::init<const std::string&, const std::string&, Index, Index, bool, Index, Index, Index, Index,
                    const std::string&>(),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("bias"),
           py::arg("proj_size") = 0, py::arg("num_layers") = 1, py::arg("num_directions") = 1, py::arg("num_heads") = 1,
           py::arg("products") = "fma")
      .def_property_readonly("products", &PyStack::products)
      .def("plan", &PyStack::plan, py::arg("steps"), py::arg("batch"), py::arg("backward") = false)
      .def("runs_in_parallel", &PyStack::runs_in_parallel, py::arg("steps"), py::arg("batch"),
           py::arg("options").none(true), py::arg("training"))
      .def("memory", &PyStack::memory, py::arg("steps"), py::arg("batch"), py::arg("options").none(true),
           py::arg("training"))
      .def("pack", &PyStack::pack, py::arg("params"), py::arg("training"))
      .def("forward", &PyStack::forward, py::arg("x"), py::arg("state").none(true), py::arg("training"),
           py::arg("options") = py::none())
      .def("forward_if_exact", &PyStack::forward_if_exact, py::arg("x"), py::arg("state").none(true),
           py::arg("training"))
      // All may be given by position: pybind11 looks up each name, which takes 0.5 us where one is given by keyword.
      .def("forward_short", &PyStack::forward_short, py::arg("x"), py::arg("state").none(true), py::arg("training"),
           py::arg("params"), py::arg("keep_weights") = true)
      .def(
          "backward",
          [](const PyStack& self, PyTape& tape, const std::optional<py::array>& dy, const py::object& dstate,
             const py::object& grads, const std::vector<py::object>& dreset_state, bool accumulate, bool retain,
             bool want_dx, bool want_dstate, bool want_dsteps, const py::object& weights) {
            return self.backward(tape, dy, dstate, grads, dreset_state,
                                 {accumulate, retain, want_dx, want_dstate, want_dsteps, weights});
          },
          py::arg("tape"), py::arg("dy").none(true), py::arg("dstate").none(true), py::arg("grads").none(true),
          py::arg("dreset_state") = std::vector<py::object>(), py::arg("accumulate") = false, py::arg("retain") = false,
          py::arg("want_dx") = true, py::arg("want_dstate") = true, py::arg("want_dsteps") = false,
          py::arg("weights") = py::none())
      .def_readwrite("is_guest", &PyStack::is_guest)
      .def("forward_tensors", &TensorCalls::forward, py::arg("inputs"), py::arg("one_step"), py::arg("training"))
      .def("backward_tensors", &TensorCalls::backward, py::arg("tape"), py::arg("inputs"), py::arg("gradients"),
           py::arg("wanted"), py::arg("one_step"), py::arg("retain"))
      .def("backward_if_exact", &PyStack::backward_if_exact, py::arg("tape"), py::arg("dy"),
           py::arg("dstate").none(true), py::arg("grads"), py::arg("weights") = py::none());
  py::class_<PyStream> stream(m, "Stream", py::is_final(), py::module_local(), py::dynamic_attr());
  answer_by_source(stream)
      .def(py::init<py::object, Index, const CallOptions&, py::object>(), py::arg("stack"), py::arg("batch"),
           py::arg("options") = CallOptions(), py::arg("initial") = py::none())
      .def("__call__", &PyStream::call, py::arg("x"))
      .def("_take_weights", &PyStream::take_weights, py::arg("stack"), py::arg("initial").none(true))
      .def("_weights", &PyStream::weights)
      .def_property("state", &PyStream::get_state, &PyStream::set_state)
      .def("reset", &PyStream::reset, py::arg("rows") = py::none());
}

}  // namespace bptt::bindings
