// SPDX-License-Identifier: Apache-2.0
// One cell of one size, behind an interface that the bindings can call without knowing the cell: pack, forward, backward.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "cells/all.h"
#include "sequence/backward.h"
#include "sequence/forward.h"

namespace bptt::sequence {

template <class T>
class Recurrence {
 public:
  virtual ~Recurrence() = default;
  virtual int gates() const = 0;
  virtual int states() const = 0;
  virtual int vectors() const = 0;

  /// Weights as in weights.h; what was packed before stays with the tapes that use it.
  virtual void pack(const T* weight_ih, const T* weight_hh, const T* bias, const T* vectors, bool training) = 0;
  /// With `tape`, fills it for a backward pass. False when called off.
  virtual bool forward(const ForwardCall<T>& call, Tape<T>* tape, Poll::Interrupted interrupted) const = 0;
  virtual bool backward(Tape<T>& tape, const BackwardCall<T>& call, Poll::Interrupted interrupted) const = 0;
};

template <class Cell, class T>
class CellRecurrence final : public Recurrence<T> {
 public:
  CellRecurrence(Index input, Index hidden) : input_(input), hidden_(hidden) {}

  int gates() const override { return Cell::G; }
  int states() const override { return Cell::S; }
  int vectors() const override { return Cell::P; }

  void pack(const T* weight_ih, const T* weight_hh, const T* bias, const T* vectors, bool training) override {
    auto packed = std::make_shared<const W>(input_, hidden_, weight_ih, weight_hh, bias, vectors, training);
    std::lock_guard<std::mutex> lock(mutex_);
    weights_ = std::move(packed);
  }

  bool forward(const ForwardCall<T>& call, Tape<T>* tape, Poll::Interrupted interrupted) const override {
    const std::shared_ptr<const W> weights = current();
    if (tape) {
      const Index rows = checked_mul(call.steps, call.batch);
      tape->call = call;
      tape->gates = Buffer<T>(checked_mul(rows, kRowValues<Cell> * weights->Hp));
      if (Cell::S > 1) tape->states = Buffer<T>(checked_mul(checked_mul(call.steps + 1, call.batch), weights->Hp));
      tape->weights = weights;
    }
    return Forward<Cell, T>(*weights, call, tape, Pool::size()).run(interrupted);
  }

  bool backward(Tape<T>& tape, const BackwardCall<T>& call, Poll::Interrupted interrupted) const override {
    const W& weights = *static_cast<const W*>(tape.weights.get());
    return Backward<Cell, T>(weights, tape, call, Pool::size()).run(interrupted);
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

/// The cell called `name`; null where there is none.
template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden) {
  return detail::make<T>(cells::All{}, name, input, hidden);
}

}  // namespace bptt::sequence
