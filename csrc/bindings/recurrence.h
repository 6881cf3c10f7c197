// SPDX-License-Identifier: Apache-2.0
// The classes Recurrence and Tape: arrays in and out of sequence::Recurrence, for float32 and float64 behind one type.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "bindings/pass.h"
#include "bindings/stream.h"
#include "sequence/recurrence.h"

namespace bptt::bindings {

using sequence::BackwardCall;
using sequence::ForwardCall;

struct PyTape {
  std::variant<Pass<float>, Pass<double>> pass;
  Index owner = 0;  // id of the Recurrence whose weights it holds
  bool plain = true;
  std::atomic<bool> used{false};

  Index bytes() const {
    return std::visit([](const auto& p) { return p.bytes(); }, pass);
  }

  /// The i-th value that the cell keeps of each row and unit, in time: [T,B,H].
  py::array kept(int i) const {
    return std::visit([&](const auto& p) { return kept_as(p, i); }, pass);
  }

 private:
  template <class T>
  py::array kept_as(const Pass<T>& p, int i) const {
    if (used) throw std::runtime_error("Tape: backward has used what the tape kept, expected a question before it");
    if (p.tape.segmented())
      throw std::runtime_error("Tape: a tape with checkpoints keeps no step's values, expected checkpoint=None");
    if (i < -1 || i >= p.tape.gates_width / std::max<Index>(1, p.tape.Hp) || (i < 0 && p.tape.states.size() == 0))
      throw py::value_error("Tape.kept: there is no value " + std::to_string(i));
    const sequence::Kept<T> kept = p.tape.kept(i);
    return p.kept(kept.values, kept.ld);
  }
};

/// Where a layer's flat buffer has what.
template <class T>
struct Parts {
  T *weight_ih, *weight_hh, *bias, *vectors, *projection;  // the last three null where there is none
  Index size;
};

class PyRecurrence {
 public:
  PyRecurrence(const std::string& cell, const std::string& dtype, Index input, Index hidden, bool bias,
               Index projection)
      : input_(size(input, "input_size")), hidden_(size(hidden, "hidden_size")), bias_(bias), projection_(projection) {
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
  template <class T>
  const sequence::Recurrence<T>& as(const char* where) const {
    const auto* impl = std::get_if<std::unique_ptr<sequence::Recurrence<T>>>(&impl_);
    if (!impl) throw py::value_error(std::string(where) + ": directions differ in dtype");
    return **impl;
  }

  py::dict plan(Index steps, Index batch) const {
    const sequence::Plan plan = visit([&](auto& r) { return r.plan(steps, batch, Pool::size()); });
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

  py::dict memory(Index steps, Index batch, const Setup& setup, bool training) const {
    return visit([&](auto& r) { return memory_as(r, steps, batch, setup, training); });
  }

  PyStream stream(Index batch, const Setup* setup) const {
    if (!packed_) throw py::value_error("Recurrence.stream: there are no weights, expected a call of pack first");
    if (batch < 1) {
      throw py::value_error("Recurrence.stream: batch is " + std::to_string(batch) + ", expected at least 1");
    }
    return visit([&](auto& r) { return stream_as(r, batch, setup); });
  }

  py::tuple backward(PyTape& tape, const py::array& dy, const py::object& dstate, py::array& grads) const {
    return visit([&](auto& r) { return backward_as(r, tape, dy, dstate, grads); });
  }

  bool is_double() const { return impl_.index() == 1; }
  Index input() const { return input_; }
  /// Width of y for one direction.
  Index output() const {
    return visit([](auto& r) { return r.width(0); });
  }

 private:
  friend class Directions;

  static Index size(Index n, const char* name) {
    if (n < 1) {
      throw py::value_error(std::string("Recurrence: ") + name + " is " + std::to_string(n) + ", expected at least 1");
    }
    return n;
  }

  template <class T>
  std::unique_ptr<sequence::Recurrence<T>> make(const std::string& cell) const {
    auto made = sequence::make_recurrence<T>(cell, input_, hidden_, projection_);
    if (!made) throw py::value_error("Recurrence: there is no cell '" + cell + "'");
    if (made->width(0) < 1 || made->width(0) > hidden_) {
      throw py::value_error("Recurrence: proj_size is " + std::to_string(projection_) + ", expected 1 to " +
                            std::to_string(hidden_));
    }
    return made;
  }

  /// The parts of a flat buffer. Without bias a cell has no per-unit vectors but those that are no bias.
  template <class T>
  Parts<T> parts(const sequence::Recurrence<std::remove_const_t<T>>& r, T* flat) const {
    const Index rows = r.gates() * hidden_;
    T* next = flat;
    const auto take = [&](Index n, bool there = true) { return there ? std::exchange(next, next + n) : nullptr; };
    Parts<T> p;
    p.weight_ih = take(rows * input_);
    p.weight_hh = take(rows * r.width(0));
    p.bias = take(rows, bias_);
    p.vectors = take(r.vectors() * hidden_, r.vectors() > 0 && (bias_ || !r.vectors_are_bias()));
    p.projection = take(r.width(0) * hidden_, r.projects());
    p.size = next - flat;
    return p;
  }

  template <class T>
  Index flat_size(const sequence::Recurrence<T>& r) const {
    return parts(r, static_cast<T*>(nullptr)).size;
  }

  template <class T>
  void pack_as(sequence::Recurrence<T>& r, const py::array& params, bool training) {
    const auto p = parts(r, read<T>(params, {flat_size(r)}, "Recurrence.pack: params"));
    py::gil_scoped_release release;
    r.pack({p.weight_ih, p.weight_hh, p.bias, p.vectors, p.projection}, training);
  }

  template <class T>
  py::tuple forward_as(sequence::Recurrence<T>& r, const py::array& x, const py::object& state, bool training) const {
    const Index T_ = axis(x, 3, 0, "Recurrence.forward: x"), B = axis(x, 3, 1, "Recurrence.forward: x");
    ForwardCall<T> call{{T_, B}, read<T>(x, {T_, B, input_}, "Recurrence.forward: x"), {}, nullptr, {}};
    const States initial = read_states<T>(state, r, B, call.initial, "Recurrence.forward: state");
    py::array_t<T> y = empty<T>({T_, B, r.width(0)});
    call.y = y.mutable_data();
    const States last = new_states<T>(r, B, call.final);
    std::unique_ptr<PyTape> tape;
    if (training) {
      tape = new_tape<T>();
      std::get<Pass<T>>(tape->pass).adopt(call.time, hidden_, {x, y, initial[0]});
    }
    bool complete;
    {
      py::gil_scoped_release release;
      complete = r.forward(call, tape ? &std::get<Pass<T>>(tape->pass).tape : nullptr, 0, Pool::size(), &interrupted);
    }
    if (!complete) throw py::error_already_set();
    if (training) make_read_only(y);  // the tape reads it again
    return py::make_tuple(y, as_state(last, r.states()), std::move(tape));
  }

  template <class T>
  py::tuple backward_as(sequence::Recurrence<T>& r, PyTape& py_tape, const py::array& dy, const py::object& dstate,
                        py::array& grads) const {
    Pass<T>& pass = own<T>(py_tape, true);
    const Index T_ = pass.tape.call.time.steps, B = pass.tape.call.time.batch;
    BackwardCall<T> call = gradients(r, grads);
    call.dy = read<T>(dy, {T_, B, r.width(0)}, "Recurrence.backward: dy");
    const States last = read_states<T>(dstate, r, B, call.dfinal, "Recurrence.backward: dstate");
    py::array_t<T> dx = empty<T>({T_, B, input_});
    call.dx = dx.mutable_data();
    const States initial = new_states<T>(r, B, call.dinitial);
    use(py_tape);
    bool complete;
    {
      py::gil_scoped_release release;
      complete = r.backward(pass.tape, call, Pool::size(), &interrupted);
      pass.release();  // before the next layer needs as much
    }
    if (!complete) throw py::error_already_set();
    return py::make_tuple(dx, as_state(initial, r.states()));
  }

  template <class T>
  py::dict memory_as(const sequence::Recurrence<T>& r, Index steps, Index batch, const Setup& setup,
                     bool training) const {
    sequence::Between<T> between;
    between.clip = T(setup.clip), between.dropout = training ? setup.dropout : 0;
    for (int i = 0; i < r.states(); ++i) between.zoneout[i] = setup.zoneout[std::size_t(i)];
    const sequence::Timeline time = setup.rows ? setup.rows->timeline() : sequence::Timeline{steps, batch};
    const auto m = r.memory(time, setup.segment, setup.crosses(training) ? &between : nullptr, training);
    py::dict d;
    d["weights"] = m.weights, d["tape"] = m.tape, d["scratch"] = m.scratch;
    return d;
  }

  template <class T>
  PyStream stream_as(const sequence::Recurrence<T>& r, Index batch, const Setup* setup) const {
    sequence::Between<T> between;
    if (setup) {
      between.clip = T(setup->clip);
      for (int i = 0; i < r.states(); ++i) between.zoneout[i] = setup->zoneout[std::size_t(i)];
    }
    return PyStream(r.stream(batch, &between), batch, input_, {r.width(0), r.states() > 1 ? r.width(1) : 0});
  }

  template <class T>
  std::unique_ptr<PyTape> new_tape() const {
    auto tape = std::make_unique<PyTape>();
    tape->owner = id_;
    if (!std::holds_alternative<Pass<T>>(tape->pass)) tape->pass.template emplace<Pass<T>>();
    return tape;
  }

  /// The tape's pass, after a check that this layer made it, in this way.
  template <class T>
  Pass<T>& own(PyTape& tape, bool plain) const {
    auto* pass = std::get_if<Pass<T>>(&tape.pass);
    if (!pass || tape.owner != id_ || tape.plain != plain) {
      throw py::value_error("Recurrence.backward: tape is of another layer, expected one of this layer's forward");
    }
    return *pass;
  }

  static void use(PyTape& tape) {
    if (tape.used.exchange(true)) {
      throw std::runtime_error("Recurrence.backward: tape was used already, expected a tape of a new forward");
    }
  }

  template <class T>
  BackwardCall<T> gradients(const sequence::Recurrence<T>& r, py::array& grads) const {
    const auto to = parts(r, write<T>(grads, {flat_size(r)}, "Recurrence.backward: grads"));
    BackwardCall<T> call{};
    call.dweight_ih = to.weight_ih, call.dweight_hh = to.weight_hh, call.dbias = to.bias, call.dvectors = to.vectors;
    call.dprojection = to.projection;
    return call;
  }

  static Index next_id() {
    static std::atomic<Index> id{0};
    return ++id;
  }

  const Index id_ = next_id();
  Index input_, hidden_;
  bool bias_;
  Index projection_;
  std::atomic<bool> packed_{false};
  std::variant<std::unique_ptr<sequence::Recurrence<float>>, std::unique_ptr<sequence::Recurrence<double>>> impl_;
};

}  // namespace bptt::bindings
