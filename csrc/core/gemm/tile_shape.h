// SPDX-License-Identifier: Apache-2.0
// How many rows and registers a tile has: all that a level of instruction set decides about products.
#pragma once

namespace bptt {

// Registers for accumulators, of 32 (AVX-512, NEON) or 16; the rest holds weights and the broadcast value. In a
// prototype of the bare kernel, K=256 N=1024, of 152 GF/s: 6 x 4 rows x registers 128, 8 x 3 131, 4 x 4 108.
#if defined(__AVX512F__) || defined(__aarch64__) || defined(_M_ARM64)
constexpr int kRegisters = 32, kAccumulators = 24, kTileRows = 6;
#else
constexpr int kRegisters = 16, kAccumulators = 12, kTileRows = 3;
#endif

/// Operations of products in a second for each lane of a register: 112 GF/s at 16 lanes (EPYC, AVX-512), 76 to 89 at 8.
constexpr double kFlopsPerLane = 7e9;

/// Registers side by side for a tile of `rows` rows when each column block needs `per_block`: a power of two.
constexpr int tile_blocks(int rows, int per_block) {
  int blocks = 1;
  while (blocks < 8 && 2 * blocks * rows * per_block <= kAccumulators) blocks *= 2;
  return blocks;
}

/// Rows of a weight-gradient tile of `columns` registers.
constexpr int outer_rows(int columns) { return kAccumulators / columns > 8 ? 8 : kAccumulators / columns; }

}  // namespace bptt
