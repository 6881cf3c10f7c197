// SPDX-License-Identifier: Apache-2.0
// How the items of a job are divided among its threads.
#pragma once

#include <cassert>

#include "core/memory/sizes.h"

namespace bptt {

/// The part [begin, end) of n items that `thread` of `threads` does.
struct Share {
  Index begin, end;
  Share(Index begin, Index end) : begin(begin), end(end) { assert(0 <= begin && begin <= end); }
  Share(Index n, int thread, int threads) : Share(n * thread / threads, n * (thread + 1) / threads) {
    assert(0 <= thread && thread < threads);
  }
};

}  // namespace bptt
