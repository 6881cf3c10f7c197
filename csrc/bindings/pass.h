// SPDX-License-Identifier: Apache-2.0
// One direction of a layer on its way through a call: the arrays it was given, in the order of the kernels' rows, and
// what it gives back. Prepared and finished with the GIL, run without.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "bindings/setup.h"
#include "bindings/states.h"
#include "sequence/recurrence.h"

namespace bptt::bindings {

template <class T>
class Pass {
 public:
  sequence::Tape<T> tape;
  std::vector<py::object> arrays;  // what the tape points into

  Pass() = default;
  Pass(const Pass&) = delete;  // the kernels point into it

  /// A pass whose arrays are the kernels' own.
  void adopt(const sequence::Timeline& time, Index hidden, std::vector<py::object> kept) {
    call_.time = time, hidden_ = hidden, arrays = std::move(kept);
  }

  /// x [T,B,I] or, with packed rows, [sum,I].
  void prepare(const sequence::Recurrence<T>& r, Index input, Index hidden, const py::array& x, const py::object& state,
               const Setup& setup, bool training) {
    rows_ = setup.rows, input_ = input, hidden_ = hidden, width_ = widths(r), states_ = r.states();
    if (rows_) {
      call_.time = rows_->timeline();
      x_outer_ = rows_->is_packed()
                     ? read<T>(x, {rows_->outer_rows(), input}, "Recurrence.forward: x")
                     : read<T>(x, {rows_->outer_steps(), rows_->batch(), input}, "Recurrence.forward: x");
    } else {
      call_.time.steps = axis(x, 3, 0, "Recurrence.forward: x");
      call_.time.batch = axis(x, 3, 1, "Recurrence.forward: x");
      x_outer_ = read<T>(x, {call_.time.steps, call_.time.batch, input}, "Recurrence.forward: x");
    }
    const Index B = call_.time.batch;
    given_ = read_states<T>(state, width_, B, initial_, "Recurrence.forward: state");
    last_ = new_states<T>(width_, B, final_);
    if (rows_) {
      x_ = Buffer<T>(checked_mul(call_.time.total(), input));
      for (int i = 0; i < states_; ++i) {
        initial_rows_[i] = Buffer<T>(checked_mul(B, width_[std::size_t(i)]));
        final_rows_[i] = Buffer<T>(checked_mul(B, width_[std::size_t(i)]));
      }
    }
    if (setup.crosses(training)) prepare_between(setup, training);
    if (training) arrays = {x, given_[0], given_[1]};
  }

  /// y goes to columns of `to`, whose rows are `ld` wide.
  bool forward(const sequence::Recurrence<T>& r, T* to, Index ld, bool training, Index segment, int threads,
               std::atomic<bool>* stop) {
    direct_ = !rows_ && ld == width_[0];
    call_.stop = stop;
    if (!direct_) y_ = Buffer<T>(checked_mul(call_.time.total(), width_[0]));
    call_.x = x_outer_, call_.y = direct_ ? to : y_.data();
    if (rows_) {
      rows_->gather(x_.data(), x_outer_, input_, input_);
      call_.x = x_.data();
    }
    for (int i = 0; i < states_; ++i) {
      call_.initial[i] = initial_[i], call_.final[i] = final_[i];
      if (!rows_) continue;
      rows_->gather_states(initial_rows_[i].data(), initial_[i], width_[std::size_t(i)]);
      call_.initial[i] = initial_rows_[i].data(), call_.final[i] = final_rows_[i].data();
    }
    if (!r.forward(call_, training ? &tape : nullptr, segment, threads, &interrupted)) return false;
    if (!direct_) copy_out(to, ld, y_.data(), width_[0]);
    for (int i = 0; rows_ && i < states_; ++i)
      rows_->scatter_states(final_[i], final_rows_[i].data(), width_[std::size_t(i)]);
    return true;
  }

  py::object last() const { return as_state(last_, states_); }

  /// dy: columns of rows `ld` wide. dx goes to `to` where the caller's rows are the kernels', else it stays here.
  bool backward(const sequence::Recurrence<T>& r, sequence::BackwardCall<T>& call, const T* dy, Index ld, T* dx,
                int threads) {
    const sequence::Timeline& time = call_.time;
    Buffer<T> dy_rows, dfinal[sequence::kMaxStates], dinitial[sequence::kMaxStates];
    call.dy = dy, call.dx = dx;
    if (!direct_) {
      dy_rows = Buffer<T>(checked_mul(time.total(), width_[0]));
      copy_in(dy_rows.data(), dy, ld, width_[0]);
      dx_ = Buffer<T>(checked_mul(time.total(), input_));
      call.dy = dy_rows.data(), call.dx = dx_.data();
    }
    T* to[sequence::kMaxStates];
    for (int i = 0; rows_ && i < states_; ++i) {
      const Index n = width_[std::size_t(i)];
      dfinal[i] = Buffer<T>(time.batch * n), dinitial[i] = Buffer<T>(time.batch * n);
      rows_->gather_states(dfinal[i].data(), call.dfinal[i], n);
      call.dfinal[i] = dfinal[i].data(), to[i] = call.dinitial[i], call.dinitial[i] = dinitial[i].data();
    }
    const bool complete = r.backward(tape, call, threads, &interrupted);
    for (int i = 0; rows_ && i < states_; ++i) rows_->scatter_states(to[i], dinitial[i].data(), width_[std::size_t(i)]);
    return complete;
  }

