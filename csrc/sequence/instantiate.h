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
  CellRecurrence(Index input, Index hidden) : input_(input), hidden_(hidden) {}

  int gates() const override { return Cell::G; }
  int states() const override { return Cell::S; }
  int vectors() const override { return Cell::P; }
  bool vectors_are_bias() const override { return Cell::kVectorsAreBias; }
  Plan plan(Index steps, Index batch) const override {
    return make_plan<T>({steps, batch, input_, hidden_, Cell::G}, Pool::size());
  }

  void pack(const T* weight_ih, const T* weight_hh, const T* bias, const T* vectors, bool training) override {
    auto packed = std::make_shared<const W>(input_, hidden_, weight_ih, weight_hh, bias, vectors, training);
    std::lock_guard<std::mutex> lock(mutex_);
    weights_ = std::move(packed);
  }

  bool forward(const ForwardCall<T>& call, Tape<T>* tape, Poll::Interrupted interrupted) const override {
    const std::shared_ptr<const W> weights = current();
    if (tape) {
      if (!weights->trainable())
        throw std::logic_error("Recurrence.forward: the weights were packed for inference only");
      const Index rows = checked_mul(call.steps, call.batch);
      tape->call = call;
      tape->gates = Buffer<T>(checked_mul(rows, kRowValues<Cell> * weights->Hp));
      if (Cell::S > 1) tape->states = Buffer<T>(checked_mul(checked_mul(call.steps + 1, call.batch), weights->Hp));
      tape->weights = weights;
    }
    return Forward<Cell, T>(*weights, call, tape, plan(call.steps, call.batch)).run(interrupted);
  }

  std::unique_ptr<Stream<T>> stream(Index batch) const override {
    return std::make_unique<CellStream<Cell, T>>(current(), batch);
  }

  bool backward(Tape<T>& tape, const BackwardCall<T>& call, Poll::Interrupted interrupted) const override {
    const W& weights = *static_cast<const W*>(tape.weights.get());
    return Backward<Cell, T>(weights, tape, call, plan(tape.call.steps, tape.call.batch)).run(interrupted);
  }

 private:
  using W = Weights<Cell, T>;

  std::shared_ptr<const W> current() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return weights_;
  }

  const Index input_, hidden_;
  mutable std::mutex mutex_;
  std::shared_ptr<const W> weights_;
};

namespace detail {

template <class T, class... Cells>
std::unique_ptr<Recurrence<T>> make(cells::List<Cells...>, const std::string& name, Index input, Index hidden) {
  std::unique_ptr<Recurrence<T>> made;
  ((name == Cells::kName && (made = std::make_unique<CellRecurrence<Cells, T>>(input, hidden))), ...);
  return made;
}

}  // namespace detail

template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden) {
  return detail::make<T>(cells::All{}, name, input, hidden);
}

}  // namespace bptt::sequence
