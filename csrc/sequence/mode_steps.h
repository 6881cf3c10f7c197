// SPDX-License-Identifier: Apache-2.0
// Steps whose products are of another mode than chains of FMAs (core/gemm/mode.h), as far as they are one text for all
// cells; what a tile of a cell does is in forward_step.h and backward_step.h.
#pragma once

#include "core/gemm/blocks.h"
#include "sequence/step.h"

namespace bptt::sequence {

/// The operands of a step of another mode, for some rows.
template <class T>
void prepare(const ForwardStep<T>& s, const RowBlocks& rows) {
  if constexpr (std::is_same_v<T, float>) {
    if (is_narrow(s.w.mode)) {
      if (s.x) s.mode_rows->narrow_x.set(rows.first, rows.total, s.x + rows.first * s.w.I);
      s.mode_rows->narrow_h.set(rows.first, rows.total, s.h + rows.first * s.w.H);
      return;
    }
    for (Index row = rows.first; row < rows.first + rows.total; ++row) {
      if (s.x) s.mode_rows->x.set(row, s.x + row * s.w.I, {s.w.I});
      s.mode_rows->h.set(row, s.h + row * s.w.H, {s.w.H});
    }
  }
}
template <class T>
void prepare(const BackwardStep<T>& s, const RowBlocks& rows) {
  if constexpr (std::is_same_v<T, float>) {
    if (!s.dg1) return;
    const Segments gates = gate_segments(s.w, s.w.cell.h_acc, s.w.G);
    const Index width = s.w.cell.lines * s.w.Hp;
    for (Index row = rows.first; row < rows.first + rows.total; ++row)
      s.mode_rows->dg.set(row, s.dg1 + row * width, gates);
  }
}

/// Adds to the sums the input products of `count` registers and some rows.
inline void add_input_products(const Weights<float>& w, const ModeSums& to, const StepRows& operands, Index row,
                               Index rows, Index first, int count) {
  if (is_narrow(w.mode))
    w.narrow.x.multiply(to, operands.narrow_x, row, rows, first, count);
  else
    w.x_mode.multiply(to, operands.x, row, rows, first, count);
}
/// The hidden products.
inline void add_hidden_products(const Weights<float>& w, const ModeSums& to, const StepRows& operands, Index row,
                                Index rows, Index first, int count) {
  if (is_narrow(w.mode))
    w.narrow.h.multiply(to, operands.narrow_h, row, rows, first, count);
  else
    w.h_mode.multiply(to, operands.h, row, rows, first, count);
}

/// The same as run_tiles, in another mode: some rows at once, so that a group of registers of weights stays in the
/// nearest cache while they pass by.
template <class Tiles, class Step>
void run_in_mode(const Step& step, const RowBlocks& rows, const Share& units, Index t) {
  prepare(step, rows);
  const ModeScope scope(step.w.mode);
  const Index blocks = Tiles::kModeBlocks * (is_narrow(step.w.mode) && rows.total == 1 ? 2 : 1);  // see narrow.h
  const bool tail = Tiles::kTailWidth > 0 && step.w.tail > 0 && units.end == step.w.blocks && units.begin < units.end;
  const Index whole = units.end - Index(tail), runs = ceil_div(whole - units.begin, blocks);
  const RowBlocks passes(rows.total, rows.first, kModeRows);
  const auto run = [&](Index begin, Index end) {
    for (Index i = 0; i < passes.count; ++i) Tiles::in_mode(step, passes.begin(i), passes.size(i), begin, end);
  };
  if (tail && t % 2 != 0) run(whole, units.end);
  for (Index i = 0; i < runs; ++i) {
    const Index begin = units.begin + (t % 2 == 0 ? i : runs - 1 - i) * blocks;
    run(begin, std::min(whole, begin + blocks));
  }
  if (tail && t % 2 == 0) run(whole, units.end);
}

/// The input products in another mode.
inline void mode_input_products(const Weights<float>& w, const float* x, float* gates, Index rows, const Share& blocks,
                                StepRows& operands) {
  constexpr int W = Vec<float>::kSize;
  const Index row_width = w.cell.lines * w.Hp;
  const ModeScope scope(w.mode);
  if (is_narrow(w.mode)) operands.narrow_x.set(0, rows, x);
  for (Index row = 0; !is_narrow(w.mode) && row < rows; ++row) operands.x.set(row, x + row * w.I, {w.I});
  for (Index j = blocks.begin; j < blocks.end; ++j) {
    const bool in_tail = w.tail > 0 && j + 1 == w.blocks;
    const int registers = in_tail ? int(w.tail_width) : w.G;
    Index place[cells::kMaxGates];
    for (int g = 0; g < registers; ++g) place[g] = (in_tail ? g : w.cell.x_acc[g]) * w.Hp;
    float* to = gates + j * W;
    for (Index row = 0; row < rows; ++row) {
      for (int n = 0; n < (in_tail ? registers : w.A); ++n)
        Vec<float>::load(w.bias.data() + (j * w.A + n) * W).store(to + row * row_width + n * w.Hp);
    }
    add_input_products(w, {to, row_width, place}, operands, 0, rows, j * w.G, registers);
  }
}

/// dx of the rows [from, to) in another mode than FMAs.
template <class T>
void mode_input_gradient(T* dx, const Weights<T>& w, const T* gates, Index from, Index to, ModeRows& operand) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr int W = Vec<T>::kSize, kBlocks = 4;
    constexpr Index place[kBlocks] = {0, W, 2 * W, 3 * W};
    const Segments k = gate_segments(w, w.cell.x_acc, w.G);
    const ModeScope scope(w.mode);
    const Index width = w.cell.lines * w.Hp;
    for (Index row = from; row < to; row += kModeRows) {
      const Index rows = std::min<Index>(kModeRows, to - row);
      for (Index r = 0; r < rows; ++r) operand.set(r, gates + (row + r) * width, k);
      for (Index j = 0; j < w.x_back.blocks(); j += kBlocks) {
        const int count = int(std::min<Index>(kBlocks, w.x_back.blocks() - j));
        alignas(64) T sum[kModeRows][kBlocks][W] = {};
        w.x_back_mode.multiply({sum[0][0], kBlocks * W, place}, operand, 0, rows, j, count);
        for (Index r = 0; r < rows; ++r) {
          for (int n = 0; n < count; ++n) {
            const Index column = (j + n) * W;
            Vec<T>::load(sum[r][n]).store(dx + (row + r) * w.I + column, std::min<Index>(W, w.I - column));
          }
        }
      }
    }
  }
}

}  // namespace bptt::sequence
