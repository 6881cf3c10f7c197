// SPDX-License-Identifier: Apache-2.0
// The forward loop over time. A step computes, for rows b and hidden units j, the pre-activations
//   a = bias + Wx x_t + Wh h_{t-1}
// in registers and lets the cell turn them into the new states; nothing between the product and the state touches
// memory but a tile's worth of the first-level cache.
#pragma once

#include "core/math.h"
#include "core/threads.h"
#include "sequence/plan.h"
#include "sequence/tape.h"
#include "sequence/weights.h"

namespace bptt::sequence {

/// Maps gate g to its accumulator, for the two products.
template <class Cell>
struct InputMap {
  static constexpr int at(int g) { return Cell::x_acc(g); }
};
template <class Cell>
struct HiddenMap {
  static constexpr int at(int g) { return Cell::h_acc(g); }
};

/// Values per row and unit in a tape's gates.
template <class Cell>
constexpr int kRowValues = Cell::K > Cell::A ? Cell::K : Cell::A;

template <class Cell, class T>
struct ForwardStep {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, S = Cell::S, K = Cell::K, P = Cell::P;
  static constexpr int kTailWidth = G - 1;  // most registers of a packed last block

  const Weights<Cell, T>& w;
  const RowBlocks& rows;
  const T* x;   // [B,I]; null: the input product stands in gates
  const T* h0;  // [B,H]
  T* h1;        // [B,H]
  const T* c0;  // the other state [B,Hp]; may be c1 itself
  T* c1;
  T* gates;   // [B,kRowValues,Hp] or null
  bool keep;  // store the cell's kept values there

  /// The R rows of a row block, U blocks of units from `block`.
  template <int R, int U>
  BPTT_NOINLINE void tile(Index row_block, Index block) const {
    const Index row = rows.begin(row_block);
    Vec<T> acc[R][U * A];
    start(acc, row, block);
    if (x) {
      accumulate<InputMap<Cell>, G, A>(acc, x + row * w.I, w.I, w.x.data() + block * w.I * G * W, w.I * G * W, w.I);
    }
    accumulate<HiddenMap<Cell>, G, A>(acc, h0 + row * w.H, w.H, w.h.data() + block * w.H * G * W, w.H * G * W, w.H);

    alignas(64) T a[R][U * A][W];
    spill(acc, a);
#pragma GCC unroll 1
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 1
      for (int u = 0; u < U; ++u) cell(a[r][u * A], W, W, row + r, block + u);
    }
  }

  /// The R rows of a row block, the packed last block of units, in N registers.
  template <int R, int N>
  BPTT_NOINLINE void tail(Index row_block) const {
    const Index row = rows.begin(row_block), block = w.blocks - 1;
    const Index units = std::min<Index>(w.tail, W - 1);  // w.tail it is; the bound is for the compiler to see
    Vec<T> acc[R][N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vec<T> bias = Vec<T>::load(w.bias.data() + (block * A + n) * W);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r][n] = x ? bias : Vec<T>::load(gate(row + r, n) + block * W);
    }
    if (x) accumulate<Identity, N, N>(acc, x + row * w.I, w.I, w.x.data() + block * w.I * G * W, 0, w.I);
    accumulate<Identity, N, N>(acc, h0 + row * w.H, w.H, w.h.data() + block * w.H * G * W, 0, w.H);
    alignas(64) T a[R][N][W];
    spill(acc, a);
#pragma GCC unroll 1
    for (int r = 0; r < R; ++r) cell(a[r][0], units, units, row + r, block);
  }

 private:
  T* gate(Index row, int i) const { return gates + (row * kRowValues<Cell> + i) * w.Hp; }

  template <int R, int UA>
  BPTT_INLINE void start(Vec<T> (&acc)[R][UA], Index row, Index block) const {
#pragma GCC unroll 16
    for (int n = 0; n < UA; ++n) {
      const Vec<T> bias = Vec<T>::load(w.bias.data() + (block * A + n) * W);
      const Index unit = (block + n / A) * W;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][n] = x ? bias : Vec<T>::load(gate(row + r, n % A) + unit);
      }
    }
  }

  /// The pre-activations of a row and a block: `lanes` of each, `stride` apart.
  BPTT_INLINE void cell(const T* a, Index stride, Index lanes, Index row, Index block) const {
    const Index unit = block * W, n = std::min<Index>(W, w.H - unit);
    Vec<T> av[A], p[P + 1], s0[S], s1[S], k[K + 1];
    for (int i = 0; i < A; ++i) av[i] = Vec<T>::load(a + i * stride, lanes);
    for (int i = 0; i < P; ++i) p[i] = Vec<T>::load(w.vectors.data() + i * w.Hp + unit);
    s0[0] = Vec<T>::load(h0 + row * w.H + unit, n);
    if constexpr (S > 1) s0[1] = Vec<T>::load(c0 + row * w.Hp + unit);
    Cell::forward(av, p, s0, s1, k);
    s1[0].store(h1 + row * w.H + unit, n);
    if constexpr (S > 1) s1[1].store(c1 + row * w.Hp + unit);
    if (keep) {
      for (int i = 0; i < K; ++i) k[i].store(gate(row, i) + unit);
    }
  }
};

