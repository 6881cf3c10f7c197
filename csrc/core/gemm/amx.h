// SPDX-License-Identifier: Apache-2.0
// AMX: eight registers, each a tile of 16 rows x 64 bytes, and a product of two of them. A [16 rows][16 pairs of
// bfloat16] times B [16 pairs][16 columns], each of two values, adds to C [16 rows][16 columns] of float32; an element
// is a chain in the order of k, whatever the others are. By assembly, since no flag of the compiler allows it at this
// level.
#pragma once

#include <cstdint>

#include "core/gemm/blocks.h"
#include "core/gemm/mode_lanes.h"

#if defined(__AVX512F__) && defined(__GNUC__)

namespace bptt::amx {

constexpr Index kTile = 16;  // rows, columns, and pairs of k

/// This thread's tiles are of the full size from now on, until they are released.
inline void configure() {
  struct alignas(64) Configuration {
    std::uint8_t palette = 1, rest[15] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static constexpr Configuration all;
  asm volatile("ldtilecfg %0" : : "m"(all));
}
inline void release() { asm volatile("tilerelease"); }

template <int Tile>
BPTT_INLINE void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
/// Rows `stride` values of 32 bits apart.
template <int Tile>
BPTT_INLINE void load(const float* from, Index stride) {
  asm volatile("tileloadd (%1,%2,4), %%tmm%c0" : : "i"(Tile), "r"(from), "r"(stride) : "memory");
}
/// To rows one after the other.
template <int Tile>
BPTT_INLINE void store(float* to) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,4)" : : "i"(Tile), "r"(to), "r"(kTile) : "memory");
}
/// C += A B.
template <int C, int A, int B>
BPTT_INLINE void multiply_add() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

/// Where the operand of some tiles is: rows of A, or pairs of B, lie `stride` values apart. Tiles of B come in pairs
/// side by side, and the second pair is `next` values further.
struct Operand {
  const float* values;
  Index stride, next = 0;
};

/// C[r*N + n] = A[r] B[n] over `steps` pairs of k, a multiple of 16, for R tiles of rows and N of columns. A product
/// takes 16 cycles and its result is there after 52: four sums keep the unit busy.
template <int R, int N>
BPTT_INLINE void multiply(const Operand& a, const Operand& b, Index steps) {
  static_assert(R * N <= 4 && R <= 2, "four tiles of sums, two of each operand");
  const auto times = [](auto n) {
    multiply_add<n, 4, 6 + n % 2>();
    if constexpr (R > 1) multiply_add<N + n, 5, 6 + n % 2>();
  };
  zero<0>();
  if constexpr (R * N > 1) zero<1>();
  if constexpr (R * N > 2) zero<2>(), zero<3>();
  const float *left = a.values, *right = b.values;
  for (Index j = 0; j < steps; j += kTile, left += kTile, right += kTile * b.stride) {
    load<4>(left, a.stride);
    if constexpr (R > 1) load<5>(left + kTile * a.stride, a.stride);
    load<6>(right, b.stride);
    if constexpr (N > 1) load<7>(right + kTile, b.stride);
    times(Constant<0>{});
    if constexpr (N > 1) times(Constant<1>{});
    if constexpr (N > 2) {
      load<6>(right + b.next, b.stride);
      load<7>(right + b.next + kTile, b.stride);
      times(Constant<2>{}), times(Constant<3>{});
    }
  }
}

}  // namespace bptt::amx

#endif
