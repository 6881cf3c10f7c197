// SPDX-License-Identifier: Apache-2.0
// The core on which a thread runs.
#pragma once

#if defined(__linux__)
#include <sched.h>

#include <cstddef>
#endif

#include <atomic>
#include <thread>

namespace bptt {

/// The core of a thread, and a move to another one. Linux may keep two busy threads on one core for 0.1 s and more
/// while another is idle: LSTM B=20 T=30 H=300 on two threads that had begun on one core took 4.1 instead of 2.2 ms for
/// so long.
class Core {
 public:
  /// Those that share a last-level cache, as far as python/bptt/_threads.py knows.
  static std::atomic<int>& per_cache() { return per_cache_; }

  /// Those that this process might use when it asked for the first time.
  static int count() {
    static const int n = available();
    return n;
  }

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

 private:
  static int available() {
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : hardware();
  }
#else
  static int here() { return -1; }
  static void leave(int) {}

 private:
  static int available() { return hardware(); }
#endif
  static inline std::atomic<int> per_cache_{8};
  static int hardware() { return int(std::thread::hardware_concurrency()); }
};

}  // namespace bptt
