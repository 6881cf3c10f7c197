// SPDX-License-Identifier: Apache-2.0
// Arrays of a call as its stack::OuterShape says: [steps,batch,.], or [rows,.] of packed rows.
#pragma once

#include "bindings/arrays.h"
#include "stack/call_options.h"

namespace bptt::bindings {

using stack::OuterShape;

inline OuterShape outer_shape(const py::array& x, const sequence::SequenceOrder* order, const char* name) {
  if (order) return OuterShape::of(*order);
  return OuterShape::of(axis(x, 3, 0, name), axis(x, 3, 1, name));
}

template <class T>
py::array_t<T> empty_rows(const OuterShape& outer, Index width) {
  return outer.packed ? empty<T>({outer.rows, width}) : empty<T>({outer.steps, outer.batch, width});
}

template <class T>
const T* read_rows(const OuterShape& outer, const py::array& a, Index width, const char* name) {
  return outer.packed ? read<T>(a, {outer.rows, width}, name) : read<T>(a, {outer.steps, outer.batch, width}, name);
}

inline const bool* read_resets(const OuterShape& outer, const py::array& a, const char* name) {
  return outer.packed ? read<bool>(a, {outer.rows}, name) : read<bool>(a, {outer.steps, outer.batch}, name);
}

}  // namespace bptt::bindings
