// SPDX-License-Identifier: Apache-2.0
// What Python sees of a layer's kernels. Interface: python/bptt/_core.pyi.
#include "bindings/recurrence.h"

#include <pybind11/stl.h>

#include "bindings/register.h"
#include "bindings/stack.h"
#include "bindings/stream.h"

namespace bptt::bindings {

void register_recurrence(py::module_& m) {
  register_call_options(m);
  m.def(
      "forward",
      [](std::vector<PyRecurrence*> kernels, Index directions, const py::array& x, const py::object& state,
         bool training, const std::vector<CallOptions*>& options) {
        return Stack(std::move(kernels), directions).forward(x, state, training, options);
      },
      py::arg("kernels"), py::arg("directions"), py::arg("x"), py::arg("state").none(true), py::arg("training"),
      py::arg("options"));
  m.def(
      "backward",
      [](std::vector<PyRecurrence*> kernels, Index directions, PyTape& tape, const py::array& dy,
         const py::object& dstate, std::vector<py::array> grads, const std::vector<py::object>& dreset_state) {
        return Stack(std::move(kernels), directions).backward(tape, dy, dstate, grads, dreset_state);
      },
      py::arg("kernels"), py::arg("directions"), py::arg("tape"), py::arg("dy"), py::arg("dstate").none(true),
      py::arg("grads"), py::arg("dreset_state") = std::vector<py::object>());
  m.def(
      "beside",
      [](std::vector<PyRecurrence*> kernels, Index directions, Index steps, Index batch, const CallOptions& options,
         bool training) {
        const sequence::BatchSizes batch_sizes =
            options.options.order ? options.options.order->batch_sizes() : sequence::BatchSizes{steps, batch};
        const bool segmented = training && sequence::measure_cuts(batch_sizes, options.options.segment).segments > 1;
        return Stack(std::move(kernels), directions).beside(batch_sizes, segmented);
      },
      py::arg("kernels"), py::arg("directions"), py::arg("steps"), py::arg("batch"), py::arg("options"),
      py::arg("training"));
  py::class_<PyTape>(m, "Tape", py::is_final(), py::module_local())
      .def_property_readonly("nbytes", &PyTape::bytes)
      .def("kept", &PyTape::kept, py::arg("indices"), py::arg("kernel") = 0);
  py::class_<PyStream> stream(m, "Stream", py::is_final(), py::module_local(), py::dynamic_attr());
  answer_by_source(stream)
      .def(py::init<const py::list&, Index, const CallOptions&, py::object>(), py::arg("kernels"), py::arg("batch"),
           py::arg("options") = CallOptions(), py::arg("initial") = py::none())
      .def("__call__", &PyStream::call, py::arg("x"))
      .def("_take_weights", &PyStream::take_weights, py::arg("kernels"), py::arg("initial").none(true))
      .def("_weights", &PyStream::weights)
      .def_property("state", &PyStream::get_state, &PyStream::set_state)
      .def("reset", &PyStream::reset, py::arg("rows") = py::none());
  py::class_<PyRecurrence>(m, "Recurrence", py::is_final(), py::module_local())
      .def(py::init<const std::string&, const std::string&, Index, Index, bool, Index, Index>(), py::arg("cell"),
           py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("bias"), py::arg("proj_size") = 0,
           py::arg("num_heads") = 1)
      .def("plan", &PyRecurrence::plan, py::arg("steps"), py::arg("batch"))
      .def("memory", &PyRecurrence::memory, py::arg("steps"), py::arg("batch"), py::arg("options"), py::arg("training"),
           py::arg("threads") = 0)
      .def("pack", &PyRecurrence::pack, py::arg("params"), py::arg("training"))
      .def("forward", &PyRecurrence::forward, py::arg("x"), py::arg("state").none(true), py::arg("training"))
      .def("backward", &PyRecurrence::backward, py::arg("tape"), py::arg("dy"), py::arg("dstate").none(true),
           py::arg("grads"));
}

}  // namespace bptt::bindings
