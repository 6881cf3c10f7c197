// SPDX-License-Identifier: Apache-2.0
// Calls of a stack on PyTorch's tensors: weights in PyTorch's order, with two biases, at their own addresses. A call
// without options; others go through arrays, in the same order of weights (python/bptt/torch/network.py).
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/stack.h"
#include "bindings/tensors.h"

namespace bptt::bindings {

class TensorCalls {
 public:
  /// (outputs, tape or None, whether the tape reads y, and whether it has what backward needs of the weights).
  /// `inputs`: x [T,B,I], the states, the weights; the outputs are y and the final states. Of a cell, one_step: x
  /// [B,I], states [B,.], and the outputs are the states alone. None where a tensor is no exact one: of this dtype and
  /// shape, dense, on the CPU.
  static py::object forward(const PyStack& stack, const py::tuple& inputs, bool one_step, bool training) {
    return stack.visit([&](auto& s) { return forward_as(stack, s, inputs, one_step, training); });
  }

  /// The gradients of the inputs, None where `wanted` says so. `gradients`: of y and the final states, as tensors, None
  /// for zeros; of a cell that of y is None. The weights are those among the inputs, where the tape has none. None in
  /// all where one is no exact tensor; the tape is still unused.
  static py::object backward(const PyStack& stack, PyTape& tape, const py::tuple& inputs, const py::tuple& gradients,
                             const py::tuple& wanted, bool one_step, bool retain) {
    const std::size_t count = stack.visit(
        [](auto& s) { return 1 + std::size_t(s.states()) + std::size_t(s.kernels()) * tensors_of(s.parameters(0)); });
    if (wanted.size() != count)
      throw py::value_error("Stack.backward_tensors: wanted has length " + std::to_string(wanted.size()) +
                            ", expected " + std::to_string(count));
    const Backward asked{inputs, gradients, wanted, one_step, retain};
    return stack.visit([&](auto& s) { return backward_as(stack, s, tape, asked); });
  }

 private:
  struct Backward {
    const py::tuple &inputs, &gradients, &wanted;
    bool one_step, retain;
  };

  template <class T>
  struct Weights {
    std::vector<sequence::Flat<const T>> kernels;
    std::vector<T> sums;  // of both biases
  };

  /// The tensors of one kernel: weight_ih, weight_hh, two biases, projection.
  static std::size_t tensors_of(const stack::KernelParameters& p) {
    return 2 + (p.bias.rows > 0 ? 2 : 0) + (p.projection.rows > 0 ? 1 : 0);
  }

  /// Rows of the biases that a kernel has as their sum; of the others it has the first, and the second as `vectors`.
  static Index shared_rows(const stack::KernelParameters& p) { return p.bias.rows - p.vectors.size(); }

  template <class T>
  static py::array_t<T> states_of(bool one_step, Index n, Index B, Index width) {
    return one_step ? empty<T>({B, width}) : empty<T>({n, B, width});
  }
  template <class T>
  static const T* state_values(py::handle state, bool one_step, Index n, Index B, Index width) {
    return one_step ? Tensors::values<T>(state, {B, width}) : Tensors::values<T>(state, {n, B, width});
  }

  /// False where there are other tensors than the stack's. `at`: the place of the first.
  template <class T>
  static bool read_weights(const stack::Stack<T>& s, const py::tuple& inputs, std::size_t at, Weights<T>& found) {
    const stack::KernelParameters first = s.parameters(0);
    if (inputs.size() != at + std::size_t(s.kernels()) * tensors_of(first)) return false;
    if (first.vectors.size() > 0 && s.cell() != "gru") return false;  // no cell of PyTorch's
    found.sums.resize(std::size_t(checked_mul(s.kernels(), first.bias.rows)));
    T* sum = found.sums.data();
    for (Index k = 0; k < s.kernels(); ++k) {
      const stack::KernelParameters p = k == 0 ? first : s.parameters(k);
      sequence::Flat<const T> own{};
      const auto matrix = [&](const stack::ParameterShape& shape) {
        return Tensors::values<T>(inputs[at++], {shape.rows, shape.columns});
      };
      if (!(own.weight_ih = matrix(p.weight_ih)) || !(own.weight_hh = matrix(p.weight_hh))) return false;
      if (p.bias.rows > 0) {
        const Index rows = p.bias.rows, shared = shared_rows(p);
        const T* const input = Tensors::values<T>(inputs[at++], {rows});
        const T* const hidden = Tensors::values<T>(inputs[at++], {rows});
        if (!input || !hidden) return false;
        for (Index i = 0; i < rows; ++i) sum[i] = i < shared ? input[i] + hidden[i] : input[i];
        own.bias = std::exchange(sum, sum + rows);
        if (shared < rows) own.vectors = hidden + shared;
      }
      if (p.projection.rows > 0 && !(own.projection = matrix(p.projection))) return false;
      found.kernels.push_back(own);
    }
    return true;
  }

