// SPDX-License-Identifier: Apache-2.0
// Long sums over rows (the time steps and sequences of a batch) whose error stays bounded. Terms of 128 rows are added
// in registers, up to 64 such partial sums in `sum`, and those in `total`: the error of n terms is at most about
// 128 + 64 + n / 8192 roundings instead of n. The order depends on the rows alone, never on threads.
#pragma once

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

#include "core/memory/arena.h"
#include "core/simd/vec.h"

namespace bptt {

constexpr Index kSumRows = 128;   // at most, in registers
constexpr Index kLongSum = 8192;  // rows in `sum`; shorter sums have no total

/// Where the rows of one call go.
template <class T>
struct SumTarget {
  T* sum;
  Index ld;            // between its rows
  bool fresh;          // `sum` is taken as zero and not read
  T* total = nullptr;  // laid out as `sum`; not null: it gets the sum, which is not stored

  SumTarget at(Index offset) const { return {sum + offset, ld, fresh, total ? total + offset : nullptr}; }

  /// The first n lanes of a register at `offset`.
  BPTT_INLINE void add(Vec<T> terms, Index offset, Index n) const {
    if (!fresh) terms = Vec<T>::load(sum + offset, n) + terms;
    if (!total)
      terms.store(sum + offset, n);
    else
      (Vec<T>::load(total + offset, n) + terms).store(total + offset, n);
  }

  /// A tile of R rows of N registers at `offset`, of the last register `last` lanes; the same code for tiles of all
  /// sizes.
  BPTT_NOINLINE void add_tile(const T* tile, int R, int N, Index offset, Index last) const {
    constexpr int W = Vec<T>::kSize;
    for (int r = 0; r < R; ++r, offset += ld) {
      for (int n = 0; n + 1 < N; ++n, tile += W) add(Vec<T>::load(tile), offset + n * W, W);
      add(Vec<T>::load(tile), offset + (N - 1) * W, last);
      tile += W;
    }
  }
};

/// out[j] = sum over rows of a[row*ld + j], j in [begin, end).
template <class T>
void column_sums(T* out, const T* a, Index ld, Index rows, Index begin, Index end) {
  constexpr Index W = Vec<T>::kSize, N = 64 / (W * Index(sizeof(T))), kWidth = N * W;  // a cache line of columns
  for (Index j = begin; j < end; j += kWidth) {
    const Index n = std::min(kWidth, end - j);
    double total[kWidth] = {};
    for (Index first = 0; first < rows; first += kSumRows) {
      T part[kWidth] = {};
      const Index last = std::min(rows, first + kSumRows);
      if (n == kWidth) {
        Vec<T> sum[N];
        for (auto& each : sum) each = Vec<T>(T(0));
        for (Index row = first; row < last; ++row) {
          for (Index u = 0; u < N; ++u) sum[u] = sum[u] + Vec<T>::load(a + row * ld + j + u * W);
        }
        for (Index u = 0; u < N; ++u) sum[u].store(part + u * W);
      } else {
        for (Index row = first; row < last; ++row) {
          for (Index i = 0; i < n; ++i) part[i] += a[row * ld + j + i];
        }
      }
      for (Index i = 0; i < n; ++i) total[i] += double(part[i]);
    }
    for (Index i = 0; i < n; ++i) out[j + i] = T(total[i]);
  }
}

/// Sums over time for each row of a batch, [rows,width]: steps add to `recent`, which goes to `total` every kSumRows
/// steps where there are more.
template <class T>
class SumsByRow {
 public:
  SumsByRow() = default;
  SumsByRow(Index rows, Index width, Index steps) : width_(width), recent_(Buffer<T>::zeros(checked_mul(rows, width))) {
    if (steps > kSumRows) total_ = Buffer<double>::zeros(recent_.size());
  }

  /// Null where there are no sums.
  T* recent() { return recent_.data(); }

  /// After step t: the columns [begin, end) of the rows [first, last).
  void step_done(Index t, Index first, Index last, Index begin, Index end) {
    assert(begin >= 0 && (end <= width_ || width_ == 0));
    if (t % kSumRows != 0 || total_.size() == 0) return;
    for (Index row = first; row < last; ++row) {
      for (Index i = row * width_ + begin; i < row * width_ + end; ++i) {
        total_[i] += double(recent_[i]);
        recent_[i] = T(0);
      }
    }
  }

  /// out[j] = the sum over all rows of column `first` + j.
  void over_rows(T* out, Index first, Index n) const {
    std::vector<double> sums(std::size_t(n), 0.0);
    for (Index at = first; at < recent_.size(); at += width_) {
      for (Index j = 0; j < n; ++j)
        sums[std::size_t(j)] += double(recent_[at + j]) + (total_.size() > 0 ? total_[at + j] : 0.0);
    }
    for (Index j = 0; j < n; ++j) out[j] = T(sums[std::size_t(j)]);
  }

 private:
  Index width_ = 0;
  Buffer<T> recent_;
  Buffer<double> total_;
};

}  // namespace bptt
