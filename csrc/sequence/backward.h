// SPDX-License-Identifier: Apache-2.0
// Backpropagation through time. Going back one step needs, for rows b and hidden units k,
//   dh_t = dy_t + (the cell's direct share) + dG_{t+1} Wh,   dG_t = the cell's backward at dh_t
// which is the only part that is serial in time. The other products follow in chunks of time, while dG is in the cache:
//   dx_t = dG_t Wx,   dWx = sum over t, b of dG^T x,   dWh = sum of dG^T h_{t-1},   db = sum of dG.
// Sums over time and batch have one order for any number of threads: threads divide the elements of dW, never a sum.
#pragma once

#include <optional>

#include "core/gemm/product.h"
#include "core/gemm/sums.h"
#include "core/memory/rows.h"
#include "core/threads/parallel.h"
#include "core/threads/share.h"
#include "sequence/forward.h"
#include "sequence/mode_steps.h"
#include "sequence/weight_gradient.h"

namespace bptt::sequence {

template <class T>
class Backward final : public ResumableCall {
 public:
  Backward(const CellKernels<T>& kernels, Tape<T>& tape, const BackwardCall<T>& call, const Plan& plan,
           Poll::Interrupted interrupted)
      : kernels_(kernels),
        w_(*tape.weights),
        tape_(tape),
        entering_(tape.rows_of(tape.call.options ? tape.entering_others : tape.others)),
        left_(tape.rows_of(tape.others)),
        call_(with_rows(call, w_)),
        batch_sizes_(tape.call.batch_sizes),
        options_(tape.call.options),
        plan_(plan),
        interrupted_(interrupted),
        poll_(interrupted, call.stop),
        reached_(batch_sizes_.steps),
        summed_(batch_sizes_.steps),
        dstates_(checked_mul(S * batch_sizes_.batch, w_.Hp)),
        dvectors_(batch_sizes_.batch, checked_mul(P, w_.Hp), batch_sizes_.steps) {
    if (!call.dy && !DryRun::on()) no_dy_ = Buffer<T>::zeros(checked_mul(batch_sizes_.batch, w_.R));
    if (call.d.weight_ih) dweights_.emplace(w_, call_, batch_sizes_.total(), plan.division.threads());
    for (int i = 0; i < S && !DryRun::on(); ++i)
      copy_rows(dstates_.data() + i * batch_sizes_.batch * w_.Hp, w_.Hp, call.dfinal[i], width(i), batch_sizes_.batch,
                width(i));
    if (multi_stage_) {
      dlines_ = Buffer<T>(checked_mul(batch_sizes_.batch, row_));
      ds_ = Buffer<T>(checked_mul((S + 1) * batch_sizes_.batch, w_.Hp));
      if (w_.H < w_.Hp) dlines_.clear(), ds_.clear();  // lanes beyond H are never written, but read
    }
    rooms_ = column_rooms(call_, w_, batch_sizes_.batch, plan.division.threads());
    if (w_.mode != ProductMode::kFma) {
      mode_rows_ = std::vector<StepRows>(std::size_t(plan.division.threads()));
      for (StepRows& each : mode_rows_)
        each.dg = {w_.mode, std::max<Index>(batch_sizes_.batch, kModeRows), w_.G * w_.H};
    }
    if (!options_ && chunk_steps(batch_sizes_) > 1) {
      first_ = Buffer<T>(chunk_steps(batch_sizes_) * batch_sizes_.batch * w_.H);
      if (DryRun::on()) return;
      const Index before = std::min(first_.size(), batch_sizes_.batch * w_.H);
      std::copy_n(tape.call.initial[0], before, first_.data());
      std::copy_n(tape.call.y, first_.size() - before, first_.data() + before);
    }
    if (options_ && call.dreset_state[0])
      dreset_state_ = SumsByRow<T>(batch_sizes_.batch, checked_mul(S, w_.Hp), batch_sizes_.steps);
  }