  template <class T>
  static py::object forward_as(const PyStack& stack, stack::Stack<T>& s, const py::tuple& inputs, bool one_step,
                               bool training) {
    const int S = s.states(), axes = one_step ? 2 : 3;
    const Index n = s.kernels(), I = s.sizes().input;
    TensorView x;
    if (inputs.size() <= std::size_t(S) || (one_step && n != 1) || s.sizes().directions != 1) return py::none();
    if (!Tensors::read<T>(inputs[0], x) || x.ndim != axes || x.shape[axes - 1] != I) return py::none();
    stack::StackForward<T> call{
        OuterShape::of(one_step ? 1 : x.shape[0], x.shape[axes - 2]), nullptr, {}, nullptr, {}, {}};
    const Index B = call.outer.batch;
    if (call.outer.rows < 1) return py::none();
    call.x = static_cast<const T*>(x.data);
    for (int i = 0; i < S; ++i) {
      call.initial[i] = state_values<T>(inputs[std::size_t(1 + i)], one_step, n, B, s.width(i));
      if (!call.initial[i]) return py::none();
    }
    Weights<T> weights;
    if (!read_weights(s, inputs, std::size_t(1 + S), weights)) return py::none();

    py::array_t<T> y = empty<T>({call.outer.steps, B, s.width(0)});
    call.y = y.mutable_data();
    py::tuple outputs(std::size_t(S + (one_step ? 0 : 1)));
    for (int i = 0; i < S; ++i) {
      py::array_t<T> made = states_of<T>(one_step, n, B, s.width(i));
      call.final[i] = made.mutable_data();
      outputs[std::size_t(i + (one_step ? 0 : 1))] = Tensors::of(made);
    }
    const bool is_short = s.is_short(call.outer);
    call.keep_weights = !(is_short && training);
    std::unique_ptr<stack::StackTape<T>> passes;
    {
      const Pool::Guest guest(stack.is_guest);
      without_gil_unless(PyStack::is_brief(s, call.outer), [&] {
        auto* const made = training ? &passes : nullptr;
        if (is_short) return s.forward(weights.kernels[0], call, made, &interrupted);
        return s.pack(weights.kernels, training, &interrupted) && s.forward(call, made, &interrupted);
      });
    }
    if (!one_step) outputs[0] = Tensors::of(y);
    if (!training) return py::make_tuple(outputs, py::none(), false, true);
    auto tape = std::make_unique<PyTape>();
    tape->owner = stack.id_;
    for (int i = 0; i <= S; ++i) tape->arrays.push_back(inputs[std::size_t(i)]);
    const bool reads_y = passes->reads_y();
    if (reads_y) tape->arrays.push_back(y);
    tape->passes = std::move(passes);
    return py::make_tuple(outputs, std::move(tape), reads_y, call.keep_weights);
  }

  template <class T>
  static py::object backward_as(const PyStack& stack, const stack::Stack<T>& s, PyTape& py_tape,
                                const Backward& asked) {
    stack::StackTape<T>& tape = stack.own(s, py_tape);
    const OuterShape outer = tape.outer();
    if (s.sizes().directions != 1 || (asked.one_step && (s.kernels() != 1 || outer.steps != 1))) return py::none();
    stack::StackBackward<T> call{};
    call.retain = asked.retain;
    std::vector<T> zeros;
    if (!read_gradients(s, outer, asked.gradients, asked.one_step, call, zeros)) return py::none();
    Weights<T> weights;
    if (!tape.keeps_weights()) {
      if (!read_weights(s, asked.inputs, std::size_t(1 + s.states()), weights)) return py::none();
      call.weights = weights.kernels;
    }
    Made<T> made(asked.wanted);
    write_to(s, outer, asked.one_step, made, call);
    const TapeUse use(py_tape, asked.retain);
    const Pool::Guest guest(stack.is_guest);
    without_gil_unless(PyStack::is_brief(s, outer), [&] { return s.backward(tape, call, &interrupted); });
    for (const auto& [from, size, to] : made.copies) std::copy_n(from, size, to);
    return std::move(made.tensors);
  }

