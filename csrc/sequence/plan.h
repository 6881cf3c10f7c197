// SPDX-License-Identifier: Apache-2.0
// How a call is spread over the cores (planner.h chooses).
#pragma once

#include <limits>

#include "core/memory/sizes.h"

namespace bptt::sequence {

enum class Split { kNone, kBatch, kHidden };

struct Plan {
  Split split = Split::kNone;
  int threads = 1;
  bool hoisted = false;    // input products of a whole chunk first, instead of with each step
  Index chunk = 1;         // time steps handled together
  double step_time_s = 0;  // estimated
  Index poll_rows = std::numeric_limits<Index>::max();  // of a step between two polls: some 20 ms of work
};

}  // namespace bptt::sequence
