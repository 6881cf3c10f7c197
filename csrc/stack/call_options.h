// SPDX-License-Identifier: Apache-2.0
// What a call asks of one direction of a layer besides x and a state: rows of different lengths or read backward,
// masks, clipping, segments. Plain values; arrays come with the call (DirectionArrays).
#pragma once

#include <array>
#include <limits>
#include <memory>

#include "sequence/sequence_order.h"
#include "sequence/tape.h"

namespace bptt::stack {

using sequence::kMaxStates;

struct CallOptions {
  std::shared_ptr<const sequence::SequenceOrder> order;  // null: all steps, forward
  std::array<double, 2> zoneout{};                       // of h, of every other state
  double dropout = 0;                                    // recurrent
  double clip = std::numeric_limits<double>::infinity(), clip_gradient = std::numeric_limits<double>::infinity();
  std::uint64_t seed = 0;
  double input_dropout = 0;  // of x
  std::uint64_t input_seed = 0;
  Index segment = 0;  // steps between checkpoints, 0 without

  /// Whether anything happens to states between steps.
  bool needs_transition(bool training, bool resets) const {
    const double most = std::numeric_limits<double>::infinity();
    return (order && order->batch_sizes().offset) || resets || zoneout[0] > 0 || zoneout[1] > 0 ||
           (training && dropout > 0) || clip < most || (training && clip_gradient < most);
  }

  /// The form that the loops take, less what points into arrays of a call.
  template <class T>
  sequence::StateOptions<T> state_options(bool training) const {
    sequence::StateOptions<T> options;
    std::copy_n(zoneout.data(), zoneout.size(), options.zoneout);
    options.dropout = training ? dropout : 0;
    options.clip = T(clip);
    options.clip_gradient = T(clip_gradient);
    options.training = training;
    options.random = Philox(seed);
    return options;
  }
};

/// How the arrays of a call look to the caller: [steps,batch,.], or [rows,.] of packed rows.
struct OuterShape {
  Index steps, batch, rows;
  bool packed;

  static OuterShape of(Index steps, Index batch) { return {steps, batch, checked_mul(steps, batch), false}; }
  static OuterShape of(const sequence::SequenceOrder& order) {
    return {order.outer_steps(), order.batch(), order.outer_rows(), order.is_packed()};
  }
  friend bool operator==(const OuterShape& a, const OuterShape& b) {
    return a.steps == b.steps && a.batch == b.batch && a.rows == b.rows && a.packed == b.packed;
  }
};

/// The arrays of one direction that every call reads or writes.
template <class T>
struct DirectionArrays {
  const T* initial[kMaxStates] = {};      // [B,R], then [B,H] each
  T* final[kMaxStates] = {};              // the same
  const bool* resets = nullptr;           // of the caller's rows, [T,B] or [rows]; null: nowhere
  const T* reset_state[kMaxStates] = {};  // [R], then [H] each; null: zeros
};

}  // namespace bptt::stack
