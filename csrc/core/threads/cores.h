// SPDX-License-Identifier: Apache-2.0
// The cores of this machine: how many this process may use, and on which one a thread runs.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace bptt {

/// Cores this process may use: its affinity mask, bounded by the cgroup's quota.
inline int available_cores() {
  int cores = std::max(1, int(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = std::max(1, CPU_COUNT(&set));
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::ifstream quota_v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period_v1("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if ((v2 >> quota >> period || (quota_v1 >> quota && period_v1 >> period)) && quota > 0 && period > 0) {
    cores = std::min(cores, std::max(1, int((quota + period - 1) / period)));
  }
#endif
  return cores;
}

/// BPTT_NUM_THREADS where it is a positive number, else the available cores.
inline int default_threads() {
  if (const char* text = std::getenv("BPTT_NUM_THREADS")) {
    const long n = std::strtol(text, nullptr, 10);
    if (n >= 1) return int(std::min(n, 256L));
  }
  return available_cores();
}

/// Which core a thread is on, and a way off it. Linux may keep two busy threads on one core for 0.1 s and more while
/// another is idle: LSTM B=20 T=30 H=300 on two threads that had begun on one core took 4.1 instead of 2.2 ms for so
/// long.
class Core {
 public:
#if defined(__linux__)
  static int here() { return sched_getcpu(); }

  /// Moves the calling thread away where it is on `taken`; the cores that it may use stay what they were.
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
