// SPDX-License-Identifier: Apache-2.0
// The affine map of rows, y = x W^T + b, and its gradients, on the products of core/gemm.h.
// x [N,I], weight [O,I], bias [O], y [N,O]. Threads divide rows, or elements of dW; never a sum.
#pragma once

#include "core/gemm.h"
#include "core/threads/pool.h"

namespace bptt::nn {

/// Threads for `flops` of work: one below about 100 us, where waking a second costs more than it brings.
inline int threads_for(double flops) { return flops < 1e7 ? 1 : Pool::size().load(); }

template <class T>
void linear_forward(T* y, const T* x, const T* weight, const T* bias, Index N, Index I, Index O) {
  Panels<T> panels(I, O);
  panels.pack_transposed(weight, I);
  const RowBlocks blocks(N);
  Pool::instance().run(threads_for(2.0 * double(N) * double(I) * double(O)), [&](int thread, Barrier& barrier) {
    const Share share(blocks.count, thread, barrier.size());
    product(y, O, x, I, Segments{I}, panels, bias, blocks, share.begin, share.end);
  });
}

namespace detail {

/// dW [O,I] += dy^T x for one group of U registers of columns, rows of dW in [begin, end).
template <int U, class T>
void add_weight_gradient(T* dw, const T* dy, const T* x, T* panel, Index N, Index I, Index O, Index block, Index begin,
                         Index end, Index kRows) {
  constexpr int W = Vec<T>::kSize;
  for (Index r = 0; r < N; r += kRows) {
    const Index rows = std::min(kRows, N - r);
    gather<U>(panel, x + r * I, I, I, rows, block);
    outer<U>(dw + block * W, I, std::min<Index>(W, I - (block + U - 1) * W), r == 0, dy + r * O, O, panel, rows, begin,
             end);
  }
}

}  // namespace detail

template <class T>
void linear_backward(T* dx, T* dweight, T* dbias, const T* x, const T* weight, const T* dy, Index N, Index I, Index O) {
  constexpr int W = Vec<T>::kSize, kWidth = 4;
  constexpr Index kRows = 128, kHeight = 48;  // 48: a multiple of every tile height
  Panels<T> panels(O, I);
  panels.pack(weight, I, Share(panels.blocks(), 0, 1));
  const Index column_blocks = ceil_div(I, W);
  if (N == 0) std::fill_n(dweight, O * I, T(0));
  const int most = threads_for(4.0 * double(N) * double(I) * double(O));
  Buffer<T> scratch(most * kRows * kWidth * W);
  const RowBlocks blocks(N);
  const Index groups = ceil_div(column_blocks, kWidth), slices = ceil_div(O, kHeight);
  Pool::instance().run(most, [&](int thread, Barrier& barrier) {
    const Share rows(blocks.count, thread, barrier.size());
    product(dx, I, dy, O, Segments{O}, panels, static_cast<const T*>(nullptr), blocks, rows.begin, rows.end);
    const Share share(groups * slices, thread, barrier.size());
    for (Index item = share.begin; item < share.end; ++item) {
      const Index first = item / slices * kWidth, m = item % slices * kHeight;
      for_block_runs<kWidth>(first, std::min(column_blocks, first + kWidth), [&](auto width, Index block) {
        detail::add_weight_gradient<width>(dweight, dy, x, scratch.data() + thread * kRows * kWidth * W, N, I, O, block,
                                           m, std::min(O, m + kHeight), kRows);
      });
    }
  });
  if (!dbias) return;
  std::fill_n(dbias, O, T(0));
  for (Index n = 0; n < N; ++n) {
    for (Index o = 0; o < O; ++o) dbias[o] += dy[n * O + o];
  }
}

}  // namespace bptt::nn
