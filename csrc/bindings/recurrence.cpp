// SPDX-License-Identifier: Apache-2.0
// The classes Recurrence and Tape: arrays in and out of sequence::Recurrence, for float32 and float64 behind one type.
#include "sequence/recurrence.h"

#include <pybind11/stl.h>

#include <array>
#include <atomic>
#include <variant>

#include "bindings/register.h"
#include "bindings/states.h"
#include "bindings/stream.h"

namespace bptt::bindings {
namespace {

using sequence::BackwardCall;
using sequence::ForwardCall;

struct PyTape {
  std::variant<sequence::Tape<float>, sequence::Tape<double>> tape;
  std::vector<py::object> arrays;  // what the tape points into
  Index owner = 0;                 // id of the Recurrence whose weights it holds
  std::atomic<bool> used{false};

  Index bytes() const {
    return std::visit([](const auto& t) { return t.bytes(); }, tape);
  }
};

/// Gradients of weights, or weights: what a layer's flat buffer holds, in this order.
template <class T>
struct Flat {
  T *weight_ih, *weight_hh, *bias, *vectors;  // [G*H,I], [G*H,H], [G*H] or null, [P,H] or null
};

class PyRecurrence {
 public:
  PyRecurrence(const std::string& cell, const std::string& dtype, Index input, Index hidden, bool bias)
      : input_(size(input, "input_size")), hidden_(size(hidden, "hidden_size")), bias_(bias) {
    if (dtype == "float32")
      impl_ = make<float>(cell);
    else if (dtype == "float64")
      impl_ = make<double>(cell);
    else
      throw py::value_error("Recurrence: dtype is '" + dtype + "', expected float32 or float64");
  }

  template <class F>
  auto visit(F&& f) const {
    return std::visit([&](auto& p) { return f(*p); }, impl_);
  }

  py::dict plan(Index steps, Index batch) const {
    const sequence::Plan plan = visit([&](auto& r) { return r.plan(steps, batch); });
    const char* const names[] = {"none", "batch", "hidden"};
    py::dict d;
    d["split"] = names[int(plan.split)];
    d["threads"] = plan.threads;
    d["hoisted"] = plan.hoisted;
    d["chunk"] = plan.chunk;
    return d;
  }

  void pack(const py::array& params, bool training) {
    visit([&](auto& r) { pack_as(r, params, training); });
    packed_ = true;
  }

  py::tuple forward(const py::array& x, const py::object& state, bool training) const {
    if (!packed_) throw py::value_error("Recurrence.forward: there are no weights, expected a call of pack first");
    return visit([&](auto& r) { return forward_as(r, x, state, training); });
  }

  PyStream stream(Index batch) const {
    if (!packed_) throw py::value_error("Recurrence.stream: there are no weights, expected a call of pack first");
    if (batch < 1) {
      throw py::value_error("Recurrence.stream: batch is " + std::to_string(batch) + ", expected at least 1");
    }
    return visit([&](auto& r) { return PyStream(r.stream(batch), batch, input_, hidden_, r.states()); });
  }

  py::tuple backward(PyTape& tape, const py::array& dy, const py::object& dstate, py::array& grads) const {
    return visit([&](auto& r) { return backward_as(r, tape, dy, dstate, grads); });
  }

 private:
  static Index size(Index n, const char* name) {
    if (n < 1) {
      throw py::value_error(std::string("Recurrence: ") + name + " is " + std::to_string(n) + ", expected at least 1");
    }
    return n;
  }

  template <class T>
  std::unique_ptr<sequence::Recurrence<T>> make(const std::string& cell) const {
    auto made = sequence::make_recurrence<T>(cell, input_, hidden_);
    if (!made) throw py::value_error("Recurrence: there is no cell '" + cell + "'");
    return made;
  }

  /// The parts of a flat buffer. Without bias a cell has no per-unit vectors but peepholes, which are no bias.
  template <class T>
  Flat<T> parts(const sequence::Recurrence<std::remove_const_t<T>>& r, T* flat) const {
    const Index rows = r.gates() * hidden_;
    Flat<T> f{flat, flat + rows * input_, nullptr, nullptr};
    T* next = f.weight_hh + rows * hidden_;
    if (bias_) f.bias = next, next += rows;
    if (has_vectors(r)) f.vectors = next;
    return f;
  }

  template <class T>
  bool has_vectors(const sequence::Recurrence<T>& r) const {
    return r.vectors() > 0 && (bias_ || !r.vectors_are_bias());
  }

  template <class T>
  Index flat_size(const sequence::Recurrence<T>& r) const {
    return r.gates() * hidden_ * (input_ + hidden_ + Index(bias_)) + (has_vectors(r) ? r.vectors() * hidden_ : 0);
  }

  template <class T>
  void pack_as(sequence::Recurrence<T>& r, const py::array& params, bool training) {
    const auto from = parts(r, read<T>(params, {flat_size(r)}, "Recurrence.pack: params"));
    py::gil_scoped_release release;
    r.pack(from.weight_ih, from.weight_hh, from.bias, from.vectors, training);
  }

