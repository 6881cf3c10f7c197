// SPDX-License-Identifier: Apache-2.0
// PyTorch's tensors without PyTorch: its class hands out a table of C functions, DLPack's exchange API, one of which
// says where a tensor lies.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bindings/arrays.h"

namespace bptt::bindings {

/// DLPack's DLTensor.
struct TensorView {
  void* data;
  std::int32_t device, device_id, ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  const std::int64_t *shape, *strides;
  std::uint64_t offset;
};

class Tensors {
 public:
  /// Takes the classes Tensor and Parameter, and the function that makes a tensor of an array. False where tensors
  /// cannot be read.
  static bool set_classes(const py::type& tensor, const py::type& parameter, const py::object& of_array) {
    const py::object table = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(table.ptr(), "dlpack_exchange_api")) return false;
    const auto* const found = static_cast<const Table*>(PyCapsule_GetPointer(table.ptr(), "dlpack_exchange_api"));
    if (found->major != 1 || !found->read) return false;
    // Never given back, as the interpreter may be gone.
    tensor_ = tensor.inc_ref().ptr(), parameter_ = parameter.inc_ref().ptr(), of_array_ = of_array.inc_ref().ptr();
    is_neg_ = PyUnicode_InternFromString("is_neg");
    read_ = found->read;
    return true;
  }

  /// Whether all are PyTorch's own tensors, dense, of one dtype, float32 or float64, on the CPU, and no view that
  /// negates: memory says what they are. False, too, where that cannot be known here.
  static bool are_plain(const py::tuple& tensors) {
    int bits = 0;
    for (const py::handle each : tensors) {
      TensorView view;
      if (!look(each, view) || view.device != kCpu || view.code != kFloat || view.lanes != 1) return false;
      if ((view.bits != 32 && view.bits != 64) || !view.data || (bits != 0 && view.bits != bits)) return false;
      if (!is_false(each, is_neg_)) return false;
      bits = view.bits;
    }
    return bits != 0;
  }

  /// Of a plain tensor: false where it is not of T, or its elements are not in order and aligned.
  template <class T>
  static bool read(py::handle object, TensorView& view) {
    if (!look(object, view) || view.device != kCpu || view.code != kFloat || view.bits != 8 * sizeof(T)) return false;
    std::int64_t stride = 1;
    for (int i = view.ndim - 1; i >= 0; stride *= view.shape[i--]) {
      if (view.shape[i] != 1 && view.strides && view.strides[i] != stride) return false;
    }
    view.data = static_cast<char*>(view.data) + view.offset;
    return view.data && reinterpret_cast<std::uintptr_t>(view.data) % sizeof(T) == 0;
  }

  /// The values of such a tensor, if it has this shape; else null.
  template <class T>
  static const T* values(py::handle object, Sizes shape) {
    TensorView view;
    if (!read<T>(object, view) || view.ndim != std::int32_t(shape.size())) return nullptr;
    return std::equal(shape.begin(), shape.end(), view.shape) ? static_cast<const T*>(view.data) : nullptr;
  }

  /// A tensor with the memory of a new array.
  static py::object of(const py::array& array) {
    PyObject* const made = PyObject_CallOneArg(of_array_, array.ptr());
    if (!made) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  }

 private:
  static constexpr int kCpu = 1, kFloat = 2;
  using Read = int (*)(void* object, TensorView* view);
  /// DLPack's DLPackExchangeAPI, of version 1.
  struct Table {
    std::uint32_t major, minor;
    const void* older;
    void (*others[3])();
    Read read;
  };

  static bool look(py::handle object, TensorView& view) {
    PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
    if (!read_ || (type != tensor_ && type != parameter_)) return false;
    if (read_(object.ptr(), &view) == 0) return true;
    PyErr_Clear();
    return false;
  }

  /// Whether a method answers False.
  static bool is_false(py::handle object, PyObject* method) {
    PyObject* const answer = PyObject_CallMethodNoArgs(object.ptr(), method);
    if (!answer) PyErr_Clear();
    Py_XDECREF(answer);
    return answer == Py_False;
  }

  static inline PyObject *tensor_ = nullptr, *parameter_ = nullptr, *of_array_ = nullptr, *is_neg_ = nullptr;
  static inline Read read_ = nullptr;
};

}  // namespace bptt::bindings
