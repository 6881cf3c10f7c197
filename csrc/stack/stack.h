// SPDX-License-Identifier: Apache-2.0
// A layer as its callers see it: layers x directions of one cell, behind an interface that depends neither on the cell
// nor on the instruction set. Each layer object makes one. layer_stack.h implements it.
//
//   n = L*D kernels, layer by layer, forward before reverse      states [n,B,R], then [n,B,H] each
//   x [T,B,I] or packed [rows,I] -> y [T,B,D*R] or [rows,D*R]
#pragma once

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/gemm/product_mode.h"
#include "core/threads/interrupt.h"
#include "sequence/flat.h"
#include "sequence/plan.h"
#include "stack/call_options.h"

namespace bptt::stack {

struct StackSizes {
  Index input, hidden;
  Index projection = 0;  // R of a cell that projects h
  Index layers = 1, directions = 1;
  bool bias = true;
  Index heads = 1;  // N: unit j of a head reads h of this head alone
  ProductMode mode = ProductMode::kFma;

  friend bool operator==(const StackSizes& a, const StackSizes& b) {
    return std::tie(a.input, a.hidden, a.projection, a.layers, a.directions, a.bias, a.heads, a.mode) ==
           std::tie(b.input, b.hidden, b.projection, b.layers, b.directions, b.bias, b.heads, b.mode);
  }
};

/// A parameter [rows,columns]; no rows: the kernel has no such parameter.
struct ParameterShape {
  Index rows = 0, columns = 1;
  bool is_vector = false;  // [rows]
  Index size() const { return checked_mul(rows, columns); }
};

/// The parameters of one kernel, in the order in which a flat buffer has them, one after the other.
struct KernelParameters {
  ParameterShape weight_ih, weight_hh, bias, vectors, projection;  // [G*H,I], [G*H,R/N], [G*H], [P,H], [R,H]

  std::array<ParameterShape, 5> all() const { return {weight_ih, weight_hh, bias, vectors, projection}; }
  Index size() const {
    Index n = 0;
    for (const ParameterShape& each : all()) n += each.size();
    return n;
  }
  /// Where they lie in a flat buffer.
  template <class U>
  sequence::Flat<U> at(U* flat) const {
    const auto take = [&](const ParameterShape& shape) -> U* {
      return shape.rows == 0 ? nullptr : std::exchange(flat, flat + shape.size());
    };
    const sequence::Flat<U> parts{take(weight_ih), take(weight_hh), take(bias), take(vectors), take(projection)};
    return parts;
  }
};

/// What one direction of a call is asked for, and the arrays that belong to it.
template <class T>
struct DirectionOptions {
  const CallOptions* options;
  const bool* resets = nullptr;           // of the caller's rows, [T,B] or [rows]; null: nowhere
  const T* reset_state[kMaxStates] = {};  // [R], then [H] each; null: zeros
};

/// The arrays must outlive the call, x, initial and y also the tape.
template <class T>
struct StackForward {
  OuterShape outer;
  const T* x;
  const T* initial[kMaxStates];
  T* y;
  T* final[kMaxStates];
  std::vector<DirectionOptions<T>> options;  // one for each kernel; empty: no options
  bool keep_weights = true;                  // false: backward gets the weights again, those of a short call
};

/// A gradient whose pointer is null is not wanted, and not computed; those of the parameters are wanted together.
template <class T>
struct StackBackward {
  const T* dy;  // null: zeros
  const T* dfinal[kMaxStates];
  T* dx;
  T* dinitial[kMaxStates];
  std::vector<sequence::Flat<T>> d;  // of the parameters, for each kernel; empty: not wanted
  // For each kernel, [R], then [H] each; empty: not wanted.
  std::vector<std::array<T*, kMaxStates>> dreset_state;
  // For each kernel, of the states as they leave each step (dy included): rows [.,R], then [.,H] each; empty: not
  // wanted.
  std::vector<std::array<T*, kMaxStates>> dsteps;
  bool accumulate = false;  // add to `d` instead of overwriting it
  bool retain = false;      // the tape will serve another backward pass
  // Those of the forward call, of each kernel, at any address; read where its tape keeps none.
  std::vector<sequence::Flat<const T>> weights = {};
};

/// What a forward call leaves for backward.
template <class T>
class StackTape {
 public:
  virtual ~StackTape() = default;
  virtual const OuterShape& outer() const = 0;
  virtual std::size_t kernels() const = 0;
  /// Whether it reads the caller's y again.
  virtual bool reads_y() const = 0;
  /// Whether it has checkpoints, and so no values of single steps.
  virtual bool segmented() const = 0;
  /// Whether it has the weights that backward needs; else backward gets them again.
  virtual bool keeps_weights() const = 0;
  virtual Index bytes() const = 0;
  /// H, the width of what a cell keeps.
  virtual Index hidden() const = 0;
  /// The i-th value that a cell keeps of each row and unit, or (-i, i > 0) state i as it leaves the cell, h being state
  /// 0; [T,B,H] or [rows,H]. False: there is none.
  virtual bool copy_kept(std::size_t kernel, int i, T* to) const = 0;
};

/// A stack of one direction, step by step, for a fixed number of rows: without an allocation. It has the weights that
/// were packed last when it was made.
template <class T>
class StackStream {
 public:
  virtual ~StackStream() = default;
  /// x [B,I] -> y [B,R], which x may be.
  virtual void step(const T* x, T* y) = 0;
  /// x [steps,B,I] -> y [steps,B,R]. False when called off: the layers are then at different steps.
  virtual bool chunk(const T* x, T* y, Index steps, Poll& poll) = 0;
  virtual void get_state(T* const* states) const = 0;
  virtual void set_state(const T* const* states) = 0;
  /// The weights of a layer as they were packed.
  virtual void get_weights(Index layer, const sequence::Flat<T>& to) const = 0;
};

template <class T>
class Stack {
 public:
  virtual ~Stack() = default;

