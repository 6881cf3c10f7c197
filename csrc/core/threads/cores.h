// SPDX-License-Identifier: Apache-2.0
// The core on which a thread runs.
#pragma once

#if defined(__linux__)
#include <sched.h>

#include <cstddef>
#endif

namespace bptt {

/// The core of a thread, and a move to another one. Linux may keep two busy threads on one core for 0.1 s and more
/// while another is idle: LSTM B=20 T=30 H=300 on two threads that had begun on one core took 4.1 instead of 2.2 ms for
/// so long.
class Core {
 public:
#if defined(__linux__)
  static int here() { return sched_getcpu(); }

  /// Moves the calling thread away if it is on `taken`; its set of allowed cores stays the same.
  static void leave(int taken) {
    cpu_set_t allowed, others;
    if (here() != taken || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(std::size_t(taken), &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
  }
#else
  static int here() { return -1; }
  static void leave(int) {}
#endif
};

}  // namespace bptt
