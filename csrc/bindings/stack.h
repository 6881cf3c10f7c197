// SPDX-License-Identifier: Apache-2.0
// The general way into a layer: arrays in and out of stack::Stack. The plain way is Recurrence's own.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "bindings/recurrence.h"
#include "stack/stack.h"
#include "stack/stream.h"

namespace bptt::bindings {

class Stack {
 public:
  /// Layer by layer.
  Stack(std::vector<PyRecurrence*> all, Index directions) : all_(std::move(all)), D_(directions) {
    if (D_ < 1 || all_.empty() || Index(all_.size()) % D_ != 0)
      throw py::value_error("Stack: expected at least one layer, and each with all directions");
    require(all_, "direction");
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const PyRecurrence& r = *all_[i];
      if (!r.packed_) throw py::value_error("Stack: there are no weights, expected a call of pack first");
      if (r.input() != (Index(i) < D_ ? all_[0]->input() : width()) || r.output() != all_[0]->output() ||
          r.hidden_ != all_[0]->hidden_ || r.is_double() != all_[0]->is_double())
        throw py::value_error("Stack: sizes or dtypes differ, expected those of one stack");
    }
  }

  py::tuple forward(const py::array& x, const py::object& state, bool training,
                    const std::vector<CallOptions*>& options) const {
    if (options.size() != all_.size()) throw py::value_error("forward: expected options for each direction");
    require(options, "options");
    return all_[0]->is_double() ? forward_as<double>(x, state, training, options)
                                : forward_as<float>(x, state, training, options);
  }

  py::tuple backward(PyTape& tape, const py::array& dy, const py::object& dstate, std::vector<py::array>& grads,
                     const std::vector<py::object>& dreset_state) const {
    if (grads.size() != all_.size()) throw py::value_error("backward: expected gradients for each direction");
    if (!dreset_state.empty() && dreset_state.size() != all_.size())
      throw py::value_error("backward: expected dreset_state for each direction, or none");
    return all_[0]->is_double() ? backward_as<double>(tape, dy, dstate, grads, dreset_state)
                                : backward_as<float>(tape, dy, dstate, grads, dreset_state);
  }

  /// Whether the layers of a call run side by side.
  bool beside(const sequence::BatchSizes& batch_sizes, bool segmented) const {
    return all_[0]->is_double() ? kernels<double>().beside(batch_sizes, segmented)
                                : kernels<float>().beside(batch_sizes, segmented);
  }

 private:
  friend class PyStream;

  template <class P>
  static void require(const std::vector<P*>& all, const char* what) {
    for (const P* each : all) {
      if (!each) throw py::type_error(std::string("Stack: a ") + what + " is None");
    }
  }

  Index layers() const { return Index(all_.size()) / D_; }
  Index width() const { return D_ * all_[0]->output(); }
  template <class T>
  std::vector<const sequence::Recurrence<T>*> recurrences() const {
    std::vector<const sequence::Recurrence<T>*> all;
    for (const PyRecurrence* r : all_) all.push_back(&r->as<T>("Stack"));
    return all;
  }
  template <class T>
  stack::Stack<T> kernels() const {
    return {recurrences<T>(), all_[0]->input(), D_};
  }

  template <class T>
  static stack::DirectionArrays<T> direction_arrays(const sequence::Recurrence<T>& r, const CallOptions& options,
                                                    const OuterShape& outer, const T* const* initial, T* const* final) {
    stack::DirectionArrays<T> arrays;
    std::copy_n(initial, r.states(), arrays.initial);
    std::copy_n(final, r.states(), arrays.final);
    if (!options.resets.is_none()) {
      const char* name = "Recurrence.forward: resets";
      arrays.resets = read_resets(outer, as_array(options.resets, name), name);
    }
    for (int i = 0; i < r.states() && !options.reset_state.is_none(); ++i) {
      const char* name = "Recurrence.forward: reset_state";
      arrays.reset_state[i] = read<T>(state_part(options.reset_state, i, r.states(), name), {r.width(i)}, name);
    }
    return arrays;
  }

