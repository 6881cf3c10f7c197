// SPDX-License-Identifier: Apache-2.0
// The core on which a thread runs.
#pragma once

#if defined(__linux__)
#include <sched.h>

#include <cstddef>
#endif

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace bptt {

/// The core of a thread, and a move to another one. Linux may keep two busy threads on one core for 0.1 s and more
/// while another is idle: LSTM B=20 T=30 H=300 on two threads that had begun on one core took 4.1 instead of 2.2 ms for
/// so long.
class Core {
 public:
  /// Those that share a last-level cache.
  static std::atomic<int>& per_cache() { return per_cache_; }

  /// The processors in the order in which neighbouring threads should have them (python/bptt/_topology.py knows).
  static void set_order(const std::vector<int>& processors) {
    order_.store(new std::vector<int>(processors), std::memory_order_release);  // never freed: threads may be reading
  }

  /// Those that this process might use when it asked for the first time.
  static int count() {
    static const int n = available();
    return n;
  }

#if defined(__linux__)
  static int here() { return sched_getcpu(); }

  /// Moves a new thread to the processor that is `place` further than the caller's. The system leaves it there as long
  /// as that processor is not busy; its set of allowed ones stays the same.
  static void enter(int place, int caller) {
    const std::vector<int>* order = order_.load(std::memory_order_acquire);
    if (!order || place >= int(order->size())) return;
    const auto at = std::find(order->begin(), order->end(), caller);
    if (at == order->end()) return;
    const int core = (*order)[std::size_t((at - order->begin()) + place) % order->size()];
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    CPU_SET(std::size_t(core), &one);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || !CPU_ISSET(std::size_t(core), &allowed)) return;
    if (sched_setaffinity(0, sizeof one, &one) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
  }

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
  static void enter(int, int) {}
  static void leave(int) {}

 private:
  static int available() { return hardware(); }
#endif
  static inline std::atomic<int> per_cache_{8};
  static inline std::atomic<const std::vector<int>*> order_{nullptr};
  static int hardware() { return int(std::thread::hardware_concurrency()); }
};

}  // namespace bptt
