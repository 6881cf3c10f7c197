// SPDX-License-Identifier: Apache-2.0
// The class Stream: one time step per call through the layers of one stack, for a fixed number of rows, without an
// allocation. x may be the y of the last call: it is read before y is written.
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/own.h"
#include "bindings/stack.h"
#include "bindings/stream_call.h"

namespace bptt::bindings {

class PyStream : public Own {
 public:
  /// The kernels of a stack of one direction, layer by layer, with the weights packed last. Of `options`, zoneout and
  /// clipping. `initial`: the state [L,B,.] it begins with; None is zeros.
  PyStream(const py::list& kernels, Index batch, const CallOptions& options, py::object initial)
      : kernels_(kernels),
        all_(kernels.cast<std::vector<PyRecurrence*>>()),
        options_(options),
        batch_(batch),
        initial_(std::move(initial)) {
    const Stack check(all_, 1);
    if (batch < 1) throw py::value_error("Stream: batch is " + std::to_string(batch) + ", expected at least 1");
    all_[0]->visit([&](auto& r) { allocate(r); });
    build(all_);
    set_state_now(py::none());
  }

  /// x [B,I] -> y [B,H], the same array each time; x [T,B,I] -> a new y [T,B,H].
  py::object call(py::handle x) {
    const OneCall one(busy_);
    return std::visit([&](auto& layers) { return call_as(layers, x); }, layers_);
  }

  /// Go on from the present state with kernels of the same sizes, and the weights they packed last; `initial` as above.
  void take_weights(const py::list& kernels, const py::object& initial) {
    const OneCall one(busy_);
    auto all = kernels.cast<std::vector<PyRecurrence*>>();
    const Stack check(all, 1);
    const auto same = [](const PyRecurrence* a, const PyRecurrence* b) {
      return a->is_double() == b->is_double() && a->input() == b->input() &&
             a->visit([](auto& r) { return widths(r); }) == b->visit([](auto& r) { return widths(r); });
    };
    if (!std::equal(all.begin(), all.end(), all_.begin(), all_.end(), same))
      throw py::value_error("Stream: kernels have other sizes than before, expected the same");
    const py::object state = get_state_now();
    build(all);
    all_ = std::move(all);
    kernels_ = py::tuple(kernels);
    initial_ = initial;
    set_state_now(state);
  }

  /// The weights in use, as the kernels took them: a flat array for each layer.
  py::list weights() {
    const OneCall one(busy_);
    return std::visit([&](const auto& layers) { return weights_of(layers); }, layers_);
  }

  py::object get_state() {
    const OneCall one(busy_);
    return get_state_now();
  }

  /// None is what it began with.
  void set_state(const py::object& state) {
    const OneCall one(busy_);
    set_state_now(state);
  }

  /// Begin again: all rows, or those given.
  void reset(const py::object& rows) {
    const OneCall one(busy_);
    if (rows.is_none()) return set_state_now(rows);
    const py::object state = get_state_now(),
                     where = py::make_tuple(py::slice(py::none(), py::none(), py::none()), rows);
    for (int i = 0; i < count(width_); ++i) {
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
  using Layers = stack::StackStream<T>;

  template <class T>
  void allocate(const sequence::Recurrence<T>& r) {
    width_ = widths(r);
    py::array_t<T> y = empty<T>({batch_, width_[0]});
    y_data_ = y.mutable_data();
    make_read_only(y);
    y_ = std::move(y);
    layers_ = Layers<T>();
  }

  void build(const std::vector<PyRecurrence*>& all) {
    std::visit([&](auto& layers) { build_as(layers, all); }, layers_);
  }
  template <class T>
  void build_as(Layers<T>& layers, const std::vector<PyRecurrence*>& all) const {
    layers = Layers<T>(Stack(all, 1).recurrences<T>(), all[0]->input(), batch_, options_.options);
  }

  template <class T>
  py::object call_as(Layers<T>& layers, py::handle object) {
    const py::array x = as_array(object, "Stream: x");
    const Index I = all_[0]->input(), H = width_[0];
    if (x.ndim() == 2) {
      layers.step(read<T>(x, {batch_, I}, "Stream: x"), static_cast<T*>(y_data_));
      return y_;
    }
    if (x.ndim() != 3) throw step_or_chunk_error(x, {batch_, I});
    const Index T_ = x.shape(0);
    const T* in = read<T>(x, {T_, batch_, I}, "Stream: x");
    py::array_t<T> y = empty<T>({T_, batch_, H});
    T* out = y.mutable_data();
    const py::object before = get_state_now();
    try {
      without_gil([&](Poll& poll) { return layers.chunk(in, out, T_, poll); });
    } catch (...) {
      set_state_as(layers, before);  // the layers are at different steps
      throw;
    }
    return std::move(y);
  }

  template <class T>
  py::list weights_of(const Layers<T>& layers) const {
    py::list all;
    for (Index k = 0; k < layers.layers(); ++k) all.append(all_[std::size_t(k)]->unpacked(layers.layer(k)));
    return all;
  }

  py::object get_state_now() const {
    return std::visit([&](const auto& layers) { return get_state_as(layers); }, layers_);
  }
  template <class T>
  py::object get_state_as(const Layers<T>& layers) const {
    T* values[sequence::kMaxStates];
    const States states = new_states<T>(width_, layers.layers(), batch_, values);
    layers.get_state(values);
    return as_state(states, count(width_));
  }

  void set_state_now(const py::object& state) {
    std::visit([&](auto& layers) { set_state_as(layers, state.is_none() ? initial_ : state); }, layers_);
  }
  template <class T>
  void set_state_as(Layers<T>& layers, const py::object& state) {
    const T* values[sequence::kMaxStates];
    const States keep = read_states<T>(state, width_, layers.layers(), batch_, values, "Stream: state");
    layers.set_state(values);
  }

  py::object part_of(const py::object& state, int i) const {
    return count(width_) == 1 ? state : py::object(py::reinterpret_borrow<py::tuple>(state)[std::size_t(i)]);
  }

  py::tuple kernels_;  // keeps what all_ points to
  std::vector<PyRecurrence*> all_;
  CallOptions options_;
  Index batch_;
  py::object initial_;
  std::variant<Layers<float>, Layers<double>> layers_;
  Widths width_{};
  py::array y_;
  void* y_data_ = nullptr;
  std::atomic<bool> busy_{false};
};

}  // namespace bptt::bindings
