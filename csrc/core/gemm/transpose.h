// SPDX-License-Identifier: Apache-2.0
// The transpose of a matrix.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/gemm/format.h"
#include "core/memory/sizes.h"
#include "core/simd/vec.h"

namespace bptt {

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"   // a register type as template argument
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own avx512fintrin.h (GCC bug 105593)
#endif
/// B[j*ldb + i] = A[i*lda + j], i < rows, j < columns; in squares of W x W values that are turned in registers.
template <class T, class Stored>
void transpose(Stored* b, Index ldb, const T* a, Index lda, Index rows, Index columns) {
  constexpr Index W = Vec<T>::kSize;
  assert((rows <= ldb || columns <= 1) && (columns <= lda || rows <= 1));
  Eigen::internal::PacketBlock<typename Vec<T>::Packet, W> square;
  for (Index i0 = 0; i0 < rows; i0 += W) {
    const Index m = std::min(W, rows - i0);
    for (Index j0 = 0; j0 < columns; j0 += W) {
      const Index n = std::min(W, columns - j0);
      for (Index i = 0; i < W; ++i) square.packet[i] = Vec<T>::load(a + (i0 + i) * lda + j0, i < m ? n : 0).v;
      Eigen::internal::ptranspose(square);
      for (Index j = 0; j < n; ++j) Format<Stored>::store(b + (j0 + j) * ldb + i0, Vec<T>(square.packet[j]), m);
    }
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

}  // namespace bptt
