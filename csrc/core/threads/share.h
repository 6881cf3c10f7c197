// SPDX-License-Identifier: Apache-2.0
// How the items of a job are divided among its threads.
#pragma once

#include "core/memory/sizes.h"

namespace bptt {

/// The part [begin, end) of n items that `thread` of `threads` does.
struct Share {
  Index begin, end;
  Share(Index begin, Index end) : begin(begin), end(end) {}
  Share(Index n, int thread, int threads) : begin(n * thread / threads), end(n * (thread + 1) / threads) {}
};

}  // namespace bptt