  /// False when it was called off; the gradients are then incomplete.
  bool run() {
    if (batch_sizes_.batch == 0 || batch_sizes_.steps == 0) {
      if (dweights_) dweights_->set_zero();
      return finish(poll_);
    }
    std::unique_ptr<Forward<T>> again;
    if (tape_.segmented()) {
      ForwardCall<T> call = tape_.call;
      call.stop = call_.stop;
      again = std::make_unique<Forward<T>>(kernels_, tape_.weights, call, &tape_, plan_, interrupted_);
    }
    for (Index i = Index(tape_.cuts.size()) - 2; i >= 0; --i) {
      const Index begin = tape_.cuts[std::size_t(i)], end = tape_.cuts[std::size_t(i + 1)];
      if ((again && !again->replay(i)) || !segment(begin, end)) return false;
      if (i > 0) keep_first(begin);
    }
    return finish(poll_);
  }

  bool advance(Index begin, Index end) override {
    Barrier alone(1);
    Part part(plan_, batch_sizes_, w_.blocks, 0, 1);
    if (!steps(begin, end, batch_sizes_.steps, part, 0, alone)) return false;
    input_gradient(begin, end, 0, alone);
    reached_ = begin;
    return !alone.cancelled();
  }
  void settle(bool last) override {
    if (reached_ == chunk_begin(batch_sizes_, summed_)) {
      weight_gradient(reached_, summed_, since_, 0, 1, [](Index) { return false; });
      summed_ = reached_;
    }
    if (!last) return;
    Poll silent([] { return false; });  // an interrupt cannot be reported here; it waits for the next poll
    finish(silent);
  }

 private:
  /// The gradients of the initial states, and the sums that remain. False where it was called off.
  bool finish(Poll& poll) {
    const FlushDenormals flush;  // as in the loop, on whatever thread
    if ((call_.dinitial[0] || call_.dreset_state[0]) && !enter_first(poll)) return false;
    if (DryRun::on()) return true;
    if (dweights_) dweights_->write();
    for (int i = 0; i < S && call_.dreset_state[i]; ++i) {
      if (options_) dreset_state_.over_rows(call_.dreset_state[i], i * w_.Hp, width(i));
      if (!options_) std::fill_n(call_.dreset_state[i], width(i), T(0));
    }
    const int bias = w_.cell.bias_is_vectors ? w_.cell.gates : 0;  // vectors that are the bias
    for (int i = 0; i < P; ++i) {
      T* to = i < P - bias ? call_.d.vectors : call_.d.bias;
      if (to) dvectors_.over_rows(to + (i < P - bias ? i : i - P + bias) * w_.H, i * w_.Hp, w_.H);
    }
    return true;
  }

  /// From the first step to the states that entered it. False where it was called off.
  bool enter_first(Poll& poll) {
    constexpr int W = Vec<T>::kSize;
    const Index B = batch_sizes_.batch, active = batch_sizes_.rows(0);
    Buffer<T> products(checked_mul(B, w_.Hp));
    if (DryRun::on()) return true;
    if (active < B || w_.R < w_.Hp) products.clear();
    const RowBlocks blocks(active);
    const double ns = product_ns<T>(2.0 * kTileRows * double(w_.cell.hidden_gates * w_.H) * double(w_.Q));
    const int threads = plan_.division.threads(), across = int(ceil_div(threads, std::max<Index>(1, blocks.count)));
    const auto some = [&](int thread, Index begin,
                          Index end) {  // blocks of rows for one part of the columns, then the next
      for (Index stop; begin < end; begin = stop) {
        const Index part = begin / blocks.count, first = part * blocks.count;
        stop = std::min(end, first + blocks.count);
        w_.for_bands_back([&](const Band& band) {
          const Share columns(band.end - band.first, int(part), across);
          const ProductRows<T> f{products.data(), w_.Hp, gates(0), row_, through(band)};
          product_back(f, w_.h_back, {call_.weights.weight_hh, w_.R}, blocks, Share(begin - first, stop - first),
                       Share(band.first + columns.begin, band.first + columns.end), room_of(rooms_, thread));
        });
      }
    };
    if (!parallel_for(blocks.count * across, grain_of(ns / across), threads, poll, some)) return false;
    StateTransitionBack<T> transition = common();
    transition.rows1 = active;
    if (options_) transition.keep1 = options_->keep;
    for (Index row = 0; row < B; ++row) {
      for (Index unit = 0; unit < w_.R; unit += W) {
        const Vec<T> share = Vec<T>::load(products.data() + row * w_.Hp + unit);
        Vec<T> d = Vec<T>::load(dstates_.data() + row * w_.Hp + unit);
        if (!transition.dropout) d = share + d;
        d = transition.enter_h(row, unit, share, d);
        if (call_.dinitial[0]) d.store(call_.dinitial[0] + row * w_.R + unit, std::min<Index>(W, w_.R - unit));
      }
      for (int i = 1; i < S; ++i) {
        for (Index unit = 0; unit < w_.H; unit += W) {
          Vec<T> d = Vec<T>::load(dstates_.data() + (i * B + row) * w_.Hp + unit);
          d = transition.enter_other(i, row, unit, d);
          if (call_.dinitial[i]) d.store(call_.dinitial[i] + row * w_.H + unit, std::min<Index>(W, w_.H - unit));
        }
      }
    }
    return true;
  }

