// SPDX-License-Identifier: Apache-2.0
// The orthogonal factor Q [m,n] of A = Q R with a positive diagonal of R, for m >= n, in double, by Householder
// reflections in blocks of kBlock columns: each block's product is I - V T V^T (Schreiber & Van Loan 1989).
//
// The bits depend on A alone, not on threads or the instruction set: each element is one chain of sums in fixed order,
// sums of a row or column run in 8 lanes, and products and sums are rounded one by one (no FMA, which v2 lacks).
// 2048 x 2048 takes 1.0 s of one core of an EPYC with AVX2, 1.8 s with SSE alone.
#pragma once

#include <cassert>
#include <cmath>

#include "core/memory/arena.h"
#include "core/simd/vec.h"
#include "core/threads/interrupt.h"
#include "core/threads/pool.h"
#include "core/threads/work.h"

namespace bptt {

class Orthogonal {
 public:
  Orthogonal(Index m, Index n)
      : m_(m),
        n_(n),
        blocks_((n + kBlock - 1) / kBlock),
        panels_((n + kLanes - 1) / kLanes),
        values_(checked_mul(checked_mul(panels_, kLanes), m)),
        v_(checked_mul(checked_mul(blocks_, kBlock), m)),
        t_(blocks_ * kBlock * kBlock),
        column_(checked_mul(kBlock, m)),
        sign_(blocks_ * kBlock) {
    assert(0 <= n && n <= m);
  }

