// SPDX-License-Identifier: Apache-2.0
// Products through memory: lines of pre-activations [rows,lines,Hp] that a whole chunk of steps, or a stage of a cell,
// gets before anybody computes with them.
#pragma once

#include "sequence/weights.h"

namespace bptt::sequence {

/// One block of units of NA lines: start(line, n) + from[row,:] * panel, where Map orders N weights for each k into the
/// NA accumulators. `lines` points to the block in the first line of the first row, rows are `width` apart.
template <class Map, int N, int NA, class T, class Start>
BPTT_NOINLINE void block_products(T* lines, Index width, Index Hp, const T* from, Index ld, const T* panel, Index K,
                                  const RowBlocks& rows, const Start& start) {
  for (Index i = 0; i < rows.count; ++i) {
    const Index row = rows.begin(i);
    T* to = lines + row * width;
    dispatch<kTileRows>(rows.size(i), [&](auto height) {
      constexpr int R = height;
      Vec<T> acc[R][NA];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int n = 0; n < NA; ++n) acc[r][n] = start(to + r * width + n * Hp, n);
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

/// The input products of `rows` rows for some blocks of units: a = bias + Wx x, into gates.
template <class Cell, class T>
void input_products(const Weights<Cell, T>& w, const T* x, T* gates, Index rows, const Share& blocks) {
  constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A;
  const RowBlocks row_blocks(rows);
  const auto block = [&](auto map, auto width, auto accumulators, Index j) {
    constexpr int N = width, NA = accumulators;
    block_products<decltype(map), N, NA>(
        gates + j * W, kRowValues<Cell> * w.Hp, w.Hp, x, w.I, w.x.data() + j * w.I * G * W, w.I, row_blocks,
        [&](const T*, int n) { return Vec<T>::load(w.bias.data() + (j * A + n) * W); });
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
