// SPDX-License-Identifier: Apache-2.0
// The classes Recurrence and Tape: arrays in and out of sequence::Recurrence, for float32 and float64 behind one type.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "bindings/call_options.h"
#include "bindings/outer.h"
#include "bindings/states.h"
#include "stack/flat.h"
#include "stack/tape.h"

namespace bptt::bindings {

using sequence::BackwardCall;
using sequence::ForwardCall;
using stack::DirectionPass;
using stack::StackTape;

struct PyTape : Own {
  std::variant<StackTape<float>, StackTape<double>> passes;
  std::vector<py::object> arrays;  // of the caller, which the passes point into
  bool plain = true;
  std::atomic<bool> used{false};

  Index bytes() const {
    return std::visit([](const auto& p) { return p.bytes(); }, passes);
  }

  /// Values that the cell of one pass keeps of each row and unit, in time, by number: [T,B,H] each.
  py::list kept(const std::vector<int>& indices, std::size_t pass) const {
    if (used) throw std::runtime_error("Tape: backward has used what the tape kept, expected a question before it");
    return std::visit([&](const auto& p) { return kept_of(*p.all.at(pass), indices); }, passes);
  }

 private:
  template <class T>
  static py::list kept_of(const DirectionPass<T>& p, const std::vector<int>& indices) {
    if (p.tape.segmented())
      throw std::runtime_error("Tape: a tape with checkpoints keeps no step's values, expected checkpoint=None");
    const Index most = p.tape.gates_width / std::max<Index>(1, p.tape.Hp);
    py::list values;
    for (const int i : indices) {
      if (i <= -p.tape.S || i >= most) throw py::value_error("Tape.kept: there is no value " + std::to_string(i));
      py::array_t<T> out = empty_rows<T>(p.outer(), p.hidden());
      p.copy_kept(out.mutable_data(), p.tape.kept(i));
      values.append(std::move(out));
    }
    return values;
  }
};

class PyRecurrence : public Own {
 public:
  PyRecurrence(const std::string& cell, const std::string& dtype, Index input, Index hidden, bool bias,
               Index projection, Index heads)
      : input_(size(input, "input_size")),
        hidden_(size(hidden, "hidden_size")),
        bias_(bias),
        projection_(projection),
        heads_(size(heads, "num_heads")) {
    if (hidden % heads != 0) {
      throw py::value_error("Recurrence: num_heads is " + std::to_string(heads) +
                            ", expected a divisor of hidden_size, " + std::to_string(hidden));
    }
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

  /// threads: 0 for those that calls may use.
  py::dict memory(Index steps, Index batch, const CallOptions& options, bool training, int threads) const {
    return visit([&](auto& r) { return memory_as(r, steps, batch, options, training, threads); });
  }

  py::tuple backward(PyTape& tape, const py::array& dy, const py::object& dstate, py::array& grads) const {
    return visit([&](auto& r) { return backward_as(r, tape, dy, dstate, grads); });
  }

  /// The weights of a stream of this recurrence as a flat array, as `pack` takes it.
  template <class T>
  py::array_t<T> unpacked(const sequence::Stream<T>& stream) const {
    const sequence::Recurrence<T>& r = as<T>("Stream");
    py::array_t<T> flat = empty<T>({flat_size(r)});
    stream.get_weights(parts(r, flat.mutable_data()));
    return flat;
  }

  bool is_double() const { return impl_.index() == 1; }
  Index input() const { return input_; }
  /// Width of y for one direction.
  Index output() const {
    return visit([](auto& r) { return r.width(0); });
  }

 private:
  friend class Stack;

  static Index size(Index n, const char* name) {
    if (n < 1) {
      throw py::value_error(std::string("Recurrence: ") + name + " is " + std::to_string(n) + ", expected at least 1");
    }
    return n;
  }

  template <class T>
  std::unique_ptr<sequence::Recurrence<T>> make(const std::string& cell) const {
    auto made = sequence::make_recurrence<T>(cell, input_, hidden_, projection_, heads_);
    if (!made) throw py::value_error("Recurrence: there is no cell '" + cell + "'");
    if (made->width(0) < 1 || made->width(0) > hidden_) {
      throw py::value_error("Recurrence: proj_size is " + std::to_string(projection_) + ", expected 1 to " +
                            std::to_string(hidden_));
    }
    if (made->heads() != heads_) throw py::value_error("Recurrence: the cell '" + cell + "' has no heads, expected 1");
    return made;
  }

  template <class T>
  stack::FlatParts<T> parts(const sequence::Recurrence<std::remove_const_t<T>>& r, T* flat) const {
    return stack::flat_parts(r, input_, bias_, flat);
  }

  template <class T>
  Index flat_size(const sequence::Recurrence<T>& r) const {
    return parts(r, static_cast<T*>(nullptr)).size;
  }

  template <class T>
  void pack_as(sequence::Recurrence<T>& r, const py::array& params, bool training) {
    const stack::FlatParts<const T> p = parts(r, read<T>(params, {flat_size(r)}, "Recurrence.pack: params"));
    without_gil([&] { return r.pack(p, training, &interrupted); });
  }

  template <class T>
  py::tuple forward_as(sequence::Recurrence<T>& r, const py::array& x, const py::object& state, bool training) const {
    const OuterShape outer = outer_shape(x, nullptr, "Recurrence.forward: x");
    const Index T_ = outer.steps, B = outer.batch;
    ForwardCall<T> call{{T_, B}, read_rows<T>(outer, x, input_, "Recurrence.forward: x"), {}, nullptr, {}};
    const Widths width = widths(r);
    const States initial = read_states<T>(state, width, 1, B, call.initial, "Recurrence.forward: state");
    py::array_t<T> y = empty_rows<T>(outer, r.width(0));
    call.y = y.mutable_data();
    const States last = new_states<T>(width, 1, B, call.final);
    std::unique_ptr<PyTape> tape;
    DirectionPass<T>* pass = nullptr;
    if (training) {
      tape = new_tape<T>();
      pass = &add_pass<T>(*tape);
      pass->prepare(r, outer);
      auto& arrays = tape->arrays;
      arrays = {x, y};
      arrays.insert(arrays.end(), initial.begin(), initial.end());
    }
    without_gil([&] { return r.forward(call, pass ? &pass->tape : nullptr, 0, Pool::size(), &interrupted); });
    if (training) make_read_only(y);  // the tape reads it again
    return py::make_tuple(y, as_state(last, r.states()), std::move(tape));
  }

  template <class T>
  py::tuple backward_as(sequence::Recurrence<T>& r, PyTape& py_tape, const py::array& dy, const py::object& dstate,
                        py::array& grads) const {
    DirectionPass<T>& pass = own<T>(py_tape, true, 0);
    const Index T_ = pass.batch_sizes().steps, B = pass.batch_sizes().batch;
    BackwardCall<T> call = gradients(r, grads);
    call.dy = read<T>(dy, {T_, B, r.width(0)}, "Recurrence.backward: dy");
    const Widths width = widths(r);
    const States last = read_states<T>(dstate, width, 1, B, call.dfinal, "Recurrence.backward: dstate");
    py::array_t<T> dx = empty<T>({T_, B, input_});
    call.dx = dx.mutable_data();
    const States initial = new_states<T>(width, 1, B, call.dinitial);
    use(py_tape);
    without_gil([&] {
      const bool complete = r.backward(pass.tape, call, Pool::size(), &interrupted);
      pass.release();  // before the next layer needs as much
      return complete;
    });
    py_tape.arrays.clear();  // with the GIL
    return py::make_tuple(dx, as_state(initial, r.states()));
  }

  template <class T>
  py::dict memory_as(const sequence::Recurrence<T>& r, Index steps, Index batch, const CallOptions& options,
                     bool training, int threads) const {
    const sequence::StateOptions<T> state_options = options.options.state_options<T>(training);
    const sequence::BatchSizes batch_sizes =
        options.options.order ? options.options.order->batch_sizes() : sequence::BatchSizes{steps, batch};
    const auto m =
        r.memory(batch_sizes, options.options.segment, options.needs_transition(training) ? &state_options : nullptr,
                 training, threads > 0 ? threads : Pool::size().load());
    py::dict d;
    d["weights"] = m.weights, d["tape"] = m.tape, d["scratch"] = m.scratch;
    return d;
  }

  template <class T>
  static std::unique_ptr<PyTape> new_tape() {
    auto tape = std::make_unique<PyTape>();
    if (!std::holds_alternative<StackTape<T>>(tape->passes)) tape->passes.template emplace<StackTape<T>>();
    return tape;
  }

  template <class T>
  DirectionPass<T>& add_pass(PyTape& tape) const {
    auto& all = std::get<StackTape<T>>(tape.passes).all;
    all.push_back(std::make_unique<DirectionPass<T>>());
    all.back()->owner = id_;
    return *all.back();
  }

  /// A pass of a tape, after a check that this layer made it, in this way.
  template <class T>
  DirectionPass<T>& own(PyTape& tape, bool plain, std::size_t i) const {
    auto* passes = std::get_if<StackTape<T>>(&tape.passes);
    if (!passes || tape.plain != plain || i >= passes->all.size() || passes->all[i]->owner != id_) {
      throw py::value_error("Recurrence.backward: tape is of another layer, expected one of this layer's forward");
    }
    return *passes->all[i];
  }

  static void use(PyTape& tape) {
    if (tape.used.exchange(true)) {
      throw std::runtime_error("Recurrence.backward: tape was used already, expected a tape of a new forward");
    }
  }

  template <class T>
  BackwardCall<T> gradients(const sequence::Recurrence<T>& r, py::array& grads) const {
    BackwardCall<T> call{};
    call.d = parts(r, write<T>(grads, {flat_size(r)}, "Recurrence.backward: grads"));
    return call;
  }

  static Index next_id() {
    static std::atomic<Index> id{0};
    return ++id;
  }

  const Index id_ = next_id();
  Index input_, hidden_;
  bool bias_;
  Index projection_, heads_;
  std::atomic<bool> packed_{false};
  std::variant<std::unique_ptr<sequence::Recurrence<float>>, std::unique_ptr<sequence::Recurrence<double>>> impl_;
};

}  // namespace bptt::bindings
