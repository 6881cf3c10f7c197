// SPDX-License-Identifier: Apache-2.0
// The parameters of a stack, or their gradients, as Python has them: one flat array for all kernels, or a list with one
// for each kernel. In place of a flat array may stand the tuple of its parts wherever they lie: weight_ih [G*H,I],
// weight_hh [G*H,R/N], bias [G*H], vectors [P,H], weight_hr [R,H]; None for those that the kernel does not have.
#pragma once

#include <array>
#include <type_traits>
#include <vector>

#include "bindings/arrays.h"
#include "stack/stack.h"

namespace bptt::bindings {

namespace detail {

/// U const: an array to read; else one to write.
template <class U>
U* values(py::handle object, Sizes shape, const char* name) {
  py::array a = as_array(object, name);
  if constexpr (std::is_const_v<U>)
    return read<std::remove_const_t<U>>(a, shape, name);
  else
    return write<U>(a, shape, name);
}

template <class U>
sequence::Flat<U> parts_of(const stack::KernelParameters& shapes, const py::tuple& parts, const char* name) {
  const std::array<stack::ParameterShape, 5> all = shapes.all();
  if (parts.size() != all.size())
    throw py::value_error(std::string(name) + " has a tuple of length " + std::to_string(parts.size()) +
                          ", expected the 5 parts of a kernel");
  U* found[5] = {};
  for (std::size_t i = 0; i < all.size(); ++i) {
    const py::object part = parts[i];
    const bool absent = all[i].rows == 0;
    if (absent && part.is_none()) continue;
    if (absent) throw py::value_error(std::string(name) + " has a part that the kernel lacks, expected None");
    found[i] =
        all[i].is_vector ? values<U>(part, {all[i].rows}, name) : values<U>(part, {all[i].rows, all[i].columns}, name);
  }
  return {found[0], found[1], found[2], found[3], found[4]};
}

template <class U, class T>
std::vector<sequence::Flat<U>> parameters_of(const stack::Stack<T>& stack, const py::object& given, const char* name) {
  std::vector<sequence::Flat<U>> all;
  if (!py::isinstance<py::list>(given)) {
    if (stack.kernels() == 1) {
      const stack::KernelParameters shapes = stack.parameters(0);
      all.push_back(shapes.at(values<U>(given, {shapes.size()}, name)));
      return all;
    }
    std::vector<stack::KernelParameters> shapes;
    Index total = 0;
    for (Index k = 0; k < stack.kernels(); ++k) {
      shapes.push_back(stack.parameters(k));
      total += shapes.back().size();
    }
    U* flat = values<U>(given, {total}, name);
    for (const stack::KernelParameters& each : shapes) {
      all.push_back(each.at(flat));
      flat += each.size();
    }
    return all;
  }
  const auto list = py::reinterpret_borrow<py::list>(given);
  if (Index(list.size()) != stack.kernels())
    throw py::value_error(std::string(name) + " has length " + std::to_string(list.size()) + ", expected one entry " +
                          "for each layer and direction");
  for (Index k = 0; k < stack.kernels(); ++k) {
    const py::object each = list[std::size_t(k)];
    const stack::KernelParameters shapes = stack.parameters(k);
    all.push_back(py::isinstance<py::tuple>(each) ? parts_of<U>(shapes, py::reinterpret_borrow<py::tuple>(each), name)
                                                  : shapes.at(values<U>(each, {shapes.size()}, name)));
  }
  return all;
}

}  // namespace detail

template <class T>
std::vector<sequence::Flat<const T>> read_parameters(const stack::Stack<T>& stack, const py::object& given,
                                                     const char* name) {
  return detail::parameters_of<const T>(stack, given, name);
}

template <class T>
std::vector<sequence::Flat<T>> write_parameters(const stack::Stack<T>& stack, const py::object& given,
                                                const char* name) {
  return detail::parameters_of<T>(stack, given, name);
}

}  // namespace bptt::bindings
