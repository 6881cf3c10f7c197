// SPDX-License-Identifier: Apache-2.0
// The forward loop over time: where each step reads and writes its states, with and without a tape.
#pragma once

#include <vector>

#include "core/gemm/blocks.h"
#include "core/memory/rows.h"
#include "core/threads/interrupt.h"
#include "core/threads/pool.h"
#include "sequence/planner.h"
#include "sequence/recurrence.h"
#include "sequence/short_call.h"
#include "sequence/step.h"

namespace bptt::sequence {

template <class T>
class Forward final : public ResumableCall {
 public:
  Forward(const CellKernels<T>& kernels, std::shared_ptr<const Weights<T>> w, const ForwardCall<T>& call, Tape<T>* tape,
          const Plan& plan, Poll::Interrupted interrupted, const FreshWeights<T>* fresh = nullptr)
      : kernels_(kernels),
        owner_(std::move(w)),
        w_(*owner_),
        call_(call),
        tape_(tape),
        plan_(plan),
        poll_(interrupted, call.stop),
        fresh_(fresh) {
    std::copy_n(call.final, S, final_);
  }

  /// False when it was called off; y and the final states are then incomplete.
  bool run() {
    begin();
    if (DryRun::on()) return true;
    if (!tape_ || !tape_->segmented()) {
      if (!steps(0, call_.batch_sizes.steps)) return false;
    } else {
      for (std::size_t i = 0; i + 1 < tape_->cuts.size(); ++i) {
        for (int j = 1; j < S; ++j) std::copy_n(others(tape_->cuts[i]).of(j), state_size(), saved(i).of(j));
        if (!steps(tape_->cuts[i], tape_->cuts[i + 1])) return false;
      }
    }
    copy_states_out();
    return true;
  }

  void begin() {
    const FlushDenormals flush;  // as in the loop, on whatever thread
    keep_ = tape_ && !tape_->segmented();
    if (tape_ && call_.options && call_.options->rules.dropout > 0)
      tape_->dropout = dropout_mask(*call_.options, call_.batch_sizes.batch, w_.Hp);
    allocate();
    if (!DryRun::on()) copy_states_in();
  }
  bool advance(Index begin, Index end) override {
    Barrier alone(1);
    return loop(begin, end, 0, alone);
  }
  void settle(bool last) override {
    if (last && !DryRun::on()) copy_states_out();
  }

  /// The i-th segment once more, for the backward pass; the same bits.
  bool replay(Index i) {
    const FlushDenormals flush;
    const Index begin = tape_->cuts[std::size_t(i)];
    keep_ = true;
    tape_->first = begin;
    allocate();
    ended_ = Buffer<T>(checked_mul(S * call_.batch_sizes.batch, w_.H));  // the caller has the final states already
    if (DryRun::on()) return true;
    for (int j = 0; j < S; ++j) final_[j] = ended_.data() + j * call_.batch_sizes.batch * w_.H;
    if (call_.options) enter(begin, false);
    for (int j = 1; j < S; ++j) std::copy_n(saved(std::size_t(i)).of(j), state_size(), others(begin).of(j));
    return steps(begin, tape_->cuts[std::size_t(i + 1)]);
  }

 private:
  void allocate() {
    const Index B = call_.batch_sizes.batch;
    if (w_.mode != ProductMode::kFma) {
      const Index chunk = plan_.hoisted ? plan_.chunk : 1;
      mode_rows_ = std::vector<StepRows>(std::size_t(plan_.division.threads()));
      for (StepRows& each : mode_rows_) each = {w_.mode, checked_mul(chunk, B), w_.I, B, w_.H};
    }
    if (multi_stage_) made_ = Buffer<T>(checked_mul((S + 1) * B, w_.Hp)), scales_ = Buffer<T>(B * kScales);
    if (keep_) {
      others_ = tape_->rows_of(call_.options ? tape_->entering_others : tape_->others);
      return;
    }
    if (plan_.hoisted || multi_stage_) scratch_ = Buffer<T>(checked_mul((plan_.hoisted ? plan_.chunk : 1) * B, row_));
    if (S > 1) {
      states_ = Buffer<T>(checked_mul(S - 1, checked_mul(B, w_.Hp)));
      others_ = {states_.data(), state_size()};
    }
    if (call_.options) operand_ = Buffer<T>(checked_mul(2 * B, w_.R));
    if (dropout()) entering_h_ = Buffer<T>(checked_mul(B, w_.Hp));
  }

