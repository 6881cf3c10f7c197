// SPDX-License-Identifier: Apache-2.0
// Layers without a state, step by step: rows [B,.] into the same array each time, or a chunk [T,B,.] into a new one.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "bindings/arrays.h"
#include "bindings/own.h"
#include "core/gemm.h"

namespace bptt::bindings {

template <class T>
struct LinearStep {
  Panels<T> panels;
  Buffer<T> bias;

  LinearStep(const T* weight, const T* b, Index I, Index O) : panels(I, O), bias(O) {
    panels.pack_transposed(weight, I);
    if (b)
      std::copy_n(b, O, bias.data());
    else
      bias.clear();
  }
  void run(const T* x, T* y, Index rows) const {
    const RowBlocks blocks(rows);
    product(y, panels.columns, x, panels.depth, Segments{panels.depth}, panels, bias.data(), blocks, 0, blocks.count);
  }
};

class PyLinearStream : public Own {
 public:
  PyLinearStream(const py::array& weight, const std::optional<py::array>& bias, Index batch) : batch_(batch) {
    if (batch < 1) {
      throw py::value_error("LinearStream: batch is " + std::to_string(batch) + ", expected at least 1");
    }
    for_dtype(weight, "LinearStream: weight", [&](auto zero) {
      using T = decltype(zero);
      const Index O = axis(weight, 2, 0, "LinearStream: weight"), I = axis(weight, 2, 1, "LinearStream: weight");
      const T* w = read<T>(weight, {O, I}, "LinearStream: weight");
      const T* b = bias ? read<T>(*bias, {O}, "LinearStream: bias") : nullptr;
      step_ = std::make_unique<LinearStep<T>>(w, b, I, O);
      py::array_t<T> y = empty<T>({batch, O});
      out_ = y.mutable_data();
      make_read_only(y);
      y_ = std::move(y);
      return 0;
    });
  }

  py::object call(const py::array& x) const {
    return std::visit([&](const auto& step) { return call_as(*step, x); }, step_);
  }

 private:
  template <class T>
  py::object call_as(const LinearStep<T>& step, const py::array& x) const {
    const Index I = step.panels.depth, O = step.panels.columns;
    if (x.ndim() == 2) {
      step.run(read<T>(x, {batch_, I}, "Stream: x"), static_cast<T*>(out_), batch_);
      return y_;
    }
    const Index T_ = axis(x, 3, 0, "Stream: x");
    const T* in = read<T>(x, {T_, batch_, I}, "Stream: x");
    py::array_t<T> y = empty<T>({T_, batch_, O});
    step.run(in, y.mutable_data(), T_ * batch_);
    return std::move(y);
  }

  Index batch_;
  std::variant<std::unique_ptr<LinearStep<float>>, std::unique_ptr<LinearStep<double>>> step_;
  py::array y_;
  void* out_ = nullptr;
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

  py::object call(const py::array& ids) const {
    return for_dtype(weight_, "EmbeddingStream: weight", [&](auto zero) -> py::object {
      using T = decltype(zero);
      const Index V = weight_.shape(0), E = weight_.shape(1);
      const T* w = read<T>(weight_, {V, E}, "EmbeddingStream: weight");
      if (ids.ndim() == 1) {
        look_up(read<std::int64_t>(ids, {batch_}, "Stream: x"), w, static_cast<T*>(out_), batch_, V, E);
        return y_;
      }
      const Index T_ = axis(ids, 2, 0, "Stream: x");
      py::array_t<T> y = empty<T>({T_, batch_, E});
      look_up(read<std::int64_t>(ids, {T_, batch_}, "Stream: x"), w, y.mutable_data(), T_ * batch_, V, E);
      return std::move(y);
    });
  }

 private:
  template <class T>
  static void look_up(const std::int64_t* ids, const T* weight, T* y, Index n, Index V, Index E) {
    for (Index i = 0; i < n; ++i) {
      if (ids[i] < 0 || ids[i] >= V) {
        throw py::value_error("Stream: x has the value " + std::to_string(ids[i]) + ", expected 0 to " +
                              std::to_string(V - 1));
      }
      std::copy_n(weight + ids[i] * E, E, y + i * E);
    }
  }

  py::array weight_;
  Index batch_;
  py::array y_;
  void* out_ = nullptr;
};

}  // namespace bptt::bindings