  /// Q from A, both row by row. False when called off.
  bool run(const double* a, double* q, Poll::Interrupted interrupted) {
    bool complete = true;
    // The reflections of a block are one thread's work, the other columns are divided: 0.2 ns for each m n^2.
    const int threads = threads_for(0.2 * double(m_) * double(n_) * double(n_ - std::min(n_, kBlock)));
    Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
      Poll poll(interrupted);
      const bool finished = copy_in(a, thread, barrier) && factorise(thread, barrier, poll) &&
                            multiply(thread, barrier, poll) && copy_out(q, thread, barrier);
      if (thread == 0) complete = finished;
    });
    return complete;
  }

 private:
  static constexpr Index kBlock = 32, kLanes = 8, W = Vec<double>::kSize;
  static constexpr int N = int(kLanes / W);     // registers for the columns of a panel
  static constexpr int R = N == 4 ? 2 : 8 / N;  // rows of a tile: 8 accumulators keep both adders busy
  static_assert(kLanes % W == 0 && kBlock % R == 0 && kBlock % kLanes == 0, "whole tiles and panels");

  double* panel(Index j) { return values_.data() + j * m_ * kLanes; }     // columns [8j, 8j+8), row by row
  double* v(Index block) { return v_.data() + block * kBlock * m_; }      // rows [32 block, m), row by row
  double* t(Index block) { return t_.data() + block * kBlock * kBlock; }  // upper triangular

  bool copy_in(const double* a, int thread, Barrier& barrier) {
    for (Index j = thread; j < panels_; j += barrier.size()) {
      for (Index i = 0; i < m_; ++i) {
        for (Index c = 0; c < kLanes; ++c) {
          const Index column = j * kLanes + c;
          panel(j)[i * kLanes + c] = column < n_ ? a[i * n_ + column] : 0;
        }
      }
    }
    return barrier.wait(thread);
  }

  /// A to R, whose diagonal leaves only signs, and the reflections in V and T.
  bool factorise(int thread, Barrier& barrier, Poll& poll) {
    for (Index block = 0; block < blocks_; ++block) {
      if (thread == 0) {
        reflect(block);
        if (poll()) barrier.cancel();
      }
      if (!barrier.wait(thread)) return false;
      const Index first = (block + 1) * (kBlock / kLanes);
      for (Index j = first + thread; j < panels_; j += barrier.size()) apply<true>(block, panel(j));
      if (!barrier.wait(thread)) return false;
    }
    return true;
  }

  /// The first n columns of the product of all reflections, in the place of R.
  bool multiply(int thread, Barrier& barrier, Poll& poll) {
    for (Index j = thread; j < panels_; j += barrier.size()) {
      std::fill_n(panel(j), m_ * kLanes, 0.0);
      for (Index c = 0; c < kLanes && j * kLanes + c < n_; ++c) panel(j)[(j * kLanes + c) * kLanes + c] = 1;
    }
    for (Index block = blocks_ - 1; block >= 0; --block) {
      const Index first = block * (kBlock / kLanes);  // the columns before are not changed by it
      const Index skip = (thread - first % barrier.size() + barrier.size()) % barrier.size();
      for (Index j = first + skip; j < panels_; j += barrier.size()) apply<false>(block, panel(j));
      if (thread == 0 && poll()) barrier.cancel();
      if (barrier.cancelled()) return false;
    }
    return barrier.wait(thread);
  }

  bool copy_out(double* q, int thread, Barrier& barrier) {
    for (Index i = thread; i < m_; i += barrier.size()) {
      for (Index column = 0; column < n_; ++column)
        q[i * n_ + column] = sign_[column] * panel(column / kLanes)[i * kLanes + column % kLanes];
    }
    return true;
  }

  /// The reflections of a block: V below its unit diagonal, T, and the signs of R's diagonal.
  void reflect(Index block) {
    const Index begin = block * kBlock, rows = m_ - begin, count = std::min(kBlock, n_ - begin);
    double* const vs = v(block);
    double* const ts = t(block);
    std::fill_n(vs, rows * kBlock, 0.0);
    std::fill_n(ts, kBlock * kBlock, 0.0);
    const auto column = [&](Index c) { return column_.data() + c * m_; };
    for (Index c = 0; c < count; ++c) {
      const double* from = panel((begin + c) / kLanes) + begin * kLanes + c % kLanes;
      for (Index i = 0; i < rows; ++i) column(c)[i] = from[i * kLanes];
    }
    for (Index c = 0; c < count; ++c) {
      double* const x = column(c) + c;
      const Index length = rows - c;
      const double tau = reflection(x, length, sign_[begin + c]);
      for (Index other = c + 1; other < count; ++other) {
        double* const y = column(other) + c;
        const double scale = tau * dot(x, y, length);
        for (Index i = 0; i < length; ++i) y[i] -= scale * x[i];
      }
      // T's column: -tau T (V^T v) above the diagonal, tau on it
      double product[kBlock];
      for (Index p = 0; p < c; ++p) product[p] = dot(column(p) + c, x, length);
      for (Index p = 0; p < c; ++p) {
        double sum = 0;
        for (Index k = p; k < c; ++k) sum += ts[p * kBlock + k] * product[k];
        ts[p * kBlock + c] = -tau * sum;
      }
      ts[c * kBlock + c] = tau;
    }
    for (Index c = 0; c < count; ++c) {
      for (Index i = c; i < rows; ++i) vs[i * kBlock + c] = column(c)[i];
    }
  }

  /// x to v, with v[0] = 1, so that (1 - tau v v^T) x = (beta, 0, ...); returns tau. `sign` is that of beta.
  static double reflection(double* x, Index n, double& sign) {
    const double alpha = x[0], rest = dot(x + 1, x + 1, n - 1);
    const double beta = rest == 0 ? alpha : -std::copysign(std::sqrt(alpha * alpha + rest), alpha);
    sign = beta < 0 ? -1 : 1;
    x[0] = 1;
    if (rest == 0) return 0;
    for (Index i = 1; i < n; ++i) x[i] /= alpha - beta;
    return (beta - alpha) / beta;
  }

  /// In 8 lanes, whatever the register.
  static double dot(const double* a, const double* b, Index n) {
    Vec<double> sum[N];
    for (int u = 0; u < N; ++u) sum[u] = Vec<double>(0.0);
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int u = 0; u < N; ++u) sum[u] = sum[u] + Vec<double>::load(a + i + u * W) * Vec<double>::load(b + i + u * W);
    }
    double lane[kLanes];
    for (int u = 0; u < N; ++u) sum[u].store(lane + u * W);
    for (Index l = 0; i < n; ++i, ++l) lane[l] += a[i] * b[i];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  }

  /// A panel's rows from the block's on: x -= V T V^T x, or with T^T.
  template <bool Transposed>
  void apply(Index block, double* x) {
    const Index begin = block * kBlock, rows = m_ - begin;
    const double* const vs = v(block);
    const double* const ts = t(block);
    double first[kBlock * kLanes], second[kBlock * kLanes] = {};
    x += begin * kLanes;
    for (Index p = 0; p < kBlock; p += R) project(first + p * kLanes, vs + p, x, rows);
    for (Index p = 0; p < kBlock; ++p) {
      for (Index k = Transposed ? 0 : p; k < (Transposed ? p + 1 : kBlock); ++k) {
        const double scale = Transposed ? ts[k * kBlock + p] : ts[p * kBlock + k];
        for (Index c = 0; c < kLanes; ++c) second[p * kLanes + c] += scale * first[k * kLanes + c];
      }
    }
    Index i = 0;
    for (; i + R <= rows; i += R) subtract<R>(x + i * kLanes, vs + i * kBlock, second);
    for (; i < rows; ++i) subtract<1>(x + i * kLanes, vs + i * kBlock, second);
  }

  /// R rows of V^T x.
  static BPTT_NOINLINE void project(double* out, const double* vs, const double* x, Index rows) {
    Vec<double> sum[R][N];
    for (int i = 0; i < R * N; ++i) sum[i / N][i % N] = Vec<double>(0.0);
    for (Index i = 0; i < rows; ++i, vs += kBlock, x += kLanes) {
      Vec<double> value[N];
      for (int u = 0; u < N; ++u) value[u] = Vec<double>::load(x + u * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int u = 0; u < N; ++u) sum[r][u] = sum[r][u] + Vec<double>(vs[r]) * value[u];
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int u = 0; u < N; ++u) sum[r][u].store(out + r * kLanes + u * W);
    }
  }

  /// Rows of x -= V y.
  template <int Rows>
  static BPTT_NOINLINE void subtract(double* x, const double* vs, const double* y) {
    Vec<double> sum[Rows][N];
    for (int i = 0; i < Rows * N; ++i) sum[i / N][i % N] = Vec<double>(0.0);
    for (Index p = 0; p < kBlock; ++p, y += kLanes) {
      Vec<double> value[N];
      for (int u = 0; u < N; ++u) value[u] = Vec<double>::load(y + u * W);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int u = 0; u < N; ++u) sum[r][u] = sum[r][u] + Vec<double>(vs[r * kBlock + p]) * value[u];
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int u = 0; u < N; ++u) {
        double* const to = x + r * kLanes + u * W;
        (Vec<double>::load(to) - sum[r][u]).store(to);
      }
    }
  }

  Index m_, n_, blocks_, panels_;
  Buffer<double> values_, v_, t_, column_, sign_;
};

}  // namespace bptt
