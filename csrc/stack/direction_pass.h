// SPDX-License-Identifier: Apache-2.0
// One direction of a layer on its way through a call: the arrays it was given, in the order of the kernels' rows, and
// what it gives back.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

#include "core/threads/pool.h"
#include "core/threads/share.h"
#include "core/threads/work.h"
#include "sequence/masks.h"
#include "sequence/recurrence.h"
#include "stack/stack.h"

namespace bptt::stack {

using sequence::BackwardCall;
using sequence::ForwardCall;

/// Widths of h and of the second state (0: none).
using Widths = std::array<Index, kMaxStates>;

template <class T>
Widths widths(const sequence::Recurrence<T>& r) {
  Widths w{};
  for (int i = 0; i < r.states(); ++i) w[std::size_t(i)] = r.width(i);
  return w;
}
inline int count(const Widths& w) { return int(std::find(w.begin(), w.end(), 0) - w.begin()); }

template <class T>
class DirectionPass {
 public:
  sequence::Tape<T> tape;

  DirectionPass() = default;
  DirectionPass(const DirectionPass&) = delete;  // the kernels point into it

  /// A pass on the caller's own arrays.
  void prepare(const sequence::Recurrence<T>& r, const OuterShape& outer) {
    outer_ = outer, width_ = widths(r), hidden_ = r.width(1);
    call_.batch_sizes = {outer.steps, outer.batch};
  }

  /// A pass whose rows `asked` may put into another order, and on which it may act. States [B,.].
  void prepare(const sequence::Recurrence<T>& r, Index input, const OuterShape& outer, const T* const* initial,
               T* const* final, const DirectionOptions<T>& asked, bool training) {
    const CallOptions& options = *asked.options;
    prepare(r, outer);
    order_ = options.order;
    input_ = input;
    if (order_) call_.batch_sizes = order_->batch_sizes();
    std::copy_n(initial, states(), initial_);
    std::copy_n(final, states(), final_);
    if (training) drop_ = {options.input_dropout, Philox(options.input_seed)};
    if (options.needs_transition(training, asked.resets != nullptr)) prepare_options(asked, training);
  }

  /// The arrays of a forward call: as they are where their rows are the kernels', else in copies.
  void open(StridedRows<const T> x, StridedRows<T> y, std::atomic<bool>* stop) {
    const Index rows = call_.batch_sizes.total();
    call_.stop = stop, call_.x = source_ = x.data, call_.y = y.data;
    if (differs(x) || drop_.p > 0) {
      x_ = Buffer<T>(checked_mul(rows, input_));
      call_.x = x_.data();
    }
    copies_y_ = differs(y) || y.ld != width_[0];
    if (copies_y_) {
      y_ = Buffer<T>(checked_mul(rows, width_[0]));
      call_.y = y_.data();
    }
    for (int i = 0; i < states(); ++i) {
      const Index n = width_[std::size_t(i)];
      call_.initial[i] = initial_[i], call_.final[i] = final_[i];
      if (!order_) continue;
      initial_rows_[i] = Buffer<T>(checked_mul(call_.batch_sizes.batch, n));
      final_rows_[i] = Buffer<T>(checked_mul(call_.batch_sizes.batch, n));
      call_.initial[i] = initial_rows_[i].data(), call_.final[i] = final_rows_[i].data();
    }
    if (DryRun::on()) return;
    if (differs(x)) {
      copy_in(x_.data(), x, input_);
      source_ = x_.data();
    }
    for (int i = 0; order_ && i < states(); ++i)
      order_->gather_states(initial_rows_[i].data(), initial_[i], width_[std::size_t(i)]);
  }

  /// x of some steps made ready; before the steps themselves.
  void feed(Index begin, Index end) {
    if (drop_.p > 0) drop(x_.data(), source_, begin, end);
  }

  bool forward(const sequence::Recurrence<T>& r, sequence::PackedWeights<T> weights, bool training, Index segment,
               int threads, Poll::Interrupted interrupted) {
    all_steps(threads, [&](Index begin, Index end) { feed(begin, end); });
    return r.forward(std::move(weights), call_, training ? &tape : nullptr, segment, threads, interrupted);
  }
  std::unique_ptr<sequence::ResumableCall> start(const sequence::Recurrence<T>& r, sequence::PackedWeights<T> weights,
                                                 bool training, Poll::Interrupted interrupted) {
    return r.start(std::move(weights), call_, training ? &tape : nullptr, interrupted);
  }

  void close(StridedRows<T> y) {
    if (DryRun::on()) return;
    if (copies_y_) copy_out(y, y_.data(), width_[0], width_[0]);
    if (!order_) return;
    for (int i = 0; i < states(); ++i) order_->scatter_states(final_[i], final_rows_[i].data(), width_[std::size_t(i)]);
  }

