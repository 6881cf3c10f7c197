// SPDX-License-Identifier: Apache-2.0
// Layers without a state, step by step: rows [B,.] into the same array each time, or a chunk [T,B,.] into a new one.
// x may be the y of the last call: rows that overlap with y are copied last.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "bindings/own.h"
#include "bindings/stream_call.h"
#include "nn/nn.h"

namespace bptt::bindings {

class PyLinearStream : public Own {
 public:
  PyLinearStream(const py::array& weight, const std::optional<py::array>& bias, Index batch) : batch_(batch) {
    if (batch < 1) {
      throw py::value_error("LinearStream: batch is " + std::to_string(batch) + ", expected at least 1");
    }
    has_bias_ = bias.has_value();
    for_dtype(weight, "LinearStream: weight", [&](auto zero) {
      using T = decltype(zero);
      const Index O = axis(weight, 2, 0, "LinearStream: weight");
      take<T>(weight, bias, axis(weight, 2, 1, "LinearStream: weight"), O);
      py::array_t<T> y = empty<T>({batch, O});
      out_ = y.mutable_data();
      make_read_only(y);
      y_ = std::move(y);
      return 0;
    });
  }

  py::object call(py::handle x) {
    const OneCall one(busy_);
    const py::array array = as_array(x, "Stream: x");
    return std::visit([&](const auto& step) { return call_as(*step, array); }, step_);
  }

  /// Other weights of the same sizes.
  void take_weights(const py::array& weight, const std::optional<py::array>& bias) {
    const OneCall one(busy_);
    if (bias.has_value() != has_bias_) throw py::value_error("LinearStream: bias was there or not, expected the same");
    std::visit([&](const auto& step) { take_as(*step, weight, bias); }, step_);
  }

  /// The weights in use as a flat array, the weight [O,I], then the bias [O] where there is one.
  py::object weights() {
    const OneCall one(busy_);
    return std::visit([&](const auto& step) { return weights_of(*step); }, step_);
  }

 private:
  template <class T>
  void take(const py::array& weight, const std::optional<py::array>& bias, Index I, Index O) {
    const T* w = read<T>(weight, {O, I}, "LinearStream: weight");
    const T* b = bias ? read<T>(*bias, {O}, "LinearStream: bias") : nullptr;
    step_ = nn::make_linear_stream(w, b, I, O, batch_);
  }

  template <class T>
  void take_as(const nn::LinearStream<T>& step, const py::array& weight, const std::optional<py::array>& bias) {
    take<T>(weight, bias, step.inputs(), step.outputs());
  }

  template <class T>
  py::object weights_of(const nn::LinearStream<T>& step) const {
    const Index I = step.inputs(), O = step.outputs();
    py::array_t<T> flat = empty<T>({O * I + (has_bias_ ? O : 0)});
    step.get_weights(flat.mutable_data(), has_bias_ ? flat.mutable_data() + O * I : nullptr);
    return std::move(flat);
  }

  template <class T>
  py::object call_as(nn::LinearStream<T>& step, const py::array& x) const {
    const Index I = step.inputs(), O = step.outputs();
    if (x.ndim() == 2) {
      step.step(read<T>(x, {batch_, I}, "Stream: x"), static_cast<T*>(out_), batch_);
      return y_;
    }
    if (x.ndim() != 3) throw step_or_chunk_error(x, {batch_, I});
    const Index T_ = x.shape(0);
    const T* in = read<T>(x, {T_, batch_, I}, "Stream: x");
    py::array_t<T> y = empty<T>({T_, batch_, O});
    T* out = y.mutable_data();
    without_gil([&](Poll& poll) { return step.chunk(in, out, T_ * batch_, poll); });
    return std::move(y);
  }

  Index batch_;
  bool has_bias_;
  std::variant<std::unique_ptr<nn::LinearStream<float>>, std::unique_ptr<nn::LinearStream<double>>> step_;
  py::array y_;
  void* out_ = nullptr;
  std::atomic<bool> busy_{false};
};

class PyEmbeddingStream : public Own {
 public:
  PyEmbeddingStream(py::array weight, Index batch) : weight_(std::move(weight)), batch_(batch) {
    if (batch < 1) {
      throw py::value_error("EmbeddingStream: batch is " + std::to_string(batch) + ", expected at least 1");
    }
    for_dtype(weight_, "EmbeddingStream: weight", [&](auto zero) {
      using T = decltype(zero);
      py::array_t<T> y = empty<T>({batch, axis(weight_, 2, 1, "EmbeddingStream: weight")});
      out_ = y.mutable_data();
      make_read_only(y);
      y_ = std::move(y);
      return 0;
    });
  }

  py::object call(py::handle x) {
    const OneCall one(busy_);
    const py::array ids = as_array(x, "Stream: x");
    return for_dtype(weight_, "EmbeddingStream: weight", [&](auto zero) -> py::object {
      using T = decltype(zero);
      const Index V = weight_.shape(0), E = weight_.shape(1);
      const T* w = read<T>(weight_, {V, E}, "EmbeddingStream: weight");
      if (ids.ndim() == 1) {
        look_up(read<std::int64_t>(ids, {batch_}, "Stream: x"), w, static_cast<T*>(out_), batch_, V, E);
        return y_;
      }
      if (ids.ndim() != 2) throw step_or_chunk_error(ids, {batch_});
      const Index T_ = ids.shape(0);
      const std::int64_t* in = read<std::int64_t>(ids, {T_, batch_}, "Stream: x");
      py::array_t<T> y = empty<T>({T_, batch_, E});
      T* out = y.mutable_data();
      without_gil([&](Poll& poll) {
        check_ids(in, T_ * batch_, V, nullptr, "Stream: x");
        return nn::embedding_forward(out, in, w, T_ * batch_, E, poll);
      });
      return std::move(y);
    });
  }

  /// Other weights of the same sizes.
  void take_weights(const py::array& weight) {
    const OneCall one(busy_);
    for_dtype(weight_, "EmbeddingStream: weight", [&](auto zero) {
      read<decltype(zero)>(weight, {weight_.shape(0), weight_.shape(1)}, "EmbeddingStream: weight");
      return 0;
    });
    weight_ = weight;
  }

  /// The weight in use, [V,E].
  py::array weights() {
    const OneCall one(busy_);
    return weight_;
  }

 private:
  template <class T>
  static void look_up(const std::int64_t* ids, const T* weight, T* y, Index n, Index V, Index E) {
    check_ids(ids, n, V, nullptr, "Stream: x");
    for (Index i = 0; i < n; ++i) std::copy_n(weight + ids[i] * E, E, y + i * E);
  }

  py::array weight_;
  Index batch_;
  py::array y_;
  void* out_ = nullptr;
  std::atomic<bool> busy_{false};
};

}  // namespace bptt::bindings
