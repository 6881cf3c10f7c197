// SPDX-License-Identifier: Apache-2.0
// What follows from the time that a job would take one thread: how many threads it is worth, and which part of it lies
// between two polls. Callers estimate that time in nanoseconds, from rates measured on one core of an AMD EPYC with
// AVX2. An estimate that is off by a factor of two costs a job 20 us at most. Results never depend on it.
#pragma once

#include <algorithm>

#include "core/memory/sizes.h"
#include "core/threads/pool.h"

namespace bptt {

/// What it takes to wake a worker that sleeps. Jobs of independent halves, 0.3 ms after the job before, on two cores of
/// that machine: two threads take half of the job's time and 17 us (5th percentile) to 25 us (median) more, so that
/// they are faster from 40 us on: 20 us alone 20, on two threads 27 to 34; 40 us 37 to 45; 80 us 57 to 66. A worker
/// that still spins after its last job takes 0.8 us; whether it does is not known here.
constexpr double kWakeNs = 20e3;

/// Threads for a job that takes one thread `ns`: each has at least as much to do as it takes to wake it.
inline int threads_for(double ns) {
  return int(std::clamp(ns / kWakeNs, 1.0, double(Pool::size().load(std::memory_order_relaxed))));
}

/// Items of `ns` each that make a piece of about a millisecond.
inline Index grain_of(double ns) { return std::max<Index>(1, Index(1e6 / std::max(1.0, ns))); }

}  // namespace bptt
