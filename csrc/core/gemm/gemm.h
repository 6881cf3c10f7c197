// SPDX-License-Identifier: Apache-2.0
// Matrix products of the shapes that recurrence needs. Every output element is one chain of FMAs in a fixed order of k,
// whatever the tile, the batch or the number of threads: that is what makes results the same bits everywhere.
//   Panels     a weight matrix laid out [column block][k][W], W the register width
//   accumulate the micro-kernel: R rows x N registers, broadcast times panel; the only inner loop of the library
//   product    C[rows,N] = bias + A[rows,K] * panels
//   outer      C[M,N] += P[rows,M]^T * Q[rows,N], the weight gradient
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/gemm/sums.h"
#include "core/memory/arena.h"
#include "core/simd/vec.h"

namespace bptt {

// Registers for accumulators, of 32 (AVX-512, NEON) or 16; the rest holds weights and the broadcast value. In a
// prototype of the bare kernel, K=256 N=1024, of 152 GF/s: 6 x 4 rows x registers 128, 8 x 3 131, 4 x 4 108.
#if defined(__AVX512F__) || defined(__aarch64__) || defined(_M_ARM64)
constexpr int kRegisters = 32, kAccumulators = 24, kTileRows = 6;
#else
constexpr int kRegisters = 16, kAccumulators = 12, kTileRows = 3;
#endif

/// Registers side by side for a tile of `rows` rows when each column block needs `per_block`: a power of two.
constexpr int tile_blocks(int rows, int per_block) {
  int blocks = 1;
  while (blocks < 8 && 2 * blocks * rows * per_block <= kAccumulators) blocks *= 2;
  return blocks;
}

/// Rows of a weight-gradient tile of `columns` registers.
constexpr int outer_rows(int columns) { return kAccumulators / columns > 8 ? 8 : kAccumulators / columns; }

inline Index ceil_div(Index a, Index b) { return a / b + (a % b != 0); }

/// Rows cut into blocks of at most kTileRows, as evenly as they go; depends on the number of rows only.
struct RowBlocks {
  Index total, first;        // rows, and where they begin
  Index count, base, extra;  // the first `extra` blocks have base + 1 rows, the others base

  explicit RowBlocks(Index rows, Index first = 0)
      : total(rows),
        first(first),
        count(ceil_div(rows, kTileRows)),
        base(count ? rows / count : 0),
        extra(count ? rows % count : 0) {}
  Index begin(Index block) const { return first + block * base + std::min(block, extra); }
  int size(Index block) const { return int(base + (block < extra)); }
  int max_size() const { return int(base + (extra > 0)); }
};

/// The part [begin, end) of n items that `thread` of `threads` does.
struct Share {
  Index begin, end;
  Share(Index begin, Index end) : begin(begin), end(end) {}
  Share(Index n, int thread, int threads) : begin(n * thread / threads), end(n * (thread + 1) / threads) {}
};

template <int N>
using Constant = std::integral_constant<int, N>;

/// f(Constant<n>) for the run-time n in 1..Max.
template <int Max, class F>
BPTT_INLINE void dispatch(int n, F&& f) {
  if constexpr (Max == 1)
    f(Constant<1>{});
  else if (n == Max)
    f(Constant<Max>{});
  else
    dispatch<Max - 1>(n, std::forward<F>(f));
}

/// f(Constant<blocks>, first) over [begin, end) in runs of Max blocks, then of Max/2, ..., 1.
template <int Max, class F>
BPTT_INLINE void for_block_runs(Index begin, Index end, F&& f) {
  for (; begin + Max <= end; begin += Max) f(Constant<Max>{}, begin);
  if constexpr (Max > 1) for_block_runs<Max / 2>(begin, end, std::forward<F>(f));
}

/// The same runs from the last to the first.
template <int Max, class F>
BPTT_INLINE void for_block_runs_backward(Index begin, Index end, F&& f) {
  const Index tail = begin + (end - begin) / Max * Max;
  if constexpr (Max > 1) for_block_runs_backward<Max / 2>(tail, end, std::forward<F>(f));
  for (Index i = tail - Max; i >= begin; i -= Max) f(Constant<Max>{}, i);
}

/// Column n of the tile is accumulator Map(n).
struct Identity {
  static constexpr int at(int n) { return n; }
};

// Every loop over an array of accumulators is unrolled by a pragma: indexed by a variable, the array lies in memory,
// and a product of 3 x 4 registers takes twice the time.

/// acc[r][u*A + Map(n)] += sum over k of a[r*lda + k] * w[u*panel + (k*N + n)*W], k ascending, one FMA each.
template <class Map, int N, int A, class T, int R, int UA>
BPTT_INLINE void accumulate(Vec<T> (&acc)[R][UA], const T* a, Index lda, const T* w, Index panel, Index K) {
  constexpr int U = UA / A, W = Vec<T>::kSize;
  // GCC may load a weight anew for each row, as an operand of the FMA: 3 x 4 with AVX-512 on Zen 4 then reaches 0.80 of
  // the peak, not 0.98. Where registers are too few it must (3 x 4 with AVX2: 0.99, not 0.43).
  constexpr bool kHold = R > 1 && R * UA + U * N + 1 <= kRegisters;
  for (Index k = 0; k < K; ++k) {
    Vec<T> weight[U * N];
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        weight[u * N + n] = Vec<T>::load(w + u * panel + n * W);
        if constexpr (kHold) hold(weight[u * N + n]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> value(a[r * lda + k]);
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
          Vec<T>& sum = acc[r][u * A + Map::at(n)];
          sum = fma(value, weight[u * N + n], sum);
        }
      }
    }
    w += N * W;
  }
}

