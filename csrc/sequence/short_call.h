// SPDX-License-Identifier: Apache-2.0
// One step on weights where users hold them, row by row: forward keeps none in the kernels' order. A run of blocks of
// units is turned into panels in the nearest cache, and multiplied with at once, so that forward reads each weight
// once. Its bits are those of a call on packed weights: the panels hold the same values.
//
// Several steps would turn them each time; they take packed weights.
//
// Backward of one step reads rows as users have them (rows_product.h). The tape has a copy, since users may change the
// weights before, in panels where many rows of a batch will meet them; a caller that gives them to backward again does
// without it (ForwardCall::keep_weights).
#pragma once

#include <vector>

#include "core/gemm/blocks.h"
#include "core/gemm/rows_product.h"
#include "core/memory/arena.h"
#include "sequence/step.h"

namespace bptt::sequence {

template <class T>
class FreshWeights {
 public:
  /// `weights` has no panels for forward. `rows` of the batch; keep: whether backward gets a copy of rows there.
  FreshWeights(Weights<T>& weights, const Flat<const T>& from, Index rows, bool keep)
      : w_(weights),
        from_(from),
        at_once_(std::min<Index>(weights.blocks, tile_blocks(RowBlocks(rows).max_size(), weights.A))),
        panels_(at_once_ * (weights.x_panel() + weights.h_panel())) {
    if (keep) w_.rows = Buffer<T>(checked_mul(w_.G * w_.H, w_.I + w_.R));
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
      if (w_.rows.size() > 0 && rows.first == 0) keep(units);
      step.first_block = first;
      kernels.forward(step, rows, units, 0);
    }
  }

 private:
  /// Copies the rows of some units, which are in a near cache.
  void keep(const Share& units) const {
    const Index begin = units.begin * Weights<T>::W, end = std::min(units.end * Weights<T>::W, w_.H);
    const Flat<T> to = w_.rows_at(w_.rows.data());
    for (Index g = 0; g < w_.G; ++g) {
      const Index first = g * w_.H + begin;
      std::copy_n(from_.weight_ih + first * w_.I, (end - begin) * w_.I, to.weight_ih + first * w_.I);
      std::copy_n(from_.weight_hh + first * w_.R, (end - begin) * w_.R, to.weight_hh + first * w_.R);
    }
  }

  Weights<T>& w_;
  const Flat<const T> from_;
  const Index at_once_;  // blocks, as many as a tile takes
  mutable Buffer<T> panels_;
};

/// A call of backward with the rows that the weights have, if they have some.
template <class T>
BackwardCall<T> with_rows(BackwardCall<T> call, const Weights<T>& w) {
  if (w.rows.size() > 0) call.weights = w.rows_at(w.rows.data());
  return call;
}

/// Room of each thread for a backward call whose tape has no panels: made here, since a job must not run out of memory.
template <class T>
std::vector<ColumnRoom<T>> column_rooms(const BackwardCall<T>& call, const Weights<T>& w, Index batch, int threads) {
  const bool needed = call.weights.weight_hh && RowBlocks(batch).count > kFewBlocks;
  std::vector<ColumnRoom<T>> rooms(std::size_t(needed ? threads : 0));
  for (ColumnRoom<T>& each : rooms) each.reserve(checked_mul(w.G, w.H));
  return rooms;
}

/// That of a thread; null where none is needed.
template <class T>
ColumnRoom<T>* room_of(std::vector<ColumnRoom<T>>& rooms, int thread) {
  return rooms.empty() ? nullptr : &rooms[std::size_t(thread)];
}

/// A product of backward by packed rows of weights, or by the same rows where users hold them.
template <class T>
void product_back(const ProductRows<T>& f, const Panels<T>& packed, const WholeRows<T>& given, const RowBlocks& blocks,
                  const Share& rows, const Share& columns, ColumnRoom<T>* room) {
  if (packed.depth == 0) return product(f, given, blocks, rows, columns, room);
  product(f.c, f.ldc, f.a, f.lda, f.k, packed, static_cast<const T*>(nullptr), blocks, rows.begin, rows.end, columns);
}

}  // namespace bptt::sequence
