// SPDX-License-Identifier: Apache-2.0
// The class Stream: one time step per call through the layers of one stack, for a fixed number of rows, without an
// allocation. x may be the y of the last call: it is read before y is written.
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <variant>

#include "bindings/own.h"
#include "bindings/stack.h"
#include "bindings/stream_call.h"

namespace bptt::bindings {

class PyStream : public Own {
 public:
  /// A stack of one direction, with the weights that it packed last. Of `options`, zoneout and clipping. `initial`: the
  /// state [L,B,.] it begins with; None is zeros.
  PyStream(py::object stack, Index batch, const CallOptions& options, py::object initial)
      : stack_object_(std::move(stack)),
        stack_(stack_object_.cast<const PyStack*>()),
        options_(options),
        batch_(batch),
        initial_(std::move(initial)) {
    if (!stack_) throw py::type_error("Stream: stack is None, expected a Stack");
    if (batch < 1) throw py::value_error("Stream: batch is " + std::to_string(batch) + ", expected at least 1");
    stack_->visit([&](auto& s) {
      build(s);
      allocate(s);
    });
    set_state_now(py::none());
  }

  /// x [B,I] -> y [B,R], the same array each time; x [T,B,I] -> a new y [T,B,R].
  py::object call(py::handle x) {
    const OneCall one(busy_);
    return std::visit([&](auto& layers) { return call_as(layers, x); }, layers_);
  }

  /// Go on from the present state with the weights that a stack of the same sizes packed last; `initial` as above.
  void take_weights(py::object stack, const py::object& initial) {
    const OneCall one(busy_);
    const auto* other = stack.cast<const PyStack*>();
    if (!other || !other->has_sizes_of(*stack_))
      throw py::value_error("Stream: the stack has other sizes than before, expected the same");
    const py::object state = get_state_now();
    other->visit([&](auto& s) { build(s); });
    stack_ = other;
    stack_object_ = std::move(stack);
    initial_ = initial;
    set_state_now(state);
  }

  /// The weights in use, as the stack took them: a flat array for each layer.
  py::list weights() {
    const OneCall one(busy_);
    return stack_->visit([&](auto& s) { return weights_of(s); });
  }

  py::object get_state() {
    const OneCall one(busy_);
    return get_state_now();
  }

  /// None sets the initial state.
  void set_state(const py::object& state) {
    const OneCall one(busy_);
    set_state_now(state);
  }

  /// Begins again, for all rows or those given.
  void reset(const py::object& rows) {
    const OneCall one(busy_);
    if (rows.is_none()) return set_state_now(rows);
    const py::object state = get_state_now(),
                     where = py::make_tuple(py::slice(py::none(), py::none(), py::none()), rows);
    for (int i = 0; i < states(); ++i) {
      py::object part = part_of(state, i);
      if (initial_.is_none())
        part[where] = 0;
      else
        part[where] = py::object(part_of(initial_, i)[where]);
    }
    set_state_now(state);
  }

 private:
  template <class T>
  using Layers = std::unique_ptr<stack::StackStream<T>>;

  int states() const {
    return stack_->visit([](auto& s) { return s.states(); });
  }

  template <class T>
  void allocate(const stack::Stack<T>& s) {
    py::array_t<T> y = empty<T>({batch_, s.width(0)});
    y_data_ = y.mutable_data();
    make_read_only(y);
    y_ = std::move(y);
  }

  template <class T>
  void build(const stack::Stack<T>& s) {
    if (s.sizes().directions > 1) throw py::value_error("Stream: the stack has two directions, expected one");
    if (!s.packed()) throw py::value_error("Stream: there are no weights, expected a call of pack first");
    layers_ = s.stream(batch_, options_.options);
  }

  template <class T>
  const stack::Stack<T>& stack() const {
    return stack_->as<T>();
  }

  template <class T>
  py::object call_as(Layers<T>& layers, py::handle object) {
    const py::array x = as_array(object, "Stream: x");
    const Index I = stack<T>().sizes().input, H = stack<T>().width(0);
    require_state();
    if (x.ndim() == 2) {
      const T* in = read<T>(x, {batch_, I}, "Stream: x");
      torn_ = true;
      layers->step(in, static_cast<T*>(y_data_));
      torn_ = false;
      return y_;
    }
    if (x.ndim() != 3) throw step_or_chunk_error(x, {batch_, I});
    const Index T_ = x.shape(0);
    const T* in = read<T>(x, {T_, batch_, I}, "Stream: x");
    py::array_t<T> y = empty<T>({T_, batch_, H});
    T* out = y.mutable_data();
    const py::object before = get_state_now();
    try {
      without_gil([&](Poll& poll) { return layers->chunk(in, out, T_, poll); });
    } catch (...) {
      set_state_as(layers, before);  // the layers are at different steps
      throw;
    }
    return std::move(y);
  }

  template <class T>
  py::list weights_of(const stack::Stack<T>& s) const {
    py::list all;
    for (Index k = 0; k < s.sizes().layers; ++k) {
      py::array_t<T> flat = empty<T>({s.parameters(k).size()});
      std::get<Layers<T>>(layers_)->get_weights(k, s.parameters(k).at(flat.mutable_data()));
      all.append(std::move(flat));
    }
    return all;
  }

  void require_state() const {
    if (torn_) throw std::runtime_error("Stream: a step failed between two layers, expected reset() or a new state");
  }
  py::object get_state_now() const {
    require_state();
    return std::visit([&](const auto& layers) { return get_state_as(layers); }, layers_);
  }
  template <class T>
  py::object get_state_as(const Layers<T>& layers) const {
    T* values[sequence::kMaxStates];
    const States made = new_states(stack<T>(), stack<T>().sizes().layers, batch_, values);
    layers->get_state(values);
    return as_state(made, states());
  }

  void set_state_now(const py::object& state) {
    std::visit([&](auto& layers) { set_state_as(layers, state.is_none() ? initial_ : state); }, layers_);
  }
  template <class T>
  void set_state_as(Layers<T>& layers, const py::object& state) {
    const T* values[sequence::kMaxStates];
    const States keep = read_states(stack<T>(), state, stack<T>().sizes().layers, batch_, values, "Stream: state");
    layers->set_state(values);
    torn_ = false;
  }

  py::object part_of(const py::object& state, int i) const {
    return states() == 1 ? state : py::object(py::reinterpret_borrow<py::tuple>(state)[std::size_t(i)]);
  }

  py::object stack_object_;  // keeps what stack_ points to
  const PyStack* stack_;
  CallOptions options_;
  Index batch_;
  py::object initial_;
  std::variant<Layers<float>, Layers<double>> layers_;
  py::array y_;
  void* y_data_ = nullptr;
  bool torn_ = false;  // a step failed (no memory), and the layers are at different steps
  std::atomic<bool> busy_{false};
};

}  // namespace bptt::bindings
