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

template <class T>
class Recurrence {
 public:
  virtual ~Recurrence() = default;
  virtual int gates() const = 0;
  virtual int states() const = 0;
  virtual int vectors() const = 0;

  /// How a call of this length and batch is spread over the threads there are.
  virtual Plan plan(Index steps, Index batch) const = 0;
  /// Weights as in weights.h; what was packed before stays with the tapes that use it.
  virtual void pack(const T* weight_ih, const T* weight_hh, const T* bias, const T* vectors, bool training) = 0;
  /// With `tape`, fills it for a backward pass. False when called off.
  virtual bool forward(const ForwardCall<T>& call, Tape<T>* tape, Poll::Interrupted interrupted) const = 0;
  virtual bool backward(Tape<T>& tape, const BackwardCall<T>& call, Poll::Interrupted interrupted) const = 0;
};

/// The cell called `name`; null where there is none.
template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden);

}  // namespace bptt::sequence
