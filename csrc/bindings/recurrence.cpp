// SPDX-License-Identifier: Apache-2.0
// The classes Recurrence and Tape: arrays in and out of sequence::Recurrence, for float32 and float64 behind one type.
#include "sequence/recurrence.h"

#include <pybind11/stl.h>

#include <atomic>
#include <optional>
#include <variant>

#include "bindings/arrays.h"
#include "bindings/register.h"

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

class PyRecurrence {
 public:
  PyRecurrence(const std::string& cell, const std::string& dtype, Index input, Index hidden)
      : input_(size(input, "input_size")), hidden_(size(hidden, "hidden_size")) {
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
  int gates() const {
    return visit([](auto& r) { return r.gates(); });
  }
  int states() const {
    return visit([](auto& r) { return r.states(); });
  }
  int vectors() const {
    return visit([](auto& r) { return r.vectors(); });
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

  void pack(const py::array& weight_ih, const py::array& weight_hh, const std::optional<py::array>& bias,
            const std::optional<py::array>& vectors, bool training) {
    visit([&](auto& r) { pack_as(r, weight_ih, weight_hh, bias, vectors, training); });
    packed_ = true;
  }

  py::tuple forward(const py::array& x, const py::tuple& states, bool training) const {
    if (!packed_) throw py::value_error("Recurrence.forward: there are no weights, expected a call of pack first");
    return visit([&](auto& r) { return forward_as(r, x, states, training); });
  }

  py::tuple backward(PyTape& tape, const py::array& dy, const py::tuple& dstates, py::array& dweight_ih,
                     py::array& dweight_hh, std::optional<py::array>& dbias, std::optional<py::array>& dvectors) const {
    return visit([&](auto& r) { return backward_as(r, tape, dy, dstates, dweight_ih, dweight_hh, dbias, dvectors); });
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

  template <class T>
  void pack_as(sequence::Recurrence<T>& r, const py::array& weight_ih, const py::array& weight_hh,
               const std::optional<py::array>& bias, const std::optional<py::array>& vectors, bool training) {
    const Index rows = r.gates() * hidden_;
    const T* ih = read<T>(weight_ih, {rows, input_}, "Recurrence.pack: weight_ih");
    const T* hh = read<T>(weight_hh, {rows, hidden_}, "Recurrence.pack: weight_hh");
    const T* b = bias ? read<T>(*bias, {rows}, "Recurrence.pack: bias") : nullptr;
    if (!vectors && r.vectors() > 0) throw py::value_error("Recurrence.pack: vectors are missing");
    const T* p = vectors ? read<T>(*vectors, {r.vectors(), hidden_}, "Recurrence.pack: vectors") : nullptr;
    py::gil_scoped_release release;
    r.pack(ih, hh, b, p, training);
  }

  template <class T>
  py::tuple forward_as(sequence::Recurrence<T>& r, const py::array& x, const py::tuple& states, bool training) const {
    const Index T_ = axis(x, 3, 0, "Recurrence.forward: x"), B = axis(x, 3, 1, "Recurrence.forward: x");
    ForwardCall<T> call{T_, B, read<T>(x, {T_, B, input_}, "Recurrence.forward: x"), {}, nullptr, {}};
    check_count(states, r.states(), "Recurrence.forward: states");
    py::array_t<T> y = empty<T>({T_, B, hidden_});
    call.y = y.mutable_data();
    py::tuple final_states(r.states());
    for (int i = 0; i < r.states(); ++i) {
      call.initial[i] = read<T>(states[i].cast<py::array>(), {B, hidden_}, "Recurrence.forward: state");
      py::array_t<T> state = empty<T>({B, hidden_});
      call.final[i] = state.mutable_data();
      final_states[i] = state;
    }
    std::unique_ptr<PyTape> tape;
    if (training) {
      tape = std::make_unique<PyTape>();
      tape->owner = id_;
      tape->tape.template emplace<sequence::Tape<T>>();
      tape->arrays = {x, y, py::reinterpret_borrow<py::object>(states[0])};
    }
    bool complete;
    {
      py::gil_scoped_release release;
      complete = r.forward(call, tape ? &std::get<sequence::Tape<T>>(tape->tape) : nullptr, &interrupted);
    }
    if (!complete) throw py::error_already_set();
    if (training) y.attr("setflags")(py::arg("write") = false);  // the tape reads it again
    return py::make_tuple(y, final_states, std::move(tape));
  }

  template <class T>
  py::tuple backward_as(sequence::Recurrence<T>& r, PyTape& py_tape, const py::array& dy, const py::tuple& dstates,
                        py::array& dweight_ih, py::array& dweight_hh, std::optional<py::array>& dbias,
                        std::optional<py::array>& dvectors) const {
    auto* tape = std::get_if<sequence::Tape<T>>(&py_tape.tape);
    if (!tape || py_tape.owner != id_) {
      throw py::value_error("Recurrence.backward: tape is of another layer, expected one of this layer's forward");
    }
    const Index T_ = tape->call.steps, B = tape->call.batch, rows = r.gates() * hidden_;
    BackwardCall<T> call{
        read<T>(dy, {T_, B, hidden_}, "Recurrence.backward: dy"), {}, nullptr, {}, nullptr, nullptr, nullptr, nullptr};
    check_count(dstates, r.states(), "Recurrence.backward: dstates");
    call.dweight_ih = write<T>(dweight_ih, {rows, input_}, "Recurrence.backward: dweight_ih");
    call.dweight_hh = write<T>(dweight_hh, {rows, hidden_}, "Recurrence.backward: dweight_hh");
    if (dbias) call.dbias = write<T>(*dbias, {rows}, "Recurrence.backward: dbias");
    if (dvectors) call.dvectors = write<T>(*dvectors, {r.vectors(), hidden_}, "Recurrence.backward: dvectors");
    py::array_t<T> dx = empty<T>({T_, B, input_});
    call.dx = dx.mutable_data();
    py::tuple dinitial(r.states());
    for (int i = 0; i < r.states(); ++i) {
      call.dfinal[i] = read<T>(dstates[i].cast<py::array>(), {B, hidden_}, "Recurrence.backward: dstate");
      py::array_t<T> state = empty<T>({B, hidden_});
      call.dinitial[i] = state.mutable_data();
      dinitial[i] = state;
    }
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
    return py::make_tuple(dx, dinitial);
  }

  static void check_count(const py::tuple& states, int count, const char* name) {
    if (int(states.size()) != count) {
      throw py::value_error(std::string(name) + " has " + std::to_string(states.size()) + " arrays, expected " +
                            std::to_string(count));
    }
  }

  static Index next_id() {
    static std::atomic<Index> id{0};
    return ++id;
  }

  const Index id_ = next_id();
  Index input_, hidden_;
  std::atomic<bool> packed_{false};
  std::variant<std::unique_ptr<sequence::Recurrence<float>>, std::unique_ptr<sequence::Recurrence<double>>> impl_;
};

}  // namespace

void register_recurrence(py::module_& m) {
  py::class_<PyTape>(m, "Tape", py::is_final(), py::module_local()).def_property_readonly("nbytes", &PyTape::bytes);
  py::class_<PyRecurrence>(m, "Recurrence", py::is_final(), py::module_local())
      .def(py::init<const std::string&, const std::string&, Index, Index>(), py::arg("cell"), py::arg("dtype"),
           py::arg("input_size"), py::arg("hidden_size"))
      .def_property_readonly("gates", &PyRecurrence::gates)
      .def_property_readonly("states", &PyRecurrence::states)
      .def_property_readonly("vectors", &PyRecurrence::vectors)
      .def("plan", &PyRecurrence::plan, py::arg("steps"), py::arg("batch"))
      .def("pack", &PyRecurrence::pack, py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias").none(true),
           py::arg("vectors").none(true), py::arg("training"))
      .def("forward", &PyRecurrence::forward, py::arg("x"), py::arg("states"), py::arg("training"))
      .def("backward", &PyRecurrence::backward, py::arg("tape"), py::arg("dy"), py::arg("dstates"),
           py::arg("dweight_ih"), py::arg("dweight_hh"), py::arg("dbias").none(true), py::arg("dvectors").none(true));
}

}  // namespace bptt::bindings
