// SPDX-License-Identifier: Apache-2.0
// A recurrent state as users hold it, h [1,B,H] or the tuple (h, c), and as the kernels take it: one pointer each.
#pragma once

#include <array>

#include "bindings/arrays.h"
#include "sequence/tape.h"

namespace bptt::bindings {

using States = std::array<py::object, sequence::kMaxStates>;

/// None is zeros, made here and nowhere else.
template <class T, class Pointer>
States read_states(const py::object& state, int count, Index B, Index H, Pointer* values, const char* name) {
  States states;
  if (state.is_none()) {
    const py::array_t<T> zeros = empty<T>({1, B, H});
    std::fill_n(const_cast<T*>(zeros.data()), B * H, T(0));
    for (int i = 0; i < count; ++i) states[std::size_t(i)] = zeros;
  } else if (count == 1) {
    states[0] = state;
  } else {
    if (!py::isinstance<py::tuple>(state) || int(py::len(state)) != count) {
      throw py::value_error(std::string(name) + " is not a tuple of " + std::to_string(count) + " arrays");
    }
    for (int i = 0; i < count; ++i) states[std::size_t(i)] = py::reinterpret_borrow<py::tuple>(state)[std::size_t(i)];
  }
  for (int i = 0; i < count; ++i) {
    if (!py::isinstance<py::array>(states[std::size_t(i)])) throw py::type_error(std::string(name) + " is no array");
    values[i] = read<T>(py::reinterpret_borrow<py::array>(states[std::size_t(i)]), {1, B, H}, name);
  }
  return states;
}

template <class T>
States new_states(int count, Index B, Index H, T** values) {
  States states;
  for (int i = 0; i < count; ++i) {
    py::array_t<T> made = empty<T>({1, B, H});
    values[i] = made.mutable_data();
    states[std::size_t(i)] = std::move(made);
  }
  return states;
}

inline py::object as_state(const States& states, int count) {
  if (count == 1) return states[0];
  return py::make_tuple(states[0], states[1]);
}

}  // namespace bptt::bindings