  bool steps(Index begin, Index end) {
    bool complete = true;
    if (call_.batch_sizes.batch > 0) {
      Pool::instance().run(plan_.division.threads(), [&](int thread, Barrier& barrier) {
        const bool finished = loop(begin, end, thread, barrier);
        if (thread == 0) complete = finished;
      });
    }
    return complete;
  }

  bool loop(Index first, Index last, int thread, Barrier& barrier) {
    const BatchSizes& batch_sizes = call_.batch_sizes;
    Part part(plan_, batch_sizes, w_.blocks, thread, barrier.size());
    StateTransition<T> transition;  // made once: a plain step is too short to clear it
    for (Index begin = first; begin < last; begin += plan_.chunk) {
      const Index end = std::min(last, begin + plan_.chunk);
      if (plan_.hoisted) {
        kernels_.input_products(w_, call_.x + batch_sizes.begin(begin) * w_.I, gates(begin, begin),
                                batch_sizes.begin(end) - batch_sizes.begin(begin), part.units, mode_rows(thread));
      }
      for (Index t = begin; t < end; ++t) {
        part.activate(batch_sizes.rows(t));
        if (call_.options) transition = transition_at(t);
        ForwardStep<T> step = view(t, gates(t, begin), call_.options ? &transition : nullptr);
        step.mode_rows = mode_rows(thread);
        for_poll_rows(part.rows, plan_.poll_rows, [&](const RowBlocks& rows) {
          if (fresh_)
            fresh_->forward(kernels_, step, rows);
          else
            kernels_.forward(step, rows, part.units, t);
          if (thread == 0 && poll_(rows.total)) barrier.cancel();
          return !barrier.cancelled();
        });
        if (!part.wait(barrier, thread)) return false;
      }
    }
    return true;
  }

  ForwardStep<T> view(Index t, T* gates, const StateTransition<T>* transition) {
    const BatchSizes& batch_sizes = call_.batch_sizes;
    ForwardStep<T> step{w_};
    step.x = plan_.hoisted ? nullptr : call_.x + batch_sizes.begin(t) * w_.I;
    step.h = call_.options ? operand(t) : t == 0 ? call_.initial[0] : call_.y + batch_sizes.begin(t - 1) * w_.R;
    step.h1 = call_.y + batch_sizes.begin(t) * w_.R;
    const OtherStates<T> before = others(t);
    step.others0 = {before.data, before.next};
    step.others1 = others(t + 1);
    step.gates = gates;
    step.keep = keep_;
    step.transition = transition;
    step.scales = keep_ && tape_->scales.size() > 0 ? tape_->scales.data() + tape_->row(t) * kScales : scales_.data();
    step.made = made_.data();
    step.batch = batch_sizes.batch;
    return step;
  }

  /// From step t into the next one.
  StateTransition<T> transition_at(Index t) {
    StateTransition<T> c = into(t + 1);
    c.step = t;
    c.h0 = dropout() ? entering_h(t) : operand(t);  // h of the cell, which dropout parts from that of the product
    c.h0_width = dropout() ? w_.Hp : w_.R;
    c.out = call_.y + call_.batch_sizes.begin(t) * w_.R;
    if (keep_ && tape_->left_h.size() > 0) c.left_h = tape_->left_h.data() + tape_->row(t) * w_.Hp;
    if (keep_ && S > 1) {
      c.left_others = tape_->rows_of(tape_->others);
      c.left_others.data += tape_->row(t) * w_.Hp;
    }
    c.final = final_;
    return c;
  }

  /// The side of a transition on which step t begins.
  StateTransition<T> into(Index t) {
    const BatchSizes& batch_sizes = call_.batch_sizes;
    StateTransition<T> c;
    c.options = call_.options, c.R = w_.R, c.H = w_.H, c.Hp = w_.Hp;
    c.rows1 = batch_sizes.rows(t);
    c.keep1 = call_.options->keep ? call_.options->keep + batch_sizes.begin(t) : nullptr;
    c.operand1 = operand(t);
    c.dropout = dropout();
    c.h1 = dropout() ? entering_h(t) : nullptr;
    c.others1 = others(t);
    return c;
  }

  StepRows* mode_rows(int thread) { return mode_rows_.empty() ? nullptr : &mode_rows_[std::size_t(thread)]; }

