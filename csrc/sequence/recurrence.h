// SPDX-License-Identifier: Apache-2.0
// One cell of one size, behind an interface that the stack can call without knowing the cell: pack, forward,
// backward.
#pragma once

#include <memory>
#include <string>

#include "core/gemm/product_mode.h"
#include "core/threads/interrupt.h"
#include "sequence/plan.h"
#include "sequence/tape.h"

namespace bptt::sequence {

/// Rows that run step by step, each from its state, zeros at first.
template <class T>
class Stream {
 public:
  virtual ~Stream() = default;
  /// x [B,I] -> h [B,R], which stays until the next step.
  virtual const T* step(const T* x) = 0;
  /// The values that were packed, to where `to` points.
  virtual void get_weights(const Flat<T>& to) const = 0;
  /// h [B,R], and what else the cell has, [B,H] each.
  virtual void get_state(T* const* states) const = 0;
  virtual void set_state(const T* const* states) = 0;
};

/// A call that runs piece by piece, each piece on any thread (wavefront.h).
class ResumableCall {
 public:
  virtual ~ResumableCall() = default;
  /// Steps [begin, end): forward from where the last piece ended, backward to where it began. False when called off.
  virtual bool advance(Index begin, Index end) = 0;
  /// After a piece, the work that no other layer waits for; after the last one, the rest.
  virtual void settle(bool last) = 0;
};

template <class T>
class Recurrence {
 public:
  virtual ~Recurrence() = default;
  virtual int gates() const = 0;
  virtual int states() const = 0;
  virtual int vectors() const = 0;            // per unit, the bias of a cell that holds it there not counted
  virtual bool vectors_are_bias() const = 0;  // and absent in a layer without bias
  virtual bool projects() const = 0;
  virtual Index heads() const = 0;  // 1 for a cell without
  /// By which arithmetic products are made: the one that was asked for, or kFma where the cell or T has no other.
  virtual ProductMode mode() const = 0;
  /// Width of state i; 0 is h.
  virtual Index width(int state) const = 0;

  /// How a call of this length and batch, or its way back, is divided between that many threads.
  virtual Plan plan(Index steps, Index batch, int threads, bool backward) const = 0;
  /// The weights in the kernels' layout (weights.h); null when cancelled. Whoever calls the kernel keeps them.
  virtual PackedWeights<T> pack(const Flat<const T>& weights, bool training, Poll::Interrupted interrupted) const = 0;
  /// With `tape`, fills it for a backward pass; in segments of about `segment` steps where that is not 0. False when
  /// called off.
  virtual bool forward(PackedWeights<T> weights, const ForwardCall<T>& call, Tape<T>* tape, Index segment, int threads,
                       Poll::Interrupted interrupted) const = 0;
  /// Whether a call without options is better made on weights where users hold them (short_call.h).
  virtual bool is_short(Index steps, Index batch, int threads) const = 0;
  /// Such a call, on one thread. The tape keeps what backward needs of the weights.
  virtual bool forward(const Flat<const T>& weights, const ForwardCall<T>& call, Tape<T>* tape,
                       Poll::Interrupted interrupted) const = 0;
  virtual bool backward(Tape<T>& tape, const BackwardCall<T>& call, int threads,
                        Poll::Interrupted interrupted) const = 0;
  /// The same on one thread at a time, in pieces, without segments; what `call` points to must outlive the run.
  virtual std::unique_ptr<ResumableCall> start(PackedWeights<T> weights, const ForwardCall<T>& call, Tape<T>* tape,
                                               Poll::Interrupted interrupted) const = 0;
  virtual std::unique_ptr<ResumableCall> start(Tape<T>& tape, const BackwardCall<T>& call,
                                               Poll::Interrupted interrupted) const = 0;
  /// `options` may ask for zoneout and clipping; null: for neither.
  virtual std::unique_ptr<Stream<T>> stream(PackedWeights<T> weights, Index batch,
                                            const StateOptions<T>* options) const = 0;
};

/// The cell called `name`; null where there is none. projection: R of a cell that projects; heads: N of a cell that has
/// some, a divisor of `hidden`.
template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden, Index projection,
                                               Index heads, ProductMode mode);

}  // namespace bptt::sequence