  Index width(int state) const { return state == 0 ? w_.R : w_.H; }
  /// The gradients that go back through the product with h, to the blocks of one band.
  Segments through(const Band& band) const {
    Segments s = gate_segments(w_, w_.cell.h_acc, w_.cell.hidden_gates);
    s.length = band.length;
    for (int g = 0; g < s.count; ++g) s.offset[g] += band.begin;
    return s;
  }

  T* gates(Index t) { return tape_.gates.data() + tape_.row(t) * row_; }
  /// The gradients of the pre-activations of step t, which may belong to the segment before this one.
  const T* dgates(Index t, Index end) {
    if (t == batch_sizes_.steps) return nullptr;
    return t == end ? next_.data() : gates(t);
  }
  /// h as the product of step t takes it.
  const T* h(Index t) const {
    if (options_) return tape_.operand.data() + tape_.row(t) * w_.R;
    return t == 0 ? tape_.call.initial[0] : tape_.call.y + batch_sizes_.begin(t - 1) * w_.H;
  }
  /// Every state but h, as those of the rows of step t among `rows`.
  OtherStates<const T> at(Index t, const OtherStates<T>& rows) const {
    if (S == 1) return {};
    return {rows.data + tape_.row(t) * w_.Hp, rows.next};
  }

  /// h as step t's cell makes it.
  StridedRows<const T> left_h(Index t) const {
    if (tape_.left_h.size() > 0) return {tape_.left_h.data() + tape_.row(t) * w_.Hp, w_.Hp};
    return {tape_.call.y + batch_sizes_.begin(t) * w_.R, w_.R};
  }

  /// The gradients of a segment's first step, which the segment before it needs.
  void keep_first(Index t) {
    const Index size = batch_sizes_.rows(t) * row_;
    if (next_.size() < size) next_ = Buffer<T>(batch_sizes_.batch * row_);
    if (!DryRun::on()) std::copy_n(gates(t), size, next_.data());
  }

  bool segment(Index begin, Index end) {
    if (DryRun::on()) return true;
    bool complete = true;
    Index after = since_;  // the next segment may have another number of threads
    Pool::instance().run(plan_.division.threads(), [&](int thread, Barrier& barrier) {
      Index since = since_;
      const bool finished = segment(begin, end, since, thread, barrier);
      if (thread == 0) {
        complete = finished;
        after = since;
      }
    });
    since_ = after;
    return complete;
  }

  /// The steps [first, last) chunk by chunk.
  bool segment(Index first, Index last, Index& since, int thread, Barrier& barrier) {
    Part part(plan_, batch_sizes_, w_.blocks, thread, barrier.size());
    for (Index end = last, begin; end > first; end = begin) {
      begin = chunk_begin(batch_sizes_, end);
      if (!steps(begin, end, last, part, thread, barrier)) return false;
      if (!part.wait_for_all(barrier, thread)) return false;
      input_gradient(begin, end, thread, barrier);
      weight_gradient(begin, end, since, thread, barrier.size(),
                      [&](Index n) { return called_off(n, thread, barrier); });
      if (barrier.cancelled()) return false;
    }
    return true;
  }