  virtual const std::string& cell() const = 0;
  virtual const StackSizes& sizes() const = 0;
  /// By which arithmetic products are made; kFma also where the cell or T has no other.
  virtual ProductMode mode() const = 0;
  virtual int states() const = 0;
  /// Width of state i, of one direction.
  virtual Index width(int state) const = 0;
  virtual KernelParameters parameters(Index kernel) const = 0;
  Index kernels() const { return sizes().layers * sizes().directions; }

  /// How a call of the first kernel is spread over the cores.
  virtual sequence::Plan plan(Index steps, Index batch, bool backward) const = 0;
  /// Whether the layers of a call run in parallel; `options` as in memory().
  virtual bool runs_in_parallel(const OuterShape& outer, const std::vector<const CallOptions*>& options,
                                bool training) const = 0;
  /// Bytes that a call holds at its peak, without x, y, the parameters and the gradients of these three. `options`: one
  /// for each kernel; empty: no options.
  virtual Index memory(const OuterShape& outer, const std::vector<const CallOptions*>& options,
                       bool training) const = 0;

  /// Takes weights at any address, of all kernels; `training` adds the layout of backward. What was packed before stays
  /// with the tapes and streams that use it. False when called off.
  virtual bool pack(const std::vector<sequence::Flat<const T>>& weights, bool training,
                    Poll::Interrupted interrupted) = 0;
  virtual bool packed() const = 0;

  /// With `tape`, makes one for backward. False when called off.
  virtual bool forward(const StackForward<T>& call, std::unique_ptr<StackTape<T>>* tape,
                       Poll::Interrupted interrupted) const = 0;
  /// Whether a call without options needs no packed weights: a short one, of one kernel.
  virtual bool is_short(const OuterShape& outer) const = 0;
  /// Such a call, on weights at any address; the stack keeps nothing of them, the tape what backward needs, unless the
  /// call says that backward gets them again.
  virtual bool forward(const sequence::Flat<const T>& weights, const StackForward<T>& call,
                       std::unique_ptr<StackTape<T>>* tape, Poll::Interrupted interrupted) const = 0;
  /// `tape` is of this stack's forward. It is used up, unless the call retains it.
  virtual bool backward(StackTape<T>& tape, const StackBackward<T>& call, Poll::Interrupted interrupted) const = 0;
  /// Of `options`, zoneout and clipping.
  virtual std::unique_ptr<StackStream<T>> stream(Index batch, const CallOptions& options) const = 0;
};

/// A stack of the cell called `cell`; null where there is none.
template <class T>
std::unique_ptr<Stack<T>> make_stack(const std::string& cell, const StackSizes& sizes);

}  // namespace bptt::stack