/// The input products of `rows` rows for some blocks of units: a = bias + Wx x, into gates.
template <class Cell, class T>
void input_products(const Weights<Cell, T>& w, const T* x, T* gates, Index rows, const Share& blocks) {
  constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A;
  const RowBlocks row_blocks(rows);
  // N registers of weights for each k into N accumulators, which Map orders.
  const auto block = [&](auto map, auto width, auto accumulators, Index j) {
    constexpr int N = width, NA = accumulators;
    for (Index i = 0; i < row_blocks.count; ++i) {
      const Index row = row_blocks.begin(i);
      dispatch<kTileRows>(row_blocks.size(i), [&](auto height) {
        constexpr int R = height;
        Vec<T> acc[R][NA];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
          for (int n = 0; n < NA; ++n) acc[r][n] = Vec<T>::load(w.bias.data() + (j * A + n) * W);
        }
        accumulate<decltype(map), N, NA>(acc, x + row * w.I, w.I, w.x.data() + j * w.I * G * W, 0, w.I);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
          for (int n = 0; n < NA; ++n) acc[r][n].store(gates + ((row + r) * kRowValues<Cell> + n) * w.Hp + j * W);
        }
      });
    }
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

/// f(Constant<rows>, row block) over a thread's row blocks, whose sizes are MaxRows and one less.
template <int MaxRows, class F>
BPTT_INLINE void for_row_blocks(const RowBlocks& rows, const Share& share, F&& f) {
  for (Index i = share.begin; i < share.end; ++i) {
    if (rows.size(i) == MaxRows)
      f(Constant<MaxRows>{}, i);
    else if constexpr (MaxRows > 1)
      f(Constant<MaxRows - 1>{}, i);
  }
}

/// step.tile over a thread's part: blocks of units outside, so that a panel of weights stays in the nearest cache while
/// the rows pass by. Even and odd steps walk the blocks in opposite directions and find what the last step left in the
/// cache (LSTM B=1 T=100 I=H=512, hidden weights twice the second-level cache: inference 19.1 -> 14.2 ms).
template <int PerBlock, class Step>
void run_step(const Step& step, const Part& part, Index t) {
  dispatch<kTileRows>(step.rows.max_size(), [&](auto most) {
    constexpr int kMaxRows = most, kMaxBlocks = tile_blocks(kMaxRows, PerBlock);
    const auto tiles = [&](auto width, Index block) {
      for_row_blocks<kMaxRows>(step.rows, part.rows,
                               [&](auto height, Index i) { step.template tile<height, width>(i, block); });
    };
    Index end = part.blocks.end;
    bool tail = false;
    if constexpr (Step::kTailWidth > 0) {
      tail = step.w.tail > 0 && part.blocks.begin < end && end == step.w.blocks;
      end -= Index(tail);
    }
    if (t % 2 == 0) for_block_runs<kMaxBlocks>(part.blocks.begin, end, tiles);
    if constexpr (Step::kTailWidth > 0) {
      if (tail) {
        dispatch<Step::kTailWidth>(int(step.w.tail_width), [&](auto width) {
          for_row_blocks<kMaxRows>(step.rows, part.rows,
                                   [&](auto height, Index i) { step.template tail<height, width>(i); });
        });
      }
    }
    if (t % 2 != 0) for_block_runs_backward<kMaxBlocks>(part.blocks.begin, end, tiles);
  });
}

