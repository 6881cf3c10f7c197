// SPDX-License-Identifier: Apache-2.0
// Backpropagation through time. Going back one step needs, for rows b and hidden units k,
//   dh_t = dy_t + (the cell's direct share) + dG_{t+1} Wh,   dG_t = the cell's backward at dh_t
// which is the only part that is serial in time. The other products follow in chunks of time, while dG is in the cache:
//   dx_t = dG_t Wx,   dWx = sum over t, b of dG^T x,   dWh = sum of dG^T h_{t-1},   db = sum of dG.
// Sums over time and batch run in one order whatever the number of threads: threads divide the elements of dW, never
// the sum of one.
#pragma once

#include "core/math.h"
#include "core/threads.h"
#include "sequence/forward.h"
#include "sequence/weight_gradient.h"

namespace bptt::sequence {

/// A gate's gradient as a run of the k axis of dG: gate g lies at accumulator Map(g) of the row.
template <class Map, class Cell, class T>
Segments gate_segments(const Weights<Cell, T>& w) {
  Segments s{w.H, Cell::G, {}};
  for (int g = 0; g < Cell::G; ++g) s.offset[g] = Map::at(g) * w.Hp;
  return s;
}

/// Up to this H the product of a step sums each gate by itself: with few rows and few units a single chain of G H FMAs
/// is what a step waits for (LSTM B=1 H=32: 128 of 4 cycles each, where 256 cycles of work are to be done). It depends
/// on H alone, since the order of a sum must not depend on the batch.
constexpr Index kShort = 64;

template <class Cell, class T>
struct BackwardStep {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr int kTailWidth = 0;  // no packed last block

  const Weights<Cell, T>& w;
  const RowBlocks& rows;
  const T* dy;   // [B,H]
  const T* dg1;  // gradients of the next step's pre-activations [B,kRowValues,Hp]; null at the last step
  T* gates;      // kept values in, gradients of the pre-activations out [B,kRowValues,Hp]
  const T* h0;   // [B,H]
  const T* h1;
  const T* c0;  // [B,Hp]
  const T* c1;
  T* dstates;   // gradients of the states without the share through Wh, in and out [S,B,Hp]
  T* dvectors;  // sums by row block [row blocks,P,Hp]
  Index batch;

  template <int R, int U>
  BPTT_NOINLINE void tile(Index row_block, Index block) const {
    const Index row = rows.begin(row_block);
    Vec<T> acc[R][U];
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
      const Index unit = (block + u) * W, n = std::min<Index>(W, w.H - unit);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][u] = Vec<T>::load(dy + (row + r) * w.H + unit, n) + Vec<T>::load(dstates + (row + r) * w.Hp + unit);
      }
    }
    if (dg1) {
      const Segments gates = gate_segments<HiddenMap<Cell>>(w);
      const T* panel = w.h_back.block(block);
      const T* dg = dg1 + row * kRowValues<Cell> * w.Hp;
      if (G > 1 && w.H <= kShort) {
        accumulate_segments<G>(acc, dg, kRowValues<Cell> * w.Hp, gates.offset, panel, w.h_back.panel(), w.H);
      } else {
        for (int g = 0; g < G; ++g) {
          accumulate<Identity, 1, 1>(acc, dg + gates.offset[g], kRowValues<Cell> * w.Hp, panel + g * w.H * W,
                                     w.h_back.panel(), w.H);
        }
      }
    }
    alignas(64) T dh[R][U][W];
    spill(acc, dh);
#pragma GCC unroll 1
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 1
      for (int u = 0; u < U; ++u) cell(dh[r][u], row + r, block + u, row_block);
    }
  }

 private:
  BPTT_INLINE void cell(const T* dh, Index row, Index block, Index row_block) const {
    const Index unit = block * W, n = std::min<Index>(W, w.H - unit), at = row * w.Hp + unit;
    T* gate = gates + row * kRowValues<Cell> * w.Hp + unit;
    Vec<T> k[K + 1], p[P + 1], s0[S], s1[S], ds1[S], da[A], dp[P + 1], ds0[S];
    for (int i = 0; i < K; ++i) k[i] = Vec<T>::load(gate + i * w.Hp);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    s0[0] = Vec<T>::load(h0 + row * w.H + unit, n);
    s1[0] = Vec<T>::load(h1 + row * w.H + unit, n);
    ds1[0] = Vec<T>::load(dh);
    if constexpr (S > 1) {
      s0[1] = Vec<T>::load(c0 + at);
      s1[1] = Vec<T>::load(c1 + at);
      ds1[1] = Vec<T>::load(dstates + batch * w.Hp + at);
    }
    Cell::backward(k, p, s0, s1, ds1, da, dp, ds0);
    for (int i = 0; i < A; ++i) da[i].store(gate + i * w.Hp);
    for (int i = 0; i < S; ++i) ds0[i].store(dstates + i * batch * w.Hp + at);
    for (int i = 0; i < P; ++i) {
      T* sum = dvectors + (row_block * P + i) * w.Hp + unit;
      (Vec<T>::load(sum) + dp[i]).store(sum);
    }
  }
};

template <class Cell, class T>
class Backward {
  static constexpr int S = Cell::S, P = Cell::P;

