// SPDX-License-Identifier: Apache-2.0
// Products through memory: lines of pre-activations [rows,lines,Hp] that a whole chunk of steps, or a stage of a cell,
// gets before they are used.
#pragma once

#include "core/gemm/blocks.h"
#include "core/gemm/tile.h"
#include "sequence/mode_steps.h"
#include "sequence/step.h"

namespace bptt::sequence {

/// One block of units of NA lines: start + from[row,:] * panel, where Map orders N weights for each k into the NA
/// accumulators. `lines` points to the block in the first line of the first row, rows are `width` apart. start:
/// [NA][W]; null: what the lines hold.
template <class Map, int N, int NA, class T, class Stored>
BPTT_NOINLINE void block_products(T* lines, Index width, Index Hp, const T* from, Index ld, const Stored* panel,
                                  Index K, const RowBlocks& rows, const T* start) {
  constexpr int W = Vec<T>::kSize;
  for (Index i = 0; i < rows.count; ++i) {
    const Index row = rows.begin(i);
    T* to = lines + row * width;
    dispatch<kTileRows>(rows.size(i), [&](auto height) {
      constexpr int R = height;
      Vec<T> acc[R][NA];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int n = 0; n < NA; ++n) acc[r][n] = Vec<T>::load(start ? start + n * W : to + r * width + n * Hp);
      }
      accumulate<Map, N, NA>(acc, from + row * ld, ld, panel, 0, K);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int n = 0; n < NA; ++n) acc[r][n].store(to + r * width + n * Hp);
      }
    });
  }
}

/// Maps gate g to its accumulator, for the two products: one type for all cells where that is the same number.
template <class Cell>
struct OwnInputMap {
  static constexpr int at(int g) { return Cell::x_acc(g); }
};
template <class Cell>
struct OwnHiddenMap {
  static constexpr int at(int g) { return Cell::h_acc(g); }
};
template <class Map>
constexpr bool is_identity(int gates) {
  for (int g = 0; g < gates; ++g) {
    if (Map::at(g) != g) return false;
  }
  return true;
}
template <class Cell, class Map>
using MapOf = std::conditional_t<is_identity<Map>(Cell::G), Identity, Map>;
template <class Cell>
using InputMap = MapOf<Cell, OwnInputMap<Cell>>;
template <class Cell>
using HiddenMap = MapOf<Cell, OwnHiddenMap<Cell>>;

/// See CellKernels.
template <class Cell, class T>
void input_products(const Weights<T>& w, const T* x, T* gates, Index rows, const Share& blocks,
                    [[maybe_unused]] StepRows* mode_rows) {
  constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A;
  const RowBlocks row_blocks(rows);
  if constexpr (std::is_same_v<T, float>) {
    if (mode_rows) return mode_input_products(w, x, gates, rows, blocks, *mode_rows);
  }
  const auto block = [&](auto map, auto width, auto accumulators, Index j) {
    constexpr int N = width, NA = accumulators;
    block_products<decltype(map), N, NA>(gates + j * W, w.cell.lines * w.Hp, w.Hp, x, w.I, w.x.data() + j * w.I * G * W,
                                         w.I, row_blocks, w.bias.data() + j * A * W);
  };
  for (Index j = blocks.begin; j < blocks.end; ++j) {
    if constexpr (G > 1) {
      if (w.tail > 0 && j + 1 == w.blocks) {
        dispatch<G - 1>(int(w.tail_width), [&](auto width) { block(Identity{}, width, width, j); });
        continue;
      }
    }
    block(InputMap<Cell>{}, Constant<G>{}, Constant<A>{}, j);
  }
}

}  // namespace bptt::sequence
