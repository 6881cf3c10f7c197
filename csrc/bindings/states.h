// SPDX-License-Identifier: Apache-2.0
// A recurrent state as users hold it, h [1,B,H] or a tuple of several, and as the kernels take it: one pointer each.
#pragma once

#include <array>

#include "bindings/arrays.h"
#include "stack/stack.h"

namespace bptt::bindings {

using States = std::array<py::object, sequence::kMaxStates>;

/// A description of a wrong state.
inline std::string has(const py::object& state) {
  if (py::isinstance<py::tuple>(state)) return "length " + std::to_string(py::len(state));
  return "type " + type_name(state);
}

/// The i-th of a state of n parts: the state itself, or a part of the tuple.
inline py::array state_part(const py::object& state, int i, int n, const char* name) {
  if (n == 1) return as_array(state, name);
  if (!py::isinstance<py::tuple>(state) || int(py::len(state)) != n)
    throw py::value_error(std::string(name) + " has " + has(state) + ", expected a tuple of " + std::to_string(n) +
                          " arrays");
  return as_array(py::reinterpret_borrow<py::tuple>(state)[std::size_t(i)], name);
}

/// Zeros that nobody writes, for states that are not given: a new array would take a tenth of a short call. Null where
/// they are too few.
template <class T>
const T* shared_zeros(Index n) {
  constexpr Index kCount = 4096;
  alignas(64) static T zeros[kCount];
  return n <= kCount ? zeros : nullptr;
}

/// States of n kernels [n,B,.], h first. None is zeros, which only this function makes; there may be no array of them.
template <class T>
States read_states(const stack::Stack<T>& stack, const py::object& state, Index n, Index B, const T** values,
                   const char* name) {
  States states;
  const int parts = stack.states();
  for (int i = 0; i < parts; ++i) {
    py::object& part = states[std::size_t(i)];
    const Index H = stack.width(i);
    if (!state.is_none()) {
      part = state_part(state, i, parts, name);
    } else if (const T* zeros = shared_zeros<T>(checked_mul(checked_mul(n, B), H))) {
      values[i] = zeros;
      continue;
    } else if (i > 0 && H == stack.width(0)) {
      part = states[0];
    } else {
      py::array_t<T> made = empty<T>({n, B, H});
      std::fill_n(made.mutable_data(), n * B * H, T(0));
      part = std::move(made);
    }
    values[i] = read<T>(py::reinterpret_borrow<py::array>(part), {n, B, H}, name);
  }
  return states;
}

template <class T>
States new_states(const stack::Stack<T>& stack, Index n, Index B, T** values) {
  States states;
  for (int i = 0; i < stack.states(); ++i) {
    py::array_t<T> made = empty<T>({n, B, stack.width(i)});
    values[i] = made.mutable_data();
    states[std::size_t(i)] = std::move(made);
  }
  return states;
}

inline py::object as_state(const States& states, int count) {
  if (count == 1) return states[0];
  py::tuple parts(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) parts[std::size_t(i)] = states[std::size_t(i)];
  return std::move(parts);
}

}  // namespace bptt::bindings