  /// dx into `to` [outer rows,I], or onto what is there.
  void take_dx(T* to, bool add) {
    if (direct_) return;
    if (!add) {
      copy_out(to, input_, dx_.data(), input_);
    } else if (rows_) {
      rows_->each([&](Index step, Index row, Index n) {
        T* place = to + rows_->source(step, row) * input_;
        for (Index i = 0; i < input_; ++i) place[i] += dx_[n * input_ + i];
      });
    } else {
      for (Index i = 0; i < dx_.size(); ++i) to[i] += dx_[i];
    }
    dx_ = {};
  }

  bool direct() const { return direct_; }
  Index outer_steps() const { return rows_ ? rows_->outer_steps() : call_.time.steps; }
  Index outer_rows() const { return rows_ ? rows_->outer_rows() : call_.time.total(); }
  const sequence::Timeline& time() const { return call_.time; }
  bool flat() const { return rows_ && rows_->is_packed(); }
  int states() const { return states_; }
  Index bytes() const { return tape.bytes() + (x_.size() + y_.size() + keep_.size()) * Index(sizeof(T)); }
  /// Memory back to the arena, once backward has been.
  void release() {
    tape.release(), arrays.clear();
    for (Buffer<T>* b : {&x_, &y_, &keep_}) *b = {};
    for (int i = 0; i < sequence::kMaxStates; ++i) initial_rows_[i] = {}, final_rows_[i] = {};
  }

  /// Values that the tape keeps of each row [rows,.], `ld` apart, as users see rows: [T,B,H], or [sum,H].
  py::array kept(const T* from, Index ld) const {
    py::array_t<T> out = flat() ? empty<T>({outer_rows(), hidden_}) : empty<T>({outer_steps(), time().batch, hidden_});
    T* to = out.mutable_data();
    if (rows_ && !flat()) std::fill_n(to, out.size(), T(0));
    if (rows_)
      rows_->each(
          [&](Index s, Index r, Index n) { std::copy_n(from + n * ld, hidden_, to + rows_->source(s, r) * hidden_); });
    else
      for (Index n = 0; n < time().total(); ++n) std::copy_n(from + n * ld, hidden_, to + n * hidden_);
    return std::move(out);
  }

 private:
  void prepare_between(const Setup& setup, bool training) {
    for (int i = 0; i < states_; ++i) between_.zoneout[i] = setup.zoneout[std::size_t(i)];
    between_.dropout = training ? setup.dropout : 0;
    between_.clip = T(setup.clip), between_.clip_gradient = T(setup.clip_gradient);
    between_.training = training;
    between_.random = Philox(setup.seed);
    between_.ids = rows_ ? rows_->order() : nullptr;
    if (!setup.resets.is_none()) {
      const py::array resets = as_array(setup.resets, "Recurrence.forward: resets");
      const bool* flags = rows_ && rows_->is_packed()
                              ? read<bool>(resets, {rows_->outer_rows()}, "Recurrence.forward: resets")
                              : read<bool>(resets, {outer_steps(), time().batch}, "Recurrence.forward: resets");
      read_resets(flags);
    }
    for (int i = 0; i < states_ && !setup.anew.is_none(); ++i) {
      const py::array part = state_part(setup.anew, i, states_, "Recurrence.forward: anew");
      const Index n = width_[std::size_t(i)];
      anew_[i] = Buffer<T>(n);  // a copy: parameters may change before backward
      std::copy_n(read<T>(part, {n}, "Recurrence.forward: anew"), n, anew_[i].data());
      between_.anew[i] = anew_[i].data();
    }
    call_.between = &between_;
  }

  /// A reset stands before a step; for a row read backward, behind it.
  void read_resets(const bool* flags) {
    keep_ = Buffer<T>(time().total());
    if (!rows_) {
      for (Index n = 0; n < time().total(); ++n) keep_[n] = T(!flags[n]);
    } else {
      rows_->each([&](Index step, Index row, Index n) {
        const bool first = rows_->reverse() && step == 0;
        keep_[n] = T(first || !flags[rows_->source(step - Index(rows_->reverse()), row)]);
      });
    }
    between_.keep = keep_.data();
  }

  void copy_out(T* to, Index ld, const T* from, Index width) const {
    if (rows_) return rows_->scatter(to, ld, from, width);
    for (Index n = 0; n < time().total(); ++n) std::copy_n(from + n * width, width, to + n * ld);
  }
  void copy_in(T* to, const T* from, Index ld, Index width) const {
    if (rows_) return rows_->gather(to, from, ld, width);
    for (Index n = 0; n < time().total(); ++n) std::copy_n(from + n * ld, width, to + n * width);
  }

  sequence::ForwardCall<T> call_{};
  sequence::Between<T> between_;
  std::shared_ptr<const sequence::Rows> rows_;
  Index input_ = 0, hidden_ = 0;
  Widths width_{};
  int states_ = 0;
  bool direct_ = false;  // the kernels work on the caller's arrays of y, dy and dx
  const T* x_outer_ = nullptr;
  const T* initial_[sequence::kMaxStates];
  T* final_[sequence::kMaxStates];
  States given_, last_;
  Buffer<T> x_, y_, keep_, dx_, anew_[sequence::kMaxStates];
  Buffer<T> initial_rows_[sequence::kMaxStates], final_rows_[sequence::kMaxStates];
};

}  // namespace bptt::bindings
