// SPDX-License-Identifier: Apache-2.0
// Loops over many independent items on all threads, which an interrupt ends.
#pragma once

#include <algorithm>

#include "core/threads/interrupt.h"
#include "core/threads/pool.h"
#include "core/threads/share.h"
#include "core/threads/work.h"

namespace bptt {

/// f(thread, begin, end) over [0, n): each thread takes its share in pieces of `piece` items. The caller's thread polls
/// after each of its pieces. False where the loop was called off.
template <class F>
bool parallel_for(Index n, Index piece, int threads, Poll& poll, const F& f) {
  bool complete = true;
  Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
    const Share share(n, thread, barrier.size());
    for (Index begin = share.begin; begin < share.end && !barrier.cancelled(); begin += piece) {
      f(thread, begin, std::min(share.end, begin + piece));
      if (thread == 0 && poll()) barrier.cancel();
    }
    if (thread == 0) complete = !barrier.cancelled();
  });
  return complete;
}

}  // namespace bptt
