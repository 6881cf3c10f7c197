// SPDX-License-Identifier: Apache-2.0
// All checks of arrays that come from Python: exact dtype, exact shape, C-contiguous, writable where written. Nothing
// is converted or copied. Messages read `operation: argument has what, expected what`.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/gil.h"
#include "core/memory/arena.h"
#include "core/memory/sizes.h"
#include "core/threads/interrupt.h"

namespace bptt::bindings {

namespace py = pybind11;
using Shape = std::vector<Index>;
using Sizes = std::initializer_list<Index>;  // an expected shape: no allocation where everything is in order

inline std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

inline Shape shape_of(const py::array& a) { return Shape(a.shape(), a.shape() + a.ndim()); }

/// NumPy's descriptor of T: one object per process, so that most dtypes are recognised by their pointer.
template <class T>
const py::dtype& dtype_of() {
  static const py::dtype* dtype = new py::dtype(py::dtype::of<T>());  // never destroyed, as the interpreter may be gone
  return *dtype;
}

template <class T>
constexpr const char* dtype_name() {
  if (std::is_same_v<T, bool>) return "bool";
  if (std::is_same_v<T, std::int64_t>) return "int64";
  return std::is_same_v<T, float> ? "float32" : "float64";
}

template <class T>
bool has_dtype(const py::array& a) {
  return py::detail::array_proxy(a.ptr())->descr == dtype_of<T>().ptr() || py::isinstance<py::array_t<T>>(a);
}

/// As type(a).__name__.
inline std::string type_name(py::handle a) {
  const std::string name = Py_TYPE(a.ptr())->tp_name;
  return name.substr(name.rfind('.') + 1);
}

inline py::array as_array(py::handle a, const char* name) {
  if (!py::isinstance<py::array>(a)) {
    throw py::type_error(std::string(name) + " has type " + type_name(a) + ", expected a NumPy array");
  }
  return py::reinterpret_borrow<py::array>(a);
}

/// A masked array would lose its mask. Other subclasses are accepted. The first one seen, which is that of parameters,
/// is recognised by its type, since looking up a missing attribute takes 1 us.
inline void refuse_masked(const py::array& a, const char* name) {
  static std::atomic<PyTypeObject*> known{nullptr};
  PyTypeObject* const type = Py_TYPE(a.ptr());
  if (type == py::detail::npy_api::get().PyArray_Type_ || type == known.load(std::memory_order_relaxed)) return;
  if (py::hasattr(a, "mask"))
    throw py::type_error(std::string(name) + " is a masked array, expected a plain one: its .data, or .filled(value)");
  PyTypeObject* none = nullptr;
  if (known.compare_exchange_strong(none, type)) Py_INCREF(reinterpret_cast<PyObject*>(type));
}

/// Whether an object is a NumPy array, and of no subclass.
inline bool is_plain_array(py::handle a) { return Py_TYPE(a.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

constexpr int kExact = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

/// Whether `a` can be read as it is: a plain array of dtype T and this shape, C-contiguous and aligned.
template <class T>
bool fits(py::handle a, Sizes shape) {
  if (!is_plain_array(a)) return false;
  const auto array = py::reinterpret_borrow<py::array>(a);
  return has_dtype<T>(array) && array.ndim() == py::ssize_t(shape.size()) &&
         std::equal(shape.begin(), shape.end(), array.shape()) && (array.flags() & kExact) == kExact;
}

/// The error for an array of another dtype.
inline py::type_error dtype_error(const py::array& a, const char* name, const char* expected) {
  PyObject* text = nullptr;
  run_python([&] { text = PyObject_Str(py::detail::array_proxy(a.ptr())->descr); });  // written in Python
  if (!text) throw py::error_already_set();
  return py::type_error(std::string(name) + " has dtype " + std::string(py::reinterpret_steal<py::str>(text)) +
                        ", expected " + expected);
}

/// The values of `a`, which must have dtype T and this shape. `name` is "operation: argument".
template <class T>
const T* read(const py::array& a, Sizes shape, const char* name) {
  refuse_masked(a, name);
  if (!has_dtype<T>(a)) throw dtype_error(a, name, dtype_name<T>());
  if (a.ndim() != py::ssize_t(shape.size()) || !std::equal(shape.begin(), shape.end(), a.shape())) {
    throw py::value_error(std::string(name) + " has shape " + to_string(shape_of(a)) + ", expected " +
                          to_string(shape));
  }
  if ((a.flags() & kExact) != kExact)
    throw py::value_error(std::string(name) + " is strided or not aligned, expected C-contiguous and aligned");
  return static_cast<const T*>(a.data());
}

template <class T>
T* write(py::array& a, Sizes shape, const char* name) {
  const T* data = read<T>(a, shape, name);
  if (!a.writeable()) throw py::value_error(std::string(name) + " is read-only, expected a writable array");
  return const_cast<T*>(data);
}

/// Length of axis `axis` of an array that must have `ndim` of them.
inline Index axis(const py::array& a, int ndim, int axis, const char* name) {
  if (a.ndim() != ndim) {
    throw py::value_error(std::string(name) + " has " + std::to_string(a.ndim()) + " dimensions, expected " +
                          std::to_string(ndim));
  }
  return a.shape(axis);
}

/// A new array. By NumPy's own function: pybind11's constructor takes twice as long (0.2 us). Where there is no memory
/// for it, the arena returns its free blocks first.
template <class T>
py::array_t<T> empty(Sizes shape) {
  const auto& numpy = py::detail::npy_api::get();
  static_assert(sizeof(Index) == sizeof(Py_intptr_t), "sizes are 64 bits wide");
  const auto make = [&] {
    py::object dtype = dtype_of<T>();
    return numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, dtype.release().ptr(), int(shape.size()),
                                       reinterpret_cast<const Py_intptr_t*>(shape.begin()), nullptr, nullptr, 0,
                                       nullptr);
  };
  PyObject* made = make();
  if (!made && PyErr_ExceptionMatches(PyExc_MemoryError) && Arena::instance().release() > 0) {
    PyErr_Clear();
    made = make();
  }
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::array_t<T>>(made);
}

inline void make_read_only(py::array& a) {
  py::detail::array_proxy(a.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
}

/// f(T{}) for the dtype of `a`, float32 or float64.
template <class F>
auto for_dtype(const py::array& a, const char* name, F&& f) {
  if (has_dtype<float>(a)) return f(float{});
  if (has_dtype<double>(a)) return f(double{});
  throw dtype_error(a, name, "float32 or float64");
}

/// Runs job() or job(poll) without the GIL; false, where it was called off, becomes the exception that is set.
template <class Job>
void without_gil(const Job& job) {
  bool complete;
  {
    const GilRelease release;
    if constexpr (std::is_invocable_v<Job, Poll&>) {
      Poll poll(&interrupted);
      complete = job(poll);
    } else {
      complete = job();
    }
  }
  if (!complete) throw py::error_already_set();
}

/// The same; a brief job, of some microseconds, keeps the GIL, since giving it back takes as long as two small arrays.
template <class Job>
void without_gil_unless(bool brief, const Job& job) {
  if (!brief) return without_gil(job);
  if (!job()) throw py::error_already_set();
}

/// Raises unless the N ids that `mask` keeps are within [0, count).
inline void check_ids(const std::int64_t* ids, Index N, Index count, const bool* mask, const char* name) {
  for (Index n = 0; n < N; ++n) {
    if ((!mask || mask[n]) && (ids[n] < 0 || ids[n] >= count)) {
      throw py::value_error(std::string(name) + " has the value " + std::to_string(ids[n]) + ", expected 0 to " +
                            std::to_string(count - 1));
    }
  }
}

}  // namespace bptt::bindings
