// SPDX-License-Identifier: Apache-2.0
// Recurrence for each cell of cells/all.h. Included by one translation unit per dtype, which is most of the build's
// time.
#pragma once

#include <stdexcept>

#include "cells/all.h"
#include "sequence/backward.h"
#include "sequence/forward.h"
#include "sequence/recurrence.h"
#include "sequence/stream.h"

namespace bptt::sequence {

template <class Cell, class T>
class CellRecurrence final : public Recurrence<T> {
 public:
  CellRecurrence(Index input, Index hidden, Index projection)
      : input_(input), hidden_(hidden), recurrent_(Traits<Cell>::kProjects ? projection : hidden) {}

  int gates() const override { return Cell::G; }
  int states() const override { return Cell::S; }
  int vectors() const override { return Cell::P - (Traits<Cell>::kBiasIsVectors ? Cell::G : 0); }
  bool vectors_are_bias() const override { return Cell::kVectorsAreBias; }
  bool projects() const override { return Traits<Cell>::kProjects; }
  Index width(int state) const override { return state == 0 ? recurrent_ : hidden_; }
  Plan plan(Index steps, Index batch, int threads) const override {
    return make_plan<T>({steps, batch, input_, hidden_, Cell::G, Traits<Cell>::kStaged}, threads);
  }

  void pack(const Flat<T>& from, bool training) override {
    auto packed = std::make_shared<const W>(input_, hidden_, recurrent_, from, training);
    std::lock_guard<std::mutex> lock(mutex_);
    weights_ = std::move(packed);
  }

  bool forward(const ForwardCall<T>& call, Tape<T>* tape, Index segment, int threads,
               Poll::Interrupted interrupted) const override {
    const std::shared_ptr<const W> weights = current();
    if (Traits<Cell>::kStaged && !call.between) {
      ForwardCall<T> crossing = call;
      crossing.between = &none();
      return forward(crossing, tape, segment, threads, interrupted);
    }
    if (tape) {
      if (!weights->trainable())
        throw std::logic_error("Recurrence.forward: the weights were packed for inference only");
      tape->call = call;
      tape->weights = weights;
      allocate(*tape, segment, weights->Hp);
    }
    return Forward<Cell, T>(*weights, call, tape, plan(call.time, threads)).run(interrupted);
  }

  std::unique_ptr<Stream<T>> stream(Index batch, const Between<T>* between) const override {
    return std::make_unique<CellStream<Cell, T>>(current(), batch, between ? *between : none());
  }

  bool backward(Tape<T>& tape, const BackwardCall<T>& call, int threads,
                Poll::Interrupted interrupted) const override {
    const W& weights = *static_cast<const W*>(tape.weights.get());
    return Backward<Cell, T>(weights, tape, call, plan(tape.call.time, threads)).run(interrupted);
  }

 private:
  using W = Weights<Cell, T>;

  static const Between<T>& none() {
    static const Between<T> none;
    return none;
  }

  /// As for a batch of the rows that there are on average.
  Plan plan(const Timeline& time, int threads) const {
    return plan(time.steps, time.steps > 0 ? ceil_div(time.total(), time.steps) : time.batch, threads);
  }

  void allocate(Tape<T>& tape, Index segment, Index Hp) const {
    const Timeline& time = tape.call.time;
    tape.cuts = cut(time, segment);
    tape.gates_width = kRowValues<Cell> * Hp, tape.Hp = Hp;
    Index rows = 0;  // of the longest segment
    for (std::size_t i = 0; i + 1 < tape.cuts.size(); ++i)
      rows = std::max(rows, time.begin(tape.cuts[i + 1]) - time.begin(tape.cuts[i]));
    const Index more = rows + time.batch;  // and what enters the step after it
    tape.gates = Buffer<T>(checked_mul(rows, kRowValues<Cell> * Hp));
    if (Cell::S > 1) {
      tape.states = Buffer<T>(checked_mul(tape.call.between ? rows : more, Hp));
      if (tape.segmented()) tape.saved = Buffer<T>(checked_mul((Index(tape.cuts.size()) - 1) * time.batch, Hp));
    }
    if (!tape.call.between) return;
    tape.operand = Buffer<T>(checked_mul(more, recurrent_));
    if (Traits<Cell>::kStaged) tape.scales = Buffer<T>(checked_mul(rows, kScales));
    if (Cell::S > 1) tape.entering_c = Buffer<T>(checked_mul(more, Hp));
    if (tape.call.between->dropout > 0) tape.entering_h = Buffer<T>(checked_mul(more, Hp));
    if (tape.call.between->mixes()) tape.left_h = Buffer<T>(checked_mul(rows, Hp));
  }

  std::shared_ptr<const W> current() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return weights_;
  }

  const Index input_, hidden_, recurrent_;
  mutable std::mutex mutex_;
  std::shared_ptr<const W> weights_;
};

namespace detail {

template <class T, class... Cells>
std::unique_ptr<Recurrence<T>> make(cells::List<Cells...>, const std::string& name, Index input, Index hidden,
                                    Index projection) {
  std::unique_ptr<Recurrence<T>> made;
  ((name == Cells::kName && (made = std::make_unique<CellRecurrence<Cells, T>>(input, hidden, projection))), ...);
  return made;
}

}  // namespace detail

template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden, Index projection) {
  return detail::make<T>(cells::All{}, name, input, hidden, projection);
}

}  // namespace bptt::sequence
