// SPDX-License-Identifier: Apache-2.0
// The class Stream: one time step per call for a fixed number of rows, without an allocation.
#pragma once

#include <memory>
#include <utility>
#include <variant>

#include "bindings/own.h"
#include "bindings/states.h"
#include "sequence/recurrence.h"

namespace bptt::bindings {

class PyStream : public Own {
 public:
  template <class T>
  PyStream(std::unique_ptr<sequence::Stream<T>> stream, Index batch, Index input, const Widths& width)
      : impl_(std::move(stream)),
        batch_(batch),
        input_(input),
        width_(width),
        y_(empty<T>({batch, width[0]})),
        y_data_(y_.mutable_data()) {
    make_read_only(y_);
  }

  /// x [B,I] -> y [B,H], the same array each time; x [T,B,I] -> a new y [T,B,H].
  py::object call(const py::array& x) {
    return std::visit([&](auto& stream) { return call_as(*stream, x); }, impl_);
  }

  py::object get_state() const {
    return std::visit([&](const auto& stream) { return get_state_as(*stream); }, impl_);
  }

  /// None is zeros.
  void set_state(const py::object& state) {
    std::visit([&](auto& stream) { set_state_as(*stream, state); }, impl_);
  }

  /// Zeros for all rows, or for those given.
  void reset(const py::object& rows) {
    if (rows.is_none()) return set_state(rows);
    const py::object state = get_state();
    for (int i = 0; i < count(width_); ++i) {
      py::object part = count(width_) == 1 ? state : py::reinterpret_borrow<py::tuple>(state)[std::size_t(i)];
      part[py::make_tuple(0, rows)] = 0;
    }
    set_state(state);
  }

 private:
  template <class T>
  py::object call_as(sequence::Stream<T>& stream, const py::array& x) {
    if (x.ndim() == 2) {
      stream.step(read<T>(x, {batch_, input_}, "Stream: x"), static_cast<T*>(y_data_));
      return y_;
    }
    const Index T_ = axis(x, 3, 0, "Stream: x");
    const T* in = read<T>(x, {T_, batch_, input_}, "Stream: x");
    py::array_t<T> y = empty<T>({T_, batch_, width_[0]});
    T* out = y.mutable_data();
    {
      const GilRelease release;
      for (Index t = 0; t < T_; ++t) stream.step(in + t * batch_ * input_, out + t * batch_ * width_[0]);
    }
    return std::move(y);
  }

  template <class T>
  py::object get_state_as(const sequence::Stream<T>& stream) const {
    T* values[sequence::kMaxStates];
    const States states = new_states<T>(width_, 1, batch_, values);
    stream.get_state(values);
    return as_state(states, count(width_));
  }

  template <class T>
  void set_state_as(sequence::Stream<T>& stream, const py::object& state) {
    const T* values[sequence::kMaxStates];
    const States keep = read_states<T>(state, width_, 1, batch_, values, "Stream.state");
    stream.set_state(values);
  }

  std::variant<std::unique_ptr<sequence::Stream<float>>, std::unique_ptr<sequence::Stream<double>>> impl_;
  Index batch_, input_;
  Widths width_;
  py::array y_;
  void* y_data_;
};

}  // namespace bptt::bindings
