// SPDX-License-Identifier: Apache-2.0
// The affine map of rows, y = x W^T + b, and its gradients, on the products of core/gemm.
// x [N,I], weight [O,I], bias [O], y [N,O]. Threads divide rows, or elements of dW; never a sum.
// Each function returns false where it was called off.
#pragma once

#include "core/gemm/outer.h"
#include "core/gemm/product.h"
#include "core/gemm/sums.h"
#include "core/threads/parallel.h"

namespace bptt::nn {

/// c [rows,columns] = a [rows,depth] b + bias.
template <class T>
bool all_rows(T* c, const T* a, const Panels<T>& b, const T* bias, Index rows, Poll& poll) {
  const RowBlocks blocks(rows);
  const double ns = product_ns<T>(2.0 * kTileRows * double(b.depth) * double(b.columns));  // of a block of rows
  return parallel_for(blocks.count, grain_of(ns), threads_for(ns * double(blocks.count)), poll,
                      [&](int, Index begin, Index end) {
                        product(c, b.columns, a, b.depth, Segments{b.depth}, b, bias, blocks, begin, end);
                      });
}

/// pack(share) for the blocks of b.
template <class T, class Pack>
bool all_blocks(const Panels<T>& b, Poll& poll, const Pack& pack) {
  const double ns = kPackNs * double(b.depth) * Vec<T>::kSize;
  return parallel_for(b.blocks(), grain_of(ns), threads_for(ns * double(b.blocks())), poll,
                      [&](int, Index begin, Index end) { pack(Share(begin, end)); });
}

template <class T>
bool linear_forward(T* y, const T* x, const T* weight, const T* bias, Index N, Index I, Index O, Poll& poll) {
  Panels<T> panels(I, O);
  return all_blocks(panels, poll, [&](const Share& share) { panels.pack_transposed(weight, I, share); }) &&
         all_rows(y, x, panels, bias, N, poll);
}

namespace detail {

/// dW [O,I] = dy^T x, for kLongSum rows at a time and each tile of dW separately.
template <class T>
bool weight_gradient(T* dweight, const T* x, const T* dy, Index N, Index I, Index O, Poll& poll) {
  constexpr int W = Vec<T>::kSize, kWidth = 4;  // registers of columns of a tile
  constexpr Index kHeight = 48;                 // rows of a tile: a multiple of every height of outer's own
  const Index column_blocks = ceil_div(I, W), groups = ceil_div(column_blocks, kWidth), slices = ceil_div(O, kHeight);
  const bool is_long = N > kLongSum;
  if (is_long || N == 0) std::fill_n(dweight, O * I, T(0));
  const int threads = threads_for(product_ns<T>(2.0 * double(N) * double(I) * double(O)));
  Buffer<T> panels(threads * kSumRows * kWidth * W), part(is_long ? checked_mul(O, I) : 0);
  bool complete = true;
  for (Index first = 0; first < N && complete; first += kLongSum) {
    const Index end = std::min(N, first + kLongSum);
    complete = parallel_for(groups * slices, 1, threads, poll, [&](int thread, Index item, Index) {
      T* panel = panels.data() + thread * kSumRows * kWidth * W;
      const Index column = item / slices * kWidth, m = item % slices * kHeight;
      for_block_runs<kWidth>(column, std::min(column_blocks, column + kWidth), [&](auto width, Index block) {
        const Index last = std::min<Index>(W, I - (block + width - 1) * W);
        for (Index r = first; r < end; r += kSumRows) {
          const Index rows = std::min(kSumRows, end - r);
          SumTarget<T> to{is_long ? part.data() : dweight, I, r == first};
          if (is_long && r + rows == end) to.total = dweight;
          gather<width>(panel, x + r * I, I, I, rows, block);
          outer<width>(to.at(block * W), last, StridedRows<const T>{dy + r * O, O},
                       StridedRows<const T>{panel, width * W}, rows, m, std::min(O, m + kHeight));
        }
      });
    });
    complete = complete && !poll();  // the caller's thread may have no tile
  }
  return complete;
}

}  // namespace detail

template <class T>
bool linear_backward(T* dx, T* dweight, T* dbias, const T* x, const T* weight, const T* dy, Index N, Index I, Index O,
                     Poll& poll) {
  Panels<T> panels(O, I);
  if (!all_blocks(panels, poll, [&](const Share& share) { panels.pack(weight, I, share); })) return false;
  if (!all_rows(dx, dy, panels, static_cast<const T*>(nullptr), N, poll)) return false;
  if (!detail::weight_gradient(dweight, x, dy, N, I, O, poll)) return false;
  if (!dbias) return true;
  constexpr double kTermNs = 0.15;  // 0.07 to 0.19 while dy is in the cache
  return parallel_for(O, 64, threads_for(kTermNs * double(N) * double(O)), poll,
                      [&](int, Index begin, Index end) { column_sums(dbias, dy, O, N, begin, end); });
}

}  // namespace bptt::nn