/// The accumulators into memory, from where they are used register by register.
template <class T, int R, int N>
BPTT_INLINE void spill(const Vec<T> (&acc)[R][N], T (&to)[R][N][Vec<T>::kSize]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[r][n].store(to[r][n]);
  }
}

/// acc[r][u] += for each of the S segments of a's row, in order, the sum over its k of a[r*lda + offset[s] + k] *
/// w[u*panel + (s*K + k)*W]. The sums start at zero and run side by side where there are accumulators for them, else
/// one after the other: the result is the same.
template <int S, class T, int R, int U>
BPTT_INLINE void accumulate_segments(Vec<T> (&acc)[R][U], const T* a, Index lda, const Index (&offset)[4], const T* w,
                                     Index panel, Index K) {
  constexpr int W = Vec<T>::kSize, kSide = R * U * S <= kAccumulators ? S : 1;
  for (int s = 0; s < S; s += kSide) {
    Vec<T> sum[R][U][kSide];
#pragma GCC unroll 16
    for (int i = 0; i < R * U * kSide; ++i) sum[i / (U * kSide)][i / kSide % U][i % kSide] = Vec<T>(T(0));
    for (Index k = 0; k < K; ++k) {
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) {
          Vec<T> weight = Vec<T>::load(w + u * panel + ((s + i) * K + k) * W);
          if constexpr (R > 1 && R * U * kSide + 2 <= kRegisters) hold(weight);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            sum[r][u][i] = fma(Vec<T>(a[r * lda + offset[s + i] + k]), weight, sum[r][u][i]);
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) acc[r][u] = acc[r][u] + sum[r][u][i];
      }
    }
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"   // a register type as template argument
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own avx512fintrin.h (GCC bug 105593)
#endif
/// B[j*ldb + i] = A[i*lda + j], i < rows, j < columns; in squares of W x W values that are turned in registers.
template <class T>
void transpose(T* b, Index ldb, const T* a, Index lda, Index rows, Index columns) {
  constexpr Index W = Vec<T>::kSize;
  Eigen::internal::PacketBlock<typename Vec<T>::Packet, W> square;
  for (Index i0 = 0; i0 < rows; i0 += W) {
    const Index m = std::min(W, rows - i0);
    for (Index j0 = 0; j0 < columns; j0 += W) {
      const Index n = std::min(W, columns - j0);
      for (Index i = 0; i < W; ++i) square.packet[i] = Vec<T>::load(a + (i0 + i) * lda + j0, i < m ? n : 0).v;
      Eigen::internal::ptranspose(square);
      for (Index j = 0; j < n; ++j) Vec<T>(square.packet[j]).store(b + (j0 + j) * ldb + i0, m);
    }
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// A matrix as panels: [ceil(columns/W)][depth][W], zero beyond the last column.
template <class T>
struct Panels {
  static constexpr int W = Vec<T>::kSize;
  Index depth = 0, columns = 0;
  Buffer<T> data;

  Panels() = default;
  Panels(Index depth, Index columns)
      : depth(depth), columns(columns), data(checked_mul(checked_mul(blocks(), W), depth)) {}
  Index blocks() const { return ceil_div(columns, W); }
  Index panel() const { return depth * W; }
  T* block(Index j) { return data.data() + j * panel(); }
  const T* block(Index j) const { return data.data() + j * panel(); }

  /// From B[depth,columns] with row stride ldb; some blocks only.
  void pack(const T* b, Index ldb, const Share& share) {
    for (Index j = share.begin; j < share.end; ++j) {
      const Index n = std::min<Index>(W, columns - j * W);
      T* out = block(j);
      for (Index k = 0; k < depth; ++k, out += W) Vec<T>::load(b + k * ldb + j * W, n).store(out);
    }
  }

  /// From the transpose of B[columns,depth] with row stride ldb; some blocks only.
  void pack_transposed(const T* b, Index ldb, const Share& share) {
    for (Index j = share.begin; j < share.end; ++j) {
      const Index n = std::min<Index>(W, columns - j * W);
      if (n < W) std::fill_n(block(j), panel(), T(0));
      transpose(block(j), W, b + j * W * ldb, ldb, n, depth);
    }
  }
  Share all() const { return Share(0, blocks()); }
  /// The way back.
  void unpack_transposed(T* b, Index ldb) const {
    for (Index j = 0; j < columns; ++j) {
      for (Index k = 0; k < depth; ++k) b[j * ldb + k] = block(j / W)[k * W + j % W];
    }
  }
};

/// The k axis of A as `count` runs of `length` values, the s-th at offset[s]: gradients of gates lie so in a tape row.
struct Segments {
  Index length;
  int count = 1;
  Index offset[4] = {};
};

/// C[r,:] = bias + A[r,:] * panels for the rows [begin, end) of `blocks` and some column blocks. A: lda, C: ldc row
/// strides.
template <class T>
void product(T* c, Index ldc, const T* a, Index lda, const Segments& k, const Panels<T>& b, const T* bias,
             const RowBlocks& blocks, Index begin, Index end, const Share& columns) {
  constexpr int W = Vec<T>::kSize;
  for_block_runs<tile_blocks(kTileRows, 1)>(columns.begin, columns.end, [&](auto u_blocks, Index j) {
    constexpr int U = u_blocks;
    for (Index block = begin; block < end; ++block) {
      const Index row = blocks.begin(block);
      dispatch<kTileRows>(blocks.size(block), [&](auto rows) {
        constexpr int R = rows;
        Vec<T> acc[R][U];
#pragma GCC unroll 16
        for (int u = 0; u < U; ++u) {
          const Index column = (j + u) * W;
          const Vec<T> first =
              bias ? Vec<T>::load(bias + column, std::min<Index>(W, b.columns - column)) : Vec<T>(T(0));
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) acc[r][u] = first;
        }
        for (int s = 0; s < k.count; ++s) {
          accumulate<Identity, 1, 1>(acc, a + row * lda + k.offset[s], lda, b.block(j) + s * k.length * W, b.panel(),
                                     k.length);
        }
#pragma GCC unroll 16
        for (int u = 0; u < U; ++u) {
          const Index column = (j + u) * W, n = std::min<Index>(W, b.columns - column);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) acc[r][u].store(c + (row + r) * ldc + column, n);
        }
      });
    }
  });
}