  /// False where a gradient is no exact tensor. `zeros`: room for those of states that are not there.
  template <class T>
  static bool read_gradients(const stack::Stack<T>& s, const OuterShape& outer, const py::tuple& gradients,
                             bool one_step, stack::StackBackward<T>& call, std::vector<T>& zeros) {
    const int S = s.states();
    const Index n = s.kernels(), B = outer.batch;
    if (outer.packed || gradients.size() != std::size_t(1 + S)) return false;
    if (!gradients[0].is_none()) {
      call.dy = Tensors::values<T>(gradients[0], {outer.steps, B, s.width(0)});
      if (!call.dy) return false;
    }
    Index most = 0;
    for (int i = 0; i < S; ++i) most = std::max(most, checked_mul(checked_mul(n, B), s.width(i)));
    if (!shared_zeros<T>(most)) zeros.resize(std::size_t(most));
    for (int i = 0; i < S; ++i) {
      const py::object given = gradients[std::size_t(1 + i)];
      const T* const none = zeros.empty() ? shared_zeros<T>(most) : zeros.data();
      call.dfinal[i] = given.is_none() ? none : state_values<T>(given, one_step, n, B, s.width(i));
      if (!call.dfinal[i]) return false;
    }
    return true;
  }

  /// The gradients of the inputs one after the other, None for what is not wanted.
  template <class T>
  struct Made {
    struct Copy {
      const T* from;
      Index size;
      T* to;
    };

    explicit Made(const py::tuple& wanted) : wanted_(wanted) {}

    /// Whether one of the next `count` is wanted; if none is, they are done.
    bool wants(std::size_t count) {
      for (std::size_t i = tensors.size(); i < tensors.size() + count; ++i) {
        if (wanted_[i].ptr() == Py_True) return true;
      }
      for (std::size_t i = 0; i < count; ++i) tensors.append(py::none());
      return false;
    }
    /// Room for the next one. One that is not wanted itself has room, but no tensor.
    T* next(Sizes shape) {
      rooms_.push_back(empty<T>(shape));
      const bool is_wanted = wanted_[tensors.size()].ptr() == Py_True;
      tensors.append(is_wanted ? Tensors::of(rooms_.back()) : py::object(py::none()));
      return rooms_.back().mutable_data();
    }

    py::list tensors;
    std::vector<Copy> copies;  // made at the end

   private:
    const py::tuple& wanted_;
    std::vector<py::array_t<T>> rooms_;
  };

  template <class T>
  static void write_to(const stack::Stack<T>& s, const OuterShape& outer, bool one_step, Made<T>& made,
                       stack::StackBackward<T>& call) {
    const int S = s.states();
    const Index n = s.kernels(), B = outer.batch, I = s.sizes().input;
    const std::size_t weights = std::size_t(n) * tensors_of(s.parameters(0));
    if (made.wants(1)) call.dx = one_step ? made.next({B, I}) : made.next({outer.steps, B, I});
    if (made.wants(std::size_t(S))) {
      for (int i = 0; i < S; ++i)
        call.dinitial[i] = one_step ? made.next({B, s.width(i)}) : made.next({n, B, s.width(i)});
    }
    if (!made.wants(weights)) return;
    for (Index k = 0; k < n; ++k) {
      const stack::KernelParameters p = s.parameters(k);
      sequence::Flat<T> own{};
      own.weight_ih = made.next({p.weight_ih.rows, p.weight_ih.columns});
      own.weight_hh = made.next({p.weight_hh.rows, p.weight_hh.columns});
      if (p.bias.rows > 0) {
        own.bias = made.next({p.bias.rows});
        T* const second = made.next({p.bias.rows});
        const Index shared = shared_rows(p);
        if (shared < p.bias.rows) own.vectors = second + shared;
        made.copies.push_back({own.bias, shared, second});
      }
      if (p.projection.rows > 0) own.projection = made.next({p.projection.rows, p.projection.columns});
      call.d.push_back(own);
    }
  }
};

}  // namespace bptt::bindings
