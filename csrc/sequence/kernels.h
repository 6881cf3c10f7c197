// SPDX-License-Identifier: Apache-2.0
// The kernels of one cell, compiled for each cell, type and level.
#pragma once

#include "sequence/backward_step.h"
#include "sequence/forward_step.h"
#include "sequence/multi_stage_backward.h"
#include "sequence/multi_stage_forward.h"

namespace bptt::sequence {

/// A step by tiles, or through memory for a cell of several stages.
template <class Cell, class Tiles, class MultiStage, int kPerBlock, class Step>
void run_step(const Step& step, const RowBlocks& rows, [[maybe_unused]] const Share& units, [[maybe_unused]] Index t) {
  static_assert(Cell::S <= kMaxStates, "views and calls have room for so many states");
  if constexpr (cells::kInfo<Cell>.multi_stage)
    MultiStage{step}.run(rows);
  else
    run_tiles<Tiles, kPerBlock>(step, rows, units, t);
}

template <class Cell, class T>
inline constexpr CellKernels<T> kCellKernels{
    cells::kInfo<Cell>, &input_products<Cell, T>,
    &run_step<Cell, ForwardTiles<Cell, T>, MultiStageForward<Cell, T>, Cell::A, ForwardStep<T>>,
    &run_step<Cell, BackwardTiles<Cell, T>, MultiStageBackward<Cell, T>, 1, BackwardStep<T>>};

namespace detail {

template <class T, class... Cells>
const CellKernels<T>* find_kernels(cells::List<Cells...>, const std::string& name) {
  const CellKernels<T>* found = nullptr;
  ((name == cells::kInfo<Cells>.name && (found = &kCellKernels<Cells, T>)), ...);
  return found;
}

}  // namespace detail

/// Of the cell called `name`; null where there is none.
template <class T>
const CellKernels<T>* find_kernels(const std::string& name) {
  return detail::find_kernels<T>(cells::All{}, name);
}

}  // namespace bptt::sequence