  /// Whether only this pass refers to the arrays that it reads.
  bool has_copied_x() const { return x_.size() > 0; }
  /// Whether its tape reads y where the caller has it.
  bool reads_y() const { return !copies_y_; }

  /// Backward overwrites the values that the tape keeps of each row; those of a tape with checkpoints it makes itself.
  void save_kept() {
    if (tape.segmented()) return;
    saved_ = Buffer<T>(tape.gates.size());
    std::copy_n(tape.gates.data(), tape.gates.size(), saved_.data());
  }
  void restore_kept() {
    if (saved_.size() > 0) tape.gates.swap(saved_);
    for (Buffer<T>* b : {&saved_, &dy_, &dx_}) b->reset();
  }

  /// The arrays of a backward call, whose states and gradients of weights `call` names. `apart`: another pass writes
  /// dx, and this one's is added to it.
  void open_back(const BackwardCall<T>& call, StridedRows<const T> dy, StridedRows<T> dx, bool apart,
                 std::atomic<bool>* stop) {
    const sequence::BatchSizes& batch_sizes = call_.batch_sizes;
    back_ = call, back_.stop = stop, back_.dy = dy.data, back_.dx = dx.data;
    if ((dy.data || DryRun::on()) && (differs(dy) || dy.ld != width_[0])) {
      dy_ = Buffer<T>(checked_mul(batch_sizes.total(), width_[0]));
      if (!DryRun::on()) copy_in(dy_.data(), dy, width_[0]);
      back_.dy = dy_.data();
    }
    copies_dx_ = (dx.data || DryRun::on()) && (differs(dx) || apart);
    if (copies_dx_) {
      dx_ = Buffer<T>(checked_mul(batch_sizes.total(), input_));
      back_.dx = dx_.data();
    }
    for (int i = 0; order_ && i < states(); ++i) {
      const Index n = width_[std::size_t(i)];
      dfinal_rows_[i] = Buffer<T>(batch_sizes.batch * n);
      if (!DryRun::on()) order_->gather_states(dfinal_rows_[i].data(), back_.dfinal[i], n);
      back_.dfinal[i] = dfinal_rows_[i].data();
      dinitial_[i] = own_copy(back_.dinitial[i], dinitial_rows_[i], batch_sizes.batch, n);
      dsteps_[i] = own_copy(back_.dsteps[i], dstep_rows_[i], batch_sizes.total(), n);
    }
  }

  bool backward(const sequence::Recurrence<T>& r, int threads, Poll::Interrupted interrupted) {
    const bool complete = r.backward(tape, back_, threads, interrupted);
    all_steps(threads, [&](Index begin, Index end) { feed_back(begin, end); });
    return complete;
  }
  std::unique_ptr<sequence::ResumableCall> start_back(const sequence::Recurrence<T>& r, Poll::Interrupted interrupted) {
    return r.start(tape, back_, interrupted);
  }

  /// dx of some steps made that of what was given; after the steps themselves.
  void feed_back(Index begin, Index end) {
    if (drop_.p > 0 && back_.dx) drop(back_.dx, back_.dx, begin, end);
  }

  void close_back(StridedRows<T> dx, bool add) {
    if (DryRun::on()) return;
    for (int i = 0; order_ && i < states(); ++i) {
      const Index n = width_[std::size_t(i)];
      if (dinitial_[i]) order_->scatter_states(dinitial_[i], dinitial_rows_[i].data(), n);
      if (dsteps_[i]) order_->scatter(dsteps_[i], n, dstep_rows_[i].data(), n, n);
    }
    if (!copies_dx_) return;
    if (!add) return copy_out(dx, dx_.data(), input_, input_);
    const auto onto = [&](Index n, Index place) {
      for (Index i = 0; i < input_; ++i) dx.data[place * dx.ld + i] += dx_[n * input_ + i];
    };
    if (order_) return order_->each([&](Index step, Index row, Index n) { onto(n, order_->source(step, row)); });
    for (Index n = 0; n < batch_sizes().total(); ++n) onto(n, n);
  }

  int states() const { return count(width_); }
  const OuterShape& outer() const { return outer_; }
  Index hidden() const { return hidden_; }
  const sequence::BatchSizes& batch_sizes() const { return call_.batch_sizes; }
  Index bytes() const { return tape.bytes() + (x_.size() + y_.size() + keep_.size()) * Index(sizeof(T)); }
  /// Memory back to the arena, once nobody needs it.
  void release() {
    tape.release();
    for (Buffer<T>* b : {&x_, &y_, &keep_, &dy_, &dx_, &saved_}) b->reset();
    for (int i = 0; i < kMaxStates; ++i)
      for (Buffer<T>* b : {&initial_rows_[i], &final_rows_[i], &dfinal_rows_[i], &dinitial_rows_[i], &dstep_rows_[i]})
        b->reset();
  }

