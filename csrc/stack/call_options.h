// SPDX-License-Identifier: Apache-2.0
// The options of one direction of a layer in one call: rows of different lengths or read backward,
// masks, clipping, segments. Plain values; arrays come with the call (DirectionOptions).
#pragma once

#include <memory>

#include "sequence/flat.h"
#include "sequence/sequence_order.h"
#include "sequence/state_rules.h"

namespace bptt::stack {

using sequence::kMaxStates;

struct CallOptions {
  std::shared_ptr<const sequence::SequenceOrder> order;  // null: all steps, forward
  sequence::StateRules rules;
  double input_dropout = 0;  // of x
  std::uint64_t input_seed = 0;
  Index segment = 0;  // steps between checkpoints, 0 without

  /// Whether anything happens to states between steps.
  bool needs_transition(bool training, bool resets) const {
    return (order && order->batch_sizes().offset) || resets || rules.mixes() ||
           (training && (rules.dropout > 0 || rules.clips_gradient()));
  }
};

/// Those of a call that asks for nothing.
inline const CallOptions& no_options() {
  static const CallOptions kNone;
  return kNone;
}

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

}  // namespace bptt::stack
