// SPDX-License-Identifier: Apache-2.0
// One cell of one size, behind an interface that the bindings can call without knowing the cell: pack, forward,
// backward.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "core/threads.h"
#include "sequence/plan.h"
#include "sequence/tape.h"

namespace bptt::sequence {

/// Rows that go on step by step, each from its own state, zeros at first.
template <class T>
class Stream {
 public:
  virtual ~Stream() = default;
  /// x [B,I] -> y [B,H].
  virtual void step(const T* x, T* y) = 0;
  /// h, and what else the cell has: [B,H] each.
  virtual void get_state(T* const* states) const = 0;
  virtual void set_state(const T* const* states) = 0;
};

template <class T>
class Recurrence {
 public:
  virtual ~Recurrence() = default;
  virtual int gates() const = 0;
  virtual int states() const = 0;
  virtual int vectors() const = 0;
  virtual bool vectors_are_bias() const = 0;  // and absent in a layer without bias

  /// How a call of this length and batch is spread over the threads there are.
  virtual Plan plan(Index steps, Index batch) const = 0;
  /// Weights as in weights.h; what was packed before stays with the tapes that use it.
  virtual void pack(const T* weight_ih, const T* weight_hh, const T* bias, const T* vectors, bool training) = 0;
  /// With `tape`, fills it for a backward pass. False when called off.
  virtual bool forward(const ForwardCall<T>& call, Tape<T>* tape, Poll::Interrupted interrupted) const = 0;
  /// With the weights packed last.
  virtual std::unique_ptr<Stream<T>> stream(Index batch) const = 0;
  virtual bool backward(Tape<T>& tape, const BackwardCall<T>& call, Poll::Interrupted interrupted) const = 0;
};

/// The cell called `name`; null where there is none.
template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden);

}  // namespace bptt::sequence
