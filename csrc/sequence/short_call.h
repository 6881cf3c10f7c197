// SPDX-License-Identifier: Apache-2.0
// One step on weights where users hold them, row by row: nothing is kept in the kernels' order but what backward
// reads. A run of blocks of units is turned into panels in the nearest cache, and multiplied with at once, so that
// forward reads each weight once. Its bits are those of a call on packed weights: the panels hold the same values.
//
// Several steps would turn them each time; they take packed weights.
//
// Backward of one step needs their rows as users have them. The tape has a copy in panels, since users may change the
// weights before; a caller that gives them to backward again does without (ForwardCall::keep_weights).
#pragma once

#include "core/gemm/blocks.h"
#include "core/gemm/rows_product.h"
#include "core/memory/arena.h"
#include "sequence/step.h"

namespace bptt::sequence {

template <class T>
class FreshWeights {
 public:
  /// `weights` has room for backward alone, which this fills. `rows` of the batch.
  FreshWeights(Weights<T>& weights, const Flat<const T>& from, Index rows)
      : w_(weights),
        from_(from),
        at_once_(std::min<Index>(weights.blocks, tile_blocks(RowBlocks(rows).max_size(), weights.A))),
        panels_(at_once_ * (weights.x_panel() + weights.h_panel())) {
    if (!DryRun::on()) w_.pack_small(from);
  }

  /// The step of all units, for some rows.
  void forward(const CellKernels<T>& kernels, ForwardStep<T> step, const RowBlocks& rows) const {
    T* x = panels_.data();
    T* h = x + at_once_ * w_.x_panel();
    step.x_panels = x;
    step.h_panels = h;
    for (Index first = 0; first < w_.blocks; first += at_once_) {
      const Share units(first, std::min(w_.blocks, first + at_once_));
      w_.pack_blocks(from_, x, h, units);
      step.first_block = first;
      kernels.forward(step, rows, units, 0);
    }
  }

 private:
  Weights<T>& w_;
  const Flat<const T> from_;
  const Index at_once_;  // blocks, as many as a tile takes
  mutable Buffer<T> panels_;
};

/// A product of backward by packed rows of weights, or by the same rows where users hold them.
template <class T>
void product_back(const ProductRows<T>& f, const Panels<T>& packed, const WholeRows<T>& given, const RowBlocks& blocks,
                  const Share& rows, const Share& columns) {
  if (packed.depth == 0) return product(f, given, blocks, rows, columns);
  product(f.c, f.ldc, f.a, f.lda, f.k, packed, static_cast<const T*>(nullptr), blocks, rows.begin, rows.end, columns);
}

}  // namespace bptt::sequence