  /// The part that is serial in time, of a segment that ends before `last`.
  bool steps(Index begin, Index end, Index last, Part& part, int thread, Barrier& barrier) {
    StateTransitionBack<T> transition;
    BackwardStep<T> step = shared_view();
    if (options_) step.transition = &transition;
    if (!mode_rows_.empty()) step.mode_rows = &mode_rows_[std::size_t(thread)];
    T* dsteps[kMaxStates];
    for (Index t = end - 1; t >= begin; --t) {
      move(step, t);
      if (call_.dsteps[0]) {
        for (int i = 0; i < S; ++i) dsteps[i] = call_.dsteps[i] + batch_sizes_.begin(t) * width(i);
        step.dsteps = dsteps;
      }
      if (options_) transition = transition_at(t);
      if (options_ &&
          batch_sizes_.rows(t + 1) < batch_sizes_.rows(t)) {  // the rows that end here have no product to come
        Part ending = part;
        ending.first = std::max(part.first, batch_sizes_.rows(t + 1));
        ending.activate(batch_sizes_.rows(t));
        step.dg1 = nullptr;
        one(step, t, ending, thread, barrier);
      }
      part.activate(options_ ? batch_sizes_.rows(t + 1) : batch_sizes_.batch);
      step.dg1 = dgates(t + 1, last);
      one(step, t, part, thread, barrier);
      if (t % kSumRows == 0) sums_done(t, part);
      if (!part.wait(barrier, thread)) return false;
    }
    return true;
  }

  /// The sums by row are moved on for the rows and units of a thread.
  void sums_done(Index t, const Part& part) {
    const Index begin = part.units.begin * Vec<T>::kSize, end = part.units.end * Vec<T>::kSize;
    for (int i = 0; i < P; ++i) dvectors_.step_done(t, part.first, part.last, i * w_.Hp + begin, i * w_.Hp + end);
    for (int i = 0; i < S; ++i) dreset_state_.step_done(t, part.first, part.last, i * w_.Hp + begin, i * w_.Hp + end);
  }

  /// The rows of `part` at step t, to which `step` has moved.
  void one(const BackwardStep<T>& step, Index t, const Part& part, int thread, Barrier& barrier) {
    for_poll_rows(part.rows, plan_.poll_rows, [&](const RowBlocks& rows) {
      kernels_.backward(step, rows, part.units, t);
      return !called_off(rows.total, thread, barrier);
    });
  }

  /// Whether the job is cancelled; thread 0 polls, after `rows` more rows.
  bool called_off(Index rows, int thread, Barrier& barrier) {
    if (thread == 0 && poll_(rows)) barrier.cancel();
    return barrier.cancelled();
  }

  /// The view of a step, as far as all steps share it: made once, since a plain step is short (LSTM B=1 H=32: 480 ns).
  BackwardStep<T> shared_view() {
    BackwardStep<T> step{w_};
    step.h0_width = tape_.entering_h.size() > 0 ? w_.Hp : w_.R;
    step.h1_width = tape_.left_h.size() > 0 ? w_.Hp : w_.R;
    step.dstates = dstates_.data();
    step.dvectors = dvectors_.recent();
    step.batch = batch_sizes_.batch;
    step.dlines = dlines_.data();
    step.ds = ds_.data();
    return step;
  }

  /// The view moved to step t.
  void move(BackwardStep<T>& step, Index t) {
    const Index row = tape_.row(t);
    step.dy = call_.dy ? call_.dy + batch_sizes_.begin(t) * w_.R : no_dy_.data();
    step.gates = gates(t);
    step.h = h(t);
    step.h0 = tape_.entering_h.size() > 0 ? tape_.entering_h.data() + row * w_.Hp : step.h;
    step.h1 = left_h(t).data;
    step.others0 = at(t, entering_);
    step.others1 = options_ ? at(t, left_) : at(t + 1, entering_);
    if (multi_stage_) step.scales = tape_.scales.data() + row * kScales;
  }

  StateTransitionBack<T> transition_at(Index t) {
    StateTransitionBack<T> c = common();
    c.step = t;
    c.left_h = left_h(t);
    c.left_others = at(t, left_);
    c.rows1 = batch_sizes_.rows(t + 1);
    c.keep1 = options_->keep ? options_->keep + batch_sizes_.begin(t + 1) : nullptr;
    return c;
  }

