// SPDX-License-Identifier: Apache-2.0
// The kernels of one cell: what is compiled for each cell, type and level.
#pragma once

#include "sequence/backward_step.h"
#include "sequence/forward_step.h"
#include "sequence/multi_stage_backward.h"
#include "sequence/multi_stage_forward.h"

namespace bptt::sequence {

template <class Cell, class T>
void forward_step(const ForwardStep<T>& step, const RowBlocks& rows, [[maybe_unused]] const Share& units,
                  [[maybe_unused]] Index t) {
  if constexpr (cells::kInfo<Cell>.multi_stage)
    MultiStageForward<Cell, T>(step).run(rows);
  else
    run_tiles<ForwardTiles<Cell, T>, Cell::A>(step, rows, units, t);
}

template <class Cell, class T>
void backward_step(const BackwardStep<T>& step, const RowBlocks& rows, [[maybe_unused]] const Share& units,
                   [[maybe_unused]] Index t) {
  if constexpr (cells::kInfo<Cell>.multi_stage)
    MultiStageBackward<Cell, T>(step).run(rows);
  else
    run_tiles<BackwardTiles<Cell, T>, 1>(step, rows, units, t);
}

template <class Cell, class T>
inline constexpr CellKernels<T> kCellKernels{cells::kInfo<Cell>, &input_products<Cell, T>, &forward_step<Cell, T>,
                                             &backward_step<Cell, T>};

namespace detail {

template <class T, class... Cells>
const CellKernels<T>* find_kernels(cells::List<Cells...>, const std::string& name) {
  const CellKernels<T>* found = nullptr;
  ((name == Cells::kName && (found = &kCellKernels<Cells, T>)), ...);
  return found;
}

}  // namespace detail

/// Of the cell called `name`; null where there is none.
template <class T>
const CellKernels<T>* find_kernels(const std::string& name) {
  return detail::find_kernels<T>(cells::All{}, name);
}

}  // namespace bptt::sequence