 public:
  Backward(const Weights<Cell, T>& w, Tape<T>& tape, const BackwardCall<T>& call, const Plan& plan)
      : w_(w),
        tape_(tape),
        call_(call),
        B_(tape.call.batch),
        plan_(plan),
        rows_(B_),
        dstates_(checked_mul(S * B_, w.Hp)),
        dvectors_(checked_mul(rows_.count * P, w.Hp)),
        first_(std::min(plan.chunk, tape.call.steps) * B_ * w.H),
        dweights_(w, call, plan.threads) {
    for (int i = 0; i < S; ++i) copy_rows(dstates_.data() + i * B_ * w.Hp, w.Hp, call.dfinal[i], w.H, B_, w.H);
    dvectors_.clear();
    const Index before = std::min(first_.size(), B_ * w.H);
    std::copy_n(tape.call.initial[0], before, first_.data());
    std::copy_n(tape.call.y, first_.size() - before, first_.data() + before);
  }

  /// False when it was called off; the gradients are then incomplete.
  bool run(Poll::Interrupted interrupted) {
    bool complete = true;
    if (B_ == 0 || tape_.call.steps == 0) {
      dweights_.set_zero();
    } else {
      Pool::instance().run(plan_.threads, [&](int thread, Barrier& barrier) {
        const bool finished = loop(thread, barrier, interrupted);
        if (thread == 0) complete = finished;
      });
    }
    if (complete) finish();
    return complete;
  }

 private:
  static constexpr Index kRow = kRowValues<Cell>;

  T* gates(Index t) { return tape_.gates.data() + t * B_ * kRow * w_.Hp; }
  const T* h(Index t) const { return t == 0 ? tape_.call.initial[0] : tape_.call.y + (t - 1) * B_ * w_.H; }
  const T* state(Index t) const { return S > 1 ? tape_.states.data() + t * B_ * w_.Hp : nullptr; }

  bool loop(int thread, Barrier& barrier, Poll::Interrupted interrupted) {
    const Index T_ = tape_.call.steps;
    const Part part(plan_, rows_.count, w_.blocks, thread, barrier.size());
    Poll poll(interrupted, plan_.step_time_s);
    for (Index end = T_; end > 0; end = std::max<Index>(0, end - plan_.chunk)) {
      const Index begin = std::max<Index>(0, end - plan_.chunk);
      for (Index t = end - 1; t >= begin; --t) {
        const BackwardStep<Cell, T> step{w_,
                                         rows_,
                                         call_.dy + t * B_ * w_.H,
                                         t + 1 < T_ ? gates(t + 1) : nullptr,
                                         gates(t),
                                         h(t),
                                         h(t + 1),
                                         state(t),
                                         state(t + 1),
                                         dstates_.data(),
                                         dvectors_.data(),
                                         B_};
        run_step<1>(step, part, t);
        if (thread == 0 && poll()) barrier.cancel();
        if (plan_.split == Split::kHidden ? !barrier.wait() : barrier.cancelled()) return false;
      }
      if (plan_.split == Split::kBatch && !barrier.wait()) return false;
      products(begin, end, thread, barrier.size());
    }
    return true;
  }

  /// dx of the chunk, and its share of the weight gradients.
  void products(Index begin, Index end, int thread, int threads) {
    const Index rows = (end - begin) * B_;
    const RowBlocks blocks(rows);
    const Share share(blocks.count, thread, threads);
    T* dx = call_.dx + begin * B_ * w_.I;
    Segments k = gate_segments<InputMap<Cell>>(w_);
    if (w_.I > kNarrow) {
      product(dx, w_.I, gates(begin), kRow * w_.Hp, k, w_.x_back, static_cast<const T*>(nullptr), blocks, share.begin,
              share.end);
    } else {
      k.length = w_.Hp;
      narrow_product(dx, w_.I, gates(begin), kRow * w_.Hp, k, w_.x_narrow.data(), blocks, share.begin, share.end);
    }
    dweights_.add(gates(begin), tape_.call.x + begin * B_ * w_.I, begin == 0 ? first_.data() : h(begin), rows,
                  end == tape_.call.steps, thread, threads);
  }

  void finish() {
    const Index T_ = tape_.call.steps;
    const RowBlocks blocks(B_);
    if (B_ > 0) {
      if (T_ > 0) {
        product(call_.dinitial[0], w_.H, gates(0), kRow * w_.Hp, gate_segments<HiddenMap<Cell>>(w_), w_.h_back,
                static_cast<const T*>(nullptr), blocks, 0, blocks.count);
      } else {
        std::fill_n(call_.dinitial[0], B_ * w_.H, T(0));
      }
      for (Index b = 0; b < B_; ++b) {
        for (Index j = 0; j < w_.H; ++j) call_.dinitial[0][b * w_.H + j] += dstates_[b * w_.Hp + j];
      }
      for (int i = 1; i < S; ++i) copy_rows(call_.dinitial[i], w_.H, dstates_.data() + i * B_ * w_.Hp, w_.Hp, B_, w_.H);
    }
    dweights_.write();
    if (!call_.dvectors) return;
    std::fill_n(call_.dvectors, P * w_.H, T(0));
    for (Index block = 0; block < rows_.count; ++block) {
      for (int i = 0; i < P; ++i) {
        for (Index j = 0; j < w_.H; ++j) call_.dvectors[i * w_.H + j] += dvectors_[(block * P + i) * w_.Hp + j];
      }
    }
  }

  const Weights<Cell, T>& w_;
  Tape<T>& tape_;
  const BackwardCall<T>& call_;
  Index B_;
  Plan plan_;
  RowBlocks rows_;
  Buffer<T> dstates_, dvectors_;
  Buffer<T> first_;  // the hidden states before the steps of the first chunk, in one piece
  WeightGradient<Cell, T> dweights_;
};

}  // namespace bptt::sequence