  // The arrays of step t: on the tape, or without one in memory that the steps share.
  T* gates(Index t, Index chunk) {
    if (keep_) return tape_->gates.data() + tape_->row(t) * row_;
    if (!plan_.hoisted) return scratch_.data();  // null but for cells of several stages
    return scratch_.data() + (call_.batch_sizes.begin(t) - call_.batch_sizes.begin(chunk)) * row_;
  }
  T* operand(Index t) {
    return keep_ ? tape_->operand.data() + tape_->row(t) * w_.R
                 : operand_.data() + (t % 2) * call_.batch_sizes.batch * w_.R;
  }
  /// d of recurrent dropout, which only training has; or null.
  const T* dropout() const { return tape_ ? tape_->dropout.data() : nullptr; }
  T* entering_h(Index t) { return keep_ ? tape_->entering_h.data() + tape_->row(t) * w_.Hp : entering_h_.data(); }
  /// Every state but h as it enters step t.
  OtherStates<T> others(Index t) const {
    if (S == 1 || !keep_) return others_;
    return {others_.data + tape_->row(t) * w_.Hp, others_.next};
  }
  /// The same as it enters the i-th segment.
  OtherStates<T> saved(std::size_t i) const {
    return {tape_->saved.data() + Index(i) * (S - 1) * state_size(), state_size()};
  }
  Index state_size() const { return call_.batch_sizes.batch * w_.Hp; }

  void copy_states_in() {
    if (call_.options) return enter(0, true);
    for (int i = 1; i < S; ++i)
      copy_rows(others(0).of(i), w_.Hp, call_.initial[i], w_.H, call_.batch_sizes.batch, w_.H);
  }

  /// The states before step t: h from y of the step before it, or at t = 0 the initial one; the others, only where
  /// asked, from the initial ones.
  void enter(Index t, bool with_others) {
    constexpr int W = Vec<T>::kSize;
    const BatchSizes& batch_sizes = call_.batch_sizes;
    const StateTransition<T> c = into(t);
    const T* h = t == 0 ? call_.initial[0] : call_.y + batch_sizes.begin(t - 1) * w_.R;
    const auto load = [&](const T* from, Index width, Index row, Index unit) {
      return Vec<T>::load(from + row * width + unit, std::min<Index>(W, width - unit));
    };
    for (Index row = 0; row < batch_sizes.rows(t); ++row) {
      for (Index unit = 0; unit < w_.R; unit += W) c.enter_h(row, unit, load(h, w_.R, row, unit));
      for (int i = 1; with_others && i < S; ++i) {
        for (Index unit = 0; unit < w_.H; unit += W)
          c.enter_other(i, row, unit, load(call_.initial[i], w_.H, row, unit));
      }
    }
  }

  void copy_states_out() {
    const BatchSizes& batch_sizes = call_.batch_sizes;
    const Index B = batch_sizes.batch;
    if (call_.options) {  // rows that end were written by their last step
      const Index none = batch_sizes.rows(0);
      for (int i = 0; i < S; ++i) {
        const Index width = i == 0 ? w_.R : w_.H;
        std::copy_n(call_.initial[i] + none * width, (B - none) * width, call_.final[i] + none * width);
      }
      return;
    }
    const T* h = batch_sizes.steps == 0 ? call_.initial[0] : call_.y + (batch_sizes.steps - 1) * B * w_.H;
    std::copy_n(h, B * w_.H, call_.final[0]);
    for (int i = 1; i < S; ++i) copy_rows(call_.final[i], w_.H, others(batch_sizes.steps).of(i), w_.Hp, B, w_.H);
  }

  const CellKernels<T>& kernels_;
  const std::shared_ptr<const Weights<T>> owner_;
  const Weights<T>& w_;
  const int S = w_.cell.states;
  const bool multi_stage_ = w_.cell.multi_stage;
  const Index row_ = w_.cell.lines * w_.Hp;  // values of a row of gates
  const ForwardCall<T> call_;
  Tape<T>* tape_;
  const Plan plan_;
  Poll poll_;                           // by thread 0, or the thread that has the piece
  const FreshWeights<T>* const fresh_;  // null: w_ has the forward panels
  bool keep_ = false;                   // this pass writes the tape's buffers
  Buffer<T> scratch_, states_, operand_, entering_h_, ended_;
  Buffer<T> made_, scales_;          // of cells of several stages
  std::vector<StepRows> mode_rows_;  // of each thread
  OtherStates<T> others_;            // as they enter step 0, or any step where none is kept
  T* final_[kMaxStates];
};

}  // namespace bptt::sequence
