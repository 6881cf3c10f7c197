// SPDX-License-Identifier: Apache-2.0
// How a call is spread over the cores (planner.h chooses).
#pragma once

#include <atomic>
#include <limits>

#include "core/memory/sizes.h"

namespace bptt::sequence {

/// Threads = groups x members: the rows of a batch are divided among groups, the hidden units among the members of
/// each.
struct Division {
  int groups = 1, members = 1;
  int threads() const { return groups * members; }
};

struct Plan {
  Division division;
  bool hoisted = false;    // input products of a whole chunk first, instead of with each step
  Index chunk = 1;         // time steps handled together
  double step_time_s = 0;  // estimated
  Index poll_rows = std::numeric_limits<Index>::max();  // of a step between two polls: some 20 ms of work
};

/// For tests and benchmarks: the division of every call that may use so many threads, as far as its shape allows it.
/// One atomic, so that no call sees half of it; no groups: the planner chooses.
inline std::atomic<Division> forced_division{Division{0, 0}};

}  // namespace bptt::sequence
