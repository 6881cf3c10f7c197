// SPDX-License-Identifier: Apache-2.0
// The affine map as a stream: a few rows at a time, without an allocation.
#pragma once

#include <cassert>
#include <functional>

#include "core/gemm/product.h"
#include "nn/linear.h"
#include "nn/nn.h"

namespace bptt::nn {

/// Whether two arrays overlap.
template <class X, class Y>
bool overlap(const X* x, Index nx, const Y* y, Index ny) {
  const std::less<const void*> less;
  return less(x, y + ny) && less(y, x + nx);
}

template <class T>
class PackedLinear final : public LinearStream<T> {
 public:
  PackedLinear(const T* weight, const T* bias, Index I, Index O, Index batch)
      : panels_(I, O), bias_(O), overlapped_(checked_mul(batch, O)) {
    panels_.pack_transposed(weight, I, panels_.all());
    if (bias)
      std::copy_n(bias, O, bias_.data());
    else
      bias_.clear();
  }

  Index inputs() const override { return panels_.depth; }
  Index outputs() const override { return panels_.columns; }

  void step(const T* x, T* y, Index batch) override {
    const FlushDenormals flush;  // as in chunks
    const Index I = inputs(), O = outputs();
    const RowBlocks blocks(batch);
    assert(batch * O <= overlapped_.size());
    T* to = overlap(x, batch * I, y, batch * O) ? overlapped_.data() : y;
    product(to, O, x, I, Segments{I}, panels_, bias_.data(), blocks, 0, blocks.count);
    if (to != y) std::copy_n(to, batch * O, y);
  }

  bool chunk(const T* x, T* y, Index N, Poll& poll) const override {
    return all_rows(y, x, panels_, bias_.data(), N, poll);
  }

  void get_weights(T* weight, T* bias) const override {
    panels_.unpack_transposed(weight, inputs());
    if (bias) std::copy_n(bias_.data(), outputs(), bias);
  }

 private:
  Panels<T> panels_;
  Buffer<T> bias_, overlapped_;  // [O]; [batch,O]
};

}  // namespace bptt::nn