template <class Cell, class T>
class Forward {
 public:
  Forward(const Weights<Cell, T>& w, const ForwardCall<T>& call, Tape<T>* tape, const Plan& plan)
      : w_(w), call_(call), tape_(tape), plan_(plan), rows_(call.batch) {
    const Index B = call.batch;
    if (!tape && plan_.hoisted) scratch_ = Buffer<T>(checked_mul(plan_.chunk * B, kRowValues<Cell> * w.Hp));
    if (!tape && Cell::S > 1) states_ = Buffer<T>(checked_mul(B, w.Hp));
  }

  /// False when it was called off; y and the final states are then incomplete.
  bool run(Poll::Interrupted interrupted) {
    copy_states_in();
    bool complete = true;
    if (call_.batch > 0) {
      Pool::instance().run(plan_.threads, [&](int thread, Barrier& barrier) {
        const bool finished = loop(thread, barrier, interrupted);
        if (thread == 0) complete = finished;
      });
    }
    if (complete) copy_states_out();
    return complete;
  }

 private:
  bool loop(int thread, Barrier& barrier, Poll::Interrupted interrupted) const {
    const Index B = call_.batch, row = kRowValues<Cell> * w_.Hp;
    const Part part(plan_, rows_.count, w_.blocks, thread, barrier.size());
    Poll poll(interrupted, plan_.step_time_s);
    for (Index begin = 0; begin < call_.steps; begin += plan_.chunk) {
      const Index end = std::min(call_.steps, begin + plan_.chunk);
      T* gates = tape_ ? tape_->gates.data() + begin * B * row : scratch_.data();
      if (plan_.hoisted) input_products(w_, call_.x + begin * B * w_.I, gates, (end - begin) * B, part.blocks);
      for (Index t = begin; t < end; ++t) {
        run_step<Cell::A>(step(t, gates ? gates + (t - begin) * B * row : nullptr), part, t);
        if (thread == 0 && poll()) barrier.cancel();
        if (plan_.split == Split::kHidden ? !barrier.wait() : barrier.cancelled()) return false;
      }
    }
    return true;
  }

  ForwardStep<Cell, T> step(Index t, T* gates) const {
    const Index B = call_.batch;
    const T* x = plan_.hoisted ? nullptr : call_.x + t * B * w_.I;
    const T* h0 = t == 0 ? call_.initial[0] : call_.y + (t - 1) * B * w_.H;
    return {w_, rows_, x, h0, call_.y + t * B * w_.H, state(t), state(t + 1), gates, tape_ != nullptr};
  }

  /// The second state before step t, [B,Hp]: all of them on the tape, a single one without it.
  T* state(Index t) const {
    if constexpr (Cell::S == 1)
      return nullptr;
    else
      return tape_ ? tape_->states.data() + t * call_.batch * w_.Hp : states_.data();
  }

  void copy_states_in() const {
    if constexpr (Cell::S > 1) copy_rows(state(0), w_.Hp, call_.initial[1], w_.H, call_.batch, w_.H);
  }

  void copy_states_out() const {
    const Index B = call_.batch;
    const T* h = call_.steps == 0 ? call_.initial[0] : call_.y + (call_.steps - 1) * B * w_.H;
    std::copy_n(h, B * w_.H, call_.final[0]);
    if constexpr (Cell::S > 1) copy_rows(call_.final[1], w_.H, state(call_.steps), w_.Hp, B, w_.H);
  }

  const Weights<Cell, T>& w_;
  const ForwardCall<T>& call_;
  Tape<T>* tape_;
  Plan plan_;
  RowBlocks rows_;
  mutable Buffer<T> scratch_, states_;
};

}  // namespace bptt::sequence
