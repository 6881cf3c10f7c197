// SPDX-License-Identifier: Apache-2.0
// The values that a forward pass keeps for one backward pass, and the arrays of a caller for both. Memory only: no
// equation and no loop over time.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <memory>
#include <vector>

#include "core/memory/arena.h"
#include "core/memory/rows.h"
#include "core/random/philox.h"
#include "sequence/batch_sizes.h"
#include "sequence/flat.h"
#include "sequence/state_rules.h"

namespace bptt::sequence {

constexpr int kScales = 4;  // most groups that a row normalises

/// The rules of a call, and the arrays that belong to them.
template <class T>
struct StateOptions {
  StateRules rules;
  bool training = false;
  Philox random{};                        // of rules.seed
  const T* keep = nullptr;                // [rows of all steps], 0 where a row is reset before the step; null: nowhere
  const T* reset_state[kMaxStates] = {};  // [R], then [H] each, what it begins with; null: zeros
  const Index* ids = nullptr;             // [B] the numbers by which rows draw; null: their own

  StateOptions() = default;
  StateOptions(const StateRules& asked, bool training) : rules(asked), training(training), random(asked.seed) {
    if (!training) rules.dropout = 0;
  }
  Index id(Index row) const { return ids ? ids[row] : row; }
};

/// Arrays over rows are packed as the batch sizes say: [T,B,.] where all rows have all steps. R is the width of h: H,
/// or less where it is projected; every other state is H wide.
template <class T>
struct ForwardCall {
  BatchSizes batch_sizes;
  const T* x;                                // [rows,I]
  const T* initial[kMaxStates];              // [B,R], then [B,H] each
  T* y;                                      // [rows,R]
  T* final[kMaxStates];                      // as initial
  const StateOptions<T>* options = nullptr;  // null: states are handed on, and all rows have all steps
  std::atomic<bool>* stop = nullptr;         // shared by calls that run in parallel: the first one that stops stops all
  bool keep_weights = true;                  // false: backward gets them again, those of a short call (short_call.h)
};

/// A gradient whose pointer is null is not wanted, and not computed; those of the parameters are wanted together.
template <class T>
struct BackwardCall {
  const T* dy;                        // [rows,R]; null: zeros
  const T* dfinal[kMaxStates];        // [B,R], then [B,H] each
  T* dx;                              // [rows,I]
  T* dinitial[kMaxStates];            // as dfinal
  Flat<T> d;                          // the gradients of the parameters
  std::atomic<bool>* stop = nullptr;  // as in ForwardCall
  T* dreset_state[kMaxStates] = {};   // [R], then [H] each
  T* dsteps[kMaxStates] = {};         // of the states as they leave each step: [rows,R], then [rows,H] each
  Flat<const T> weights = {};         // those of the forward pass, where its tape keeps none
};

/// Every state but h: the rows of one state, then those of the next, `next` values further.
template <class U>
struct OtherStates {
  U* data = nullptr;
  Index next = 0;

  /// The rows of state i, i > 0.
  U* of(int i) const { return data + (i - 1) * next; }
};

template <class T>
struct Weights;
/// Packed once and shared by the calls, tapes and streams that use them.
template <class T>
using PackedWeights = std::shared_ptr<const Weights<T>>;

/// Rows are padded to Hp = whole registers. One buffer serves as pre-activations, then kept values, then gradients of
/// the pre-activations; that is why a tape is used once. A tape of several segments holds the steps of one at a time,
/// which are computed again on the way back.
template <class T>
struct Tape {
  ForwardCall<T> call;      // its arrays must outlive the tape; one in segments writes y once more, the same bits
  std::vector<Index> cuts;  // steps at which segments begin, and the end
  Index first = 0;          // the step with which the buffers begin
  Buffer<T> gates;          // [rows,max(K,A),Hp]
  // Every state but h. Handed on: [S-1,rows + B,Hp], as it enters each step and leaves the last. With StateOptions: as
  // it leaves the cell, [S-1,rows,Hp].
  Buffer<T> others;
  // With StateOptions, as they enter: h of the product [rows + B,R], h of the cell where that differs [rows + B,Hp],
  // and every other state [S-1,rows + B,Hp].
  Buffer<T> operand, entering_h, entering_others;
  Buffer<T> left_h;          // h as it leaves the cell [rows,Hp], where that is not y
  Buffer<T> scales;          // [rows,kScales] of cells that normalise
  Buffer<T> saved;           // every state but h entering each segment [segments,S-1,B,Hp]
  Buffer<T> dropout;         // d of recurrent dropout [B,Hp], where there is some
  PackedWeights<T> weights;  // those of the forward pass, even if others were packed since

  Index gates_width = 0, Hp = 0;  // of a row of gates and of states
  int named = 0;                  // values kept of each row and unit that have a name
  int S = 1;                      // states

  bool segmented() const { return cuts.size() > 2; }
  /// Until backward: the i-th value that the cell keeps of each row, or (-i) its state i as it leaves the cell, i > 0.
  StridedRows<const T> kept(int i) const {
    if (i >= 0) return {gates.data() + i * Hp, gates_width};
    return {rows_of(others).of(-i) + (call.options ? 0 : call.batch_sizes.batch * Hp), Hp};
  }
  /// The states that a buffer of every state but h has.
  OtherStates<T> rows_of(Buffer<T>& buffer) const { return {buffer.data(), buffer.size() / std::max(1, S - 1)}; }
  OtherStates<const T> rows_of(const Buffer<T>& buffer) const {
    return {buffer.data(), buffer.size() / std::max(1, S - 1)};
  }
  /// The row of the buffers where step t begins.
  Index row(Index t) const {
    assert(first <= t && t <= call.batch_sizes.steps);
    return call.batch_sizes.begin(t) - call.batch_sizes.begin(first);
  }
  /// Its memory, once it has been used.
  void release() {
    for (Buffer<T>* b : buffers()) b->reset();
  }
  Index bytes() const {
    Index values = 0;
    for (const Buffer<T>* b : const_cast<Tape&>(*this).buffers()) values += b->size();
    return values * Index(sizeof(T));
  }

 private:
  std::array<Buffer<T>*, 9> buffers() {
    return {&gates, &others, &operand, &entering_h, &entering_others, &left_h, &scales, &saved, &dropout};
  }
};

}  // namespace bptt::sequence