  template <class T>
  py::tuple forward_as(sequence::Recurrence<T>& r, const py::array& x, const py::object& state, bool training) const {
    const Index T_ = axis(x, 3, 0, "Recurrence.forward: x"), B = axis(x, 3, 1, "Recurrence.forward: x");
    ForwardCall<T> call{T_, B, read<T>(x, {T_, B, input_}, "Recurrence.forward: x"), {}, nullptr, {}};
    const States initial = read_states<T>(state, r.states(), B, hidden_, call.initial, "Recurrence.forward: state");
    py::array_t<T> y = empty<T>({T_, B, hidden_});
    call.y = y.mutable_data();
    const States last = new_states<T>(r.states(), B, hidden_, call.final);
    std::unique_ptr<PyTape> tape;
    if (training) {
      tape = std::make_unique<PyTape>();
      tape->owner = id_;
      tape->tape.template emplace<sequence::Tape<T>>();
      tape->arrays = {x, y, initial[0]};
    }
    bool complete;
    {
      py::gil_scoped_release release;
      complete = r.forward(call, tape ? &std::get<sequence::Tape<T>>(tape->tape) : nullptr, &interrupted);
    }
    if (!complete) throw py::error_already_set();
    if (training) make_read_only(y);  // the tape reads it again
    return py::make_tuple(y, as_state(last, r.states()), std::move(tape));
  }

  template <class T>
  py::tuple backward_as(sequence::Recurrence<T>& r, PyTape& py_tape, const py::array& dy, const py::object& dstate,
                        py::array& grads) const {
    auto* tape = std::get_if<sequence::Tape<T>>(&py_tape.tape);
    if (!tape || py_tape.owner != id_) {
      throw py::value_error("Recurrence.backward: tape is of another layer, expected one of this layer's forward");
    }
    const Index T_ = tape->call.steps, B = tape->call.batch;
    BackwardCall<T> call{};
    call.dy = read<T>(dy, {T_, B, hidden_}, "Recurrence.backward: dy");
    const States last = read_states<T>(dstate, r.states(), B, hidden_, call.dfinal, "Recurrence.backward: dstate");
    const auto to = parts(r, write<T>(grads, {flat_size(r)}, "Recurrence.backward: grads"));
    call.dweight_ih = to.weight_ih, call.dweight_hh = to.weight_hh, call.dbias = to.bias, call.dvectors = to.vectors;
    py::array_t<T> dx = empty<T>({T_, B, input_});
    call.dx = dx.mutable_data();
    const States initial = new_states<T>(r.states(), B, hidden_, call.dinitial);
    if (py_tape.used.exchange(true)) {
      throw std::runtime_error("Recurrence.backward: tape was used already, expected a tape of a new forward");
    }
    bool complete;
    {
      py::gil_scoped_release release;
      complete = r.backward(*tape, call, &interrupted);
      tape->gates = {};  // back to the arena before the next layer needs as much
      tape->states = {};
    }
    if (!complete) throw py::error_already_set();
    return py::make_tuple(dx, as_state(initial, r.states()));
  }

  static Index next_id() {
    static std::atomic<Index> id{0};
    return ++id;
  }

  const Index id_ = next_id();
  Index input_, hidden_;
  bool bias_;
  std::atomic<bool> packed_{false};
  std::variant<std::unique_ptr<sequence::Recurrence<float>>, std::unique_ptr<sequence::Recurrence<double>>> impl_;
};

}  // namespace

void register_recurrence(py::module_& m) {
  py::class_<PyTape>(m, "Tape", py::is_final(), py::module_local()).def_property_readonly("nbytes", &PyTape::bytes);
  py::class_<PyStream>(m, "Stream", py::is_final(), py::module_local())
      .def("__call__", &PyStream::call, py::arg("x"))
      .def_property("state", &PyStream::get_state, &PyStream::set_state)
      .def("reset", &PyStream::reset, py::arg("rows") = py::none());
  py::class_<PyRecurrence>(m, "Recurrence", py::is_final(), py::module_local())
      .def(py::init<const std::string&, const std::string&, Index, Index, bool>(), py::arg("cell"), py::arg("dtype"),
           py::arg("input_size"), py::arg("hidden_size"), py::arg("bias"))
      .def("plan", &PyRecurrence::plan, py::arg("steps"), py::arg("batch"))
      .def("pack", &PyRecurrence::pack, py::arg("params"), py::arg("training"))
      .def("forward", &PyRecurrence::forward, py::arg("x"), py::arg("state").none(true), py::arg("training"))
      .def("stream", &PyRecurrence::stream, py::arg("batch"))
      .def("backward", &PyRecurrence::backward, py::arg("tape"), py::arg("dy"), py::arg("dstate").none(true),
           py::arg("grads"));
}

}  // namespace bptt::bindings