/// The same for all columns.
template <class T>
void product(T* c, Index ldc, const T* a, Index lda, const Segments& k, const Panels<T>& b, const T* bias,
             const RowBlocks& blocks, Index begin, Index end) {
  product(c, ldc, a, lda, k, b, bias, blocks, begin, end, b.all());
}

/// Up to so many columns a product's registers go along k instead.
constexpr int kNarrow = 4;

/// C[r,i] = A[r,:] * B[i,:] for the rows [begin, end) of `blocks` and the `columns` <= kNarrow rows of B
/// [columns,count, length]. The segments have whole registers. Each lane sums its own k; the lanes are added at the
/// end.
template <class T>
void narrow_product(T* c, Index columns, const T* a, Index lda, const Segments& k, const T* b, const RowBlocks& blocks,
                    Index begin, Index end) {
  constexpr int W = Vec<T>::kSize;
  dispatch<kNarrow>(int(columns), [&](auto width) {
    constexpr int C = width;
    for (Index i = begin; i < end; ++i) {
      const Index row = blocks.begin(i);
      dispatch<kTileRows>(blocks.size(i), [&](auto height) {
        constexpr int R = height;
        Vec<T> acc[R][C];
#pragma GCC unroll 24
        for (int n = 0; n < R * C; ++n) acc[n / C][n % C] = Vec<T>(T(0));
        const T* weight = b;
        for (int s = 0; s < k.count; ++s) {
          const T* value = a + row * lda + k.offset[s];
          for (Index j = 0; j < k.length; j += W, weight += W) {
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              const Vec<T> v = Vec<T>::load(value + r * lda + j);
#pragma GCC unroll 4
              for (int n = 0; n < C; ++n) {
                acc[r][n] = fma(v, Vec<T>::load(weight + n * k.count * k.length), acc[r][n]);
              }
            }
          }
        }
#pragma GCC unroll 24
        for (int n = 0; n < R * C; ++n) c[(row + n / C) * C + n % C] = acc[n / C][n % C].sum();
      });
    }
  });
}

