// SPDX-License-Identifier: Apache-2.0
// Arguments that are instances of this module's own classes. pybind11 alone would also take an object that was never
// constructed (Tape.__new__(Tape)), as memory without a value, and one of another level's module, whose registers have
// another width.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

namespace bptt::bindings {

namespace py = pybind11;

/// The base of each class that this module gives to Python. The classes are final there: a type is the type itself.
struct Own {};

}  // namespace bptt::bindings

namespace pybind11::detail {

template <class T>
class type_caster<T, enable_if_t<std::is_base_of_v<bptt::bindings::Own, T>>> : public type_caster_base<T> {
 public:
  bool load(handle source, bool convert) {
    if (source.is_none()) return type_caster_base<T>::load(source, convert);  // null, for what may be absent
    const char* const expected = this->typeinfo->type->tp_name;
    if (Py_TYPE(source.ptr()) != this->typeinfo->type) {
      throw type_error(std::string("bptt: an argument has type ") + Py_TYPE(source.ptr())->tp_name + ", expected " +
                       expected);
    }
    const value_and_holder instance = reinterpret_cast<detail::instance*>(source.ptr())->get_value_and_holder();
    if (!instance.holder_constructed())
      throw type_error(std::string("bptt: an argument is an empty ") + expected + ", expected a constructed one");
    this->value = instance.value_ptr();
    return true;
  }
};

}  // namespace pybind11::detail
