// SPDX-License-Identifier: Apache-2.0
// The affine map as a stream: a few rows at a time, without an allocation.
#pragma once

#include <cassert>
#include <functional>

#include "core/gemm/product.h"
#include "nn/linear.h"

namespace bptt::nn {

/// Whether two arrays have memory in common.
template <class X, class Y>
bool overlap(const X* x, Index nx, const Y* y, Index ny) {
  const std::less<const void*> less;
  return less(x, y + ny) && less(y, x + nx);
}

/// y = W x + b of a few rows at a time: weight [O,I] and bias [O] (null: zeros) are packed once.
template <class T>
class LinearStream {
 public:
  LinearStream(const T* weight, const T* bias, Index I, Index O, Index batch)
      : panels_(I, O), bias_(O), overlapped_(checked_mul(batch, O)) {
    panels_.pack_transposed(weight, I, panels_.all());
    if (bias)
      std::copy_n(bias, O, bias_.data());
    else
      bias_.clear();
  }

  Index inputs() const { return panels_.depth; }
  Index outputs() const { return panels_.columns; }

  /// x [batch,I] -> y [batch,O], which may overlap.
  void step(const T* x, T* y, Index batch) {
    const FlushDenormals flush;  // as in chunks
    const Index I = inputs(), O = outputs();
    const RowBlocks blocks(batch);
    assert(batch * O <= overlapped_.size());
    T* to = overlap(x, batch * I, y, batch * O) ? overlapped_.data() : y;
    product(to, O, x, I, Segments{I}, panels_, bias_.data(), blocks, 0, blocks.count);
    if (to != y) std::copy_n(to, batch * O, y);
  }

  /// x [N,I] -> y [N,O], which may not; false when called off.
  bool chunk(const T* x, T* y, Index N, Poll& poll) const { return all_rows(y, x, panels_, bias_.data(), N, poll); }

  /// What was packed; bias may be null.
  void get_weights(T* weight, T* bias) const {
    panels_.unpack_transposed(weight, inputs());
    if (bias) std::copy_n(bias_.data(), outputs(), bias);
  }

 private:
  Panels<T> panels_;
  Buffer<T> bias_, overlapped_;  // [O]; [batch,O]
};

}  // namespace bptt::nn
