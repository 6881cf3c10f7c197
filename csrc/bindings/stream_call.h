// SPDX-License-Identifier: Apache-2.0
// Shared by the streams of all layers: one call at a time, and the error for an x that is neither a step nor a chunk.
#pragma once

#include <atomic>
#include <stdexcept>

#include "bindings/arrays.h"

namespace bptt::bindings {

/// Sets `busy` while it lives. RuntimeError where it was set already, by a call on another thread. Made and destroyed
/// with the GIL, where there is one, so that no thread comes between the two halves of `exchange`.
class OneCall {
 public:
  explicit OneCall(std::atomic<bool>& busy) : busy_(busy) {
    if (exchange(busy)) throw std::runtime_error("Stream: another call is not over, expected one call at a time");
  }
  OneCall(const OneCall&) = delete;
  ~OneCall() { busy_.store(false, std::memory_order_release); }

 private:
  static bool exchange(std::atomic<bool>& busy) {
#if defined(Py_GIL_DISABLED)
    return busy.exchange(true, std::memory_order_acquire);
#else
    if (busy.load(std::memory_order_relaxed)) return true;
    busy.store(true, std::memory_order_relaxed);
    return false;
#endif
  }

  std::atomic<bool>& busy_;
};

/// For an x that has neither the shape of one step nor (T, step...).
inline py::value_error step_or_chunk_error(const py::array& x, const Shape& step) {
  const std::string one = to_string(step);
  const std::string many = "(T, " + one.substr(1, one.find_last_not_of(",)")) + ")";
  return py::value_error("Stream: x has shape " + to_string(shape_of(x)) + ", expected " + one + " or " + many);
}

/// Members that Python implements: the attribute _source, which Python sets, answers for them.
template <class C>
C& answer_by_source(C& stream) {
  stream
      .def_property_readonly(
          "stale", [](const py::object& self) { return self.attr("_source").attr("is_stale")(); },
          "Whether the layer's parameters have changed since the stream took them, when it was made or by `refresh`.")
      .def(
          "refresh", [](const py::object& self) { self.attr("_source").attr("refresh")(self); },
          "Take the layer's present weights; the state stays, and so does the array that calls return.")
      .def("__reduce__", [](const py::object& self) { return self.attr("_source").attr("reduce")(self); });
  return stream;
}

}  // namespace bptt::bindings