  template <class T>
  py::tuple forward_as(const py::array& x, const py::object& state, bool training,
                       const std::vector<CallOptions*>& options) const {
    const OuterShape outer = outer_shape(x, options[0]->options.order.get(), "Recurrence.forward: x");
    const T* from = read_rows<T>(outer, x, all_[0]->input(), "Recurrence.forward: x");
    std::unique_ptr<PyTape> tape = PyRecurrence::new_tape<T>();
    tape->plain = false;
    auto& passes = std::get<StackTape<T>>(tape->passes);
    const T* before[sequence::kMaxStates];
    T* after[sequence::kMaxStates];
    const Widths width_of = widths(all_[0]->as<T>("Stack"));
    const auto n = Index(all_.size());
    const States initial = read_states<T>(state, width_of, n, outer.batch, before, "Recurrence.forward: state");
    const States last = new_states<T>(width_of, n, outer.batch, after);
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const auto& order = options[i]->options.order;
      if (!(outer_shape(x, order.get(), "Recurrence.forward: x") == outer) ||
          order != options[i % std::size_t(D_)]->options.order)
        throw py::value_error("Stack: the rows of layers or directions differ, expected those of one pass");
      const auto& r = all_[i]->as<T>("forward");
      const stack::DirectionArrays<T> arrays = direction_arrays(r, *options[i], outer, before, after);
      all_[i]->add_pass<T>(*tape).prepare(r, all_[i]->input(), outer, arrays, options[i]->options, training);
      stack::next_states(before, width_of, outer.batch);
      stack::next_states(after, width_of, outer.batch);
    }
    py::array_t<T> y = empty_rows<T>(outer, width());
    T* to = y.mutable_data();
    const Index segment = options[0]->options.segment;
    const stack::Stack<T> stack = kernels<T>();
    without_gil([&] { return stack.forward(passes, outer, from, to, training, segment, &interrupted); });
    const py::object final = as_state(last, count(width_of));
    if (!training) return py::make_tuple(y, final, py::none());
    tape->arrays = {x};
    tape->arrays.insert(tape->arrays.end(), initial.begin(), initial.end());
    if (D_ == 1 && !options[0]->options.order) {  // the tape reads it again
      make_read_only(y);
      tape->arrays.push_back(y);
    }
    return py::make_tuple(y, final, std::move(tape));
  }

  template <class T>
  py::tuple backward_as(PyTape& tape, const py::array& dy, const py::object& dstate, std::vector<py::array>& grads,
                        const std::vector<py::object>& dreset_state) const {
    const T* after[sequence::kMaxStates];
    T* before[sequence::kMaxStates];
    const Widths width_of = widths(all_[0]->as<T>("Stack"));
    const auto n = Index(all_.size());
    const Index batch = all_[0]->own<T>(tape, false, 0).batch_sizes().batch;
    const States last = read_states<T>(dstate, width_of, n, batch, after, "Recurrence.backward: dstate");
    const States initial = new_states<T>(width_of, n, batch, before);
    std::vector<BackwardCall<T>> calls;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const auto& r = all_[i]->as<T>("backward");
      all_[i]->own<T>(tape, false, i);
      calls.push_back(all_[i]->gradients(r, grads[i]));
      std::copy_n(after, r.states(), calls[i].dfinal), std::copy_n(before, r.states(), calls[i].dinitial);
      stack::next_states(after, width_of, batch);
      stack::next_states(before, width_of, batch);
      for (int s = 0; !dreset_state.empty() && s < r.states(); ++s) {
        py::array part = state_part(dreset_state[i], s, r.states(), "Recurrence.backward: dreset_state");
        calls[i].dreset_state[s] = write<T>(part, {r.width(s)}, "Recurrence.backward: dreset_state");
      }
    }
    auto& passes = std::get<StackTape<T>>(tape.passes);
    const OuterShape& outer = passes.all[0]->outer();
    const T* from = read_rows<T>(outer, dy, width(), "Recurrence.backward: dy");
    py::array_t<T> dx = empty_rows<T>(outer, all_[0]->input());
    T* to = dx.mutable_data();
    PyRecurrence::use(tape);
    const stack::Stack<T> stack = kernels<T>();
    without_gil([&] {
      const bool complete = stack.backward(passes, outer, calls, from, to, &interrupted);
      passes.release();
      return complete;
    });
    tape.arrays.clear();  // with the GIL
    return py::make_tuple(dx, as_state(initial, count(width_of)));
  }

  std::vector<PyRecurrence*> all_;
  Index D_;
};

}  // namespace bptt::bindings