/// to[m,n] += sum over rows of P[row,m] * Q[row,n] for m in [begin, end) and the N registers of columns that `q` holds
/// as a panel [rows][N][W]; of the last register `last` columns are the target's.
template <int N, class T>
void outer(const SumTarget<T>& to, Index last, const T* p, Index ldp, const T* q, Index rows, Index begin, Index end) {
  constexpr int W = Vec<T>::kSize, M = outer_rows(N);
  const Index tiles = ceil_div(end - begin, M);
  for (Index tile = 0; tile < tiles; ++tile) {
    const Share share(end - begin, int(tile), int(tiles));  // of nearly equal height
    const Index m = begin + share.begin;
    dispatch<M>(int(share.end - share.begin), [&](auto height) {
      constexpr int R = height;
      Vec<T> acc[R][N];
#pragma GCC unroll 32
      for (int i = 0; i < R * N; ++i) acc[i / N][i % N] = Vec<T>(T(0));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) prefetch(to.sum + (m + r) * to.ld + n * W);
      }
      const T* value = p + m;
      const T* panel = q;
      for (Index row = 0; row < rows; ++row, value += ldp, panel += N * W) {
        accumulate<Identity, N, N>(acc, value, 1, panel, 0, 1);
      }
      if (to.total || last < W) {
        alignas(64) T terms[R][N][W];
        spill(acc, terms);
        to.add_tile(terms[0][0], R, N, m * to.ld, last);
        return;
      }
#pragma GCC unroll 32
      for (int i = 0; i < R * N; ++i) {
        T* sum = to.sum + (m + i / N) * to.ld + i % N * W;
        (to.fresh ? acc[i / N][i % N] : Vec<T>::load(sum) + acc[i / N][i % N]).store(sum);
      }
    });
  }
}

/// The registers [block, block + N) of each row of Q[rows,columns] as a panel [rows][N][W], zero beyond the last
/// column.
template <int N, class T>
void gather(T* panel, const T* q, Index ldq, Index columns, Index rows, Index block) {
  constexpr int W = Vec<T>::kSize;
  const Index last = std::min<Index>(W, columns - (block + N - 1) * W);
  for (const T* row = q + block * W; rows > 0; --rows, row += ldq) {
    for (int n = 0; n < N; ++n, panel += W) Vec<T>::load(row + n * W, n + 1 < N ? W : last).store(panel);
  }
}

/// `columns` values of each row; what lies between them and a wider row of the target becomes zero.
template <class T>
void copy_rows(T* to, Index ld_to, const T* from, Index ld_from, Index rows, Index columns) {
  for (Index r = 0; r < rows; ++r) {
    std::copy_n(from + r * ld_from, columns, to + r * ld_to);
    std::fill(to + r * ld_to + columns, to + (r + 1) * ld_to, T(0));
  }
}

}  // namespace bptt