  /// The common part of all transitions of the call.
  StateTransitionBack<T> common() {
    StateTransitionBack<T> c;
    c.options = options_, c.R = w_.R, c.H = w_.H, c.Hp = w_.Hp;
    c.dreset_state = dreset_state_.recent(), c.S = S;
    c.dropout = tape_.dropout.data();
    return c;
  }

  /// dx of some steps.
  void input_gradient(Index begin, Index end, int thread, Barrier& barrier) {
    if (!call_.dx) return;
    const RowBlocks blocks(batch_sizes_.begin(end) - batch_sizes_.begin(begin));
    const bool in_mode = !mode_rows_.empty(), narrow = w_.I <= kNarrow;
    const Index columns = ceil_div(w_.I, Vec<T>::kSize), width = tile_blocks(kTileRows, 1);
    const TileShare part(blocks.count, in_mode || narrow ? 1 : ceil_div(columns, width), thread, barrier.size());
    const Share own(part.columns.begin * width, std::min(part.columns.end * width, columns));
    T* dx = call_.dx + batch_sizes_.begin(begin) * w_.I;
    Segments k = gate_segments(w_, w_.cell.x_acc, w_.cell.gates);
    if (narrow) k.length = w_.Hp;
    const Index piece = std::max<Index>(1, plan_.poll_rows / kTileRows);
    for (Index i = part.rows.begin, stop; i < part.rows.end; i = stop) {
      stop = part.rows.end - i > piece ? i + piece : part.rows.end;
      if (narrow) {
        narrow_product(dx, w_.I, gates(begin), row_, k, w_.x_narrow.data(), blocks, i, stop);
      } else if (in_mode) {
        mode_input_gradient(dx, w_, gates(begin), blocks.begin(i), blocks.begin(stop - 1) + blocks.size(stop - 1),
                            mode_rows_[std::size_t(thread)].dg);
      } else {
        product_back({dx, w_.I, gates(begin), row_, k}, w_.x_back, {call_.weights.weight_ih, w_.I}, blocks,
                     Share(i, stop), own, room_of(rooms_, thread));
      }
      if (called_off((stop - i) * kTileRows, thread, barrier)) return;
    }
  }

  /// The share of a chunk in the gradients of the weights; poll(rows) is true where the call is called off.
  template <class Poll>
  void weight_gradient(Index begin, Index end, Index& since, int thread, int threads, const Poll& poll) {
    if (!dweights_) return;
    const Index rows = batch_sizes_.begin(end) - batch_sizes_.begin(begin);
    const T* before = begin == 0 && first_.size() > 0 ? first_.data() : h(begin);
    dweights_->add(gates(begin), tape_.call.x + batch_sizes_.begin(begin) * w_.I, before, rows, begin == 0, poll, since,
                   thread, threads);
  }

  const CellKernels<T>& kernels_;
  const Weights<T>& w_;
  const int S = w_.cell.states, P = w_.cell.vectors;
  const bool multi_stage_ = w_.cell.multi_stage;
  const Index row_ = w_.cell.lines * w_.Hp;  // values of a row of gates
  Tape<T>& tape_;
  OtherStates<T> entering_, left_;  // every state but h on the tape; the second one with StateOptions
  const BackwardCall<T> call_;
  const BatchSizes batch_sizes_;
  const StateOptions<T>* options_;
  const Plan plan_;
  const Poll::Interrupted interrupted_;
  Poll poll_;               // by thread 0, or whichever thread has the piece
  Index since_ = 0;         // see WeightGradient::add
  Index reached_, summed_;  // in pieces: the first step that is done, and the first that the weights' gradients have
  Buffer<T> dstates_;
  SumsByRow<T> dvectors_, dreset_state_;       // [B,P,Hp], [B,S,Hp]
  Buffer<T> first_, next_;                     // hidden states before the steps of the first chunk; see keep_first
  Buffer<T> no_dy_, dlines_, ds_;              // zeros where there is no dy [B,R]; of cells of several stages
  std::optional<WeightGradient<T>> dweights_;  // none where they are not wanted
  std::vector<StepRows> mode_rows_;            // of each thread
  std::vector<ColumnRoom<T>> rooms_;           // of each thread, where the tape has no panels of weights
};

}  // namespace bptt::sequence