  /// Values that the tape keeps of each row, to rows as the caller sees them: [T,B,H], or [sum,H].
  void copy_kept(T* to, StridedRows<const T> from) const {
    copy_out({to, hidden_, false}, from.data, from.ld, hidden_);
  }

 private:
  /// Redirects `target` to new rows and returns the old pointer; null stays null.
  static T* own_copy(T*& target, Buffer<T>& rows, Index count, Index width) {
    if (!target) return nullptr;
    rows = Buffer<T>(checked_mul(count, width));
    return std::exchange(target, rows.data());
  }

  void prepare_options(const DirectionOptions<T>& asked, bool training) {
    options_ = {asked.options->rules, training};
    options_.ids = order_ ? order_->order() : nullptr;
    if (asked.resets) read_resets(asked.resets);
    for (int i = 0; i < states() && asked.reset_state[i]; ++i) {
      const Index n = width_[std::size_t(i)];
      reset_state_[i] = Buffer<T>(n);  // a copy: parameters may change before backward
      std::copy_n(asked.reset_state[i], n, reset_state_[i].data());
      options_.reset_state[i] = reset_state_[i].data();
    }
    call_.options = &options_;
  }

  /// A reset stands before a step; for a row read backward, behind it.
  void read_resets(const bool* flags) {
    keep_ = Buffer<T>(batch_sizes().total());
    if (!order_) {
      for (Index n = 0; n < batch_sizes().total(); ++n) keep_[n] = T(!flags[n]);
    } else {
      order_->each([&](Index step, Index row, Index n) {
        const bool first = order_->reverse() && step == 0;
        keep_[n] = T(first || !flags[order_->source(step - Index(order_->reverse()), row)]);
      });
    }
    options_.keep = keep_.data();
  }

  /// Whether rows lie in another order than the kernels'.
  template <class U>
  bool differs(const StridedRows<U>& lines) const {
    return order_ && !lines.ordered;
  }

  /// f(begin, end) for all steps at once, where something is dropped: on all threads where it is much (1.3 ns a value).
  template <class F>
  void all_steps(int threads, const F& f) const {
    if (drop_.p == 0 || DryRun::on()) return;
    const int most = threads_for(1.3 * double(batch_sizes().total()) * double(input_));
    Pool::instance().run(std::min(threads, most), [&](int thread, Barrier& barrier) {
      const Share steps(batch_sizes().steps, thread, barrier.size());
      f(steps.begin, steps.end);
    });
  }

  /// y = x m / (1 - p) of some steps; masks belong to the caller's rows and times.
  void drop(T* y, const T* x, Index begin, Index end) const {
    for (Index t = begin; t < end; ++t) {
      for (Index row = 0; row < batch_sizes().rows(t); ++row) {
        const Index at = (batch_sizes().begin(t) + row) * input_;
        drop_(y + at, x + at, input_, order_ ? order_->row(row) : row, order_ ? order_->time(t, row) : t);
      }
    }
  }

  /// Packed rows of `width` values, `ld` apart, to where the caller sees them.
  void copy_out(StridedRows<T> to, const T* from, Index ld, Index width) const {
    if (differs(to)) return order_->scatter(to.data, to.ld, from, ld, width);
    for (Index n = 0; n < batch_sizes().total(); ++n) std::copy_n(from + n * ld, width, to.data + n * to.ld);
  }
  void copy_in(T* to, StridedRows<const T> from, Index width) const {
    if (differs(from)) return order_->gather(to, from.data, from.ld, width);
    for (Index n = 0; n < batch_sizes().total(); ++n) std::copy_n(from.data + n * from.ld, width, to + n * width);
  }

  ForwardCall<T> call_{};
  BackwardCall<T> back_{};
  sequence::StateOptions<T> options_;
  sequence::InputDropout drop_;
  std::shared_ptr<const sequence::SequenceOrder> order_;
  OuterShape outer_{};
  Index input_ = 0, hidden_ = 0;
  Widths width_{};
  bool copies_y_ = false, copies_dx_ = false;  // y, dx are made here and go to the caller's rows at the end
  const T* source_ = nullptr;                  // x before dropout
  const T* initial_[kMaxStates] = {};
  T *final_[kMaxStates] = {}, *dinitial_[kMaxStates] = {}, *dsteps_[kMaxStates] = {};
  Buffer<T> x_, y_, keep_, dy_, dx_, saved_, reset_state_[kMaxStates];
  Buffer<T> initial_rows_[kMaxStates], final_rows_[kMaxStates];
  Buffer<T> dfinal_rows_[kMaxStates], dinitial_rows_[kMaxStates], dstep_rows_[kMaxStates];
};

}  // namespace bptt::stack
