// SPDX-License-Identifier: Apache-2.0
// Which plan a call gets: threads divide the rows of a batch, hidden units, or both. Rows need no barrier inside a time
// step, but each thread reads the weights of all its units. Units need a barrier per step, but each thread keeps its
// slice of the weights in its own cache. With both, a step's barrier is within a group, whose threads share a cache.
// Chosen by estimated time (docs/scaling.md); the result does not depend on the choice, only the time does.
#pragma once

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "core/gemm/blocks.h"
#include "core/threads/barrier.h"
#include "core/threads/share.h"
#include "sequence/batch_sizes.h"
#include "sequence/plan.h"

namespace bptt::sequence {

struct Shape {
  Index steps, batch, input, hidden;
  int gates;
  bool whole_rows = false;  // units are not divided
  Index heads = 1;
  bool backward = false;
};

namespace detail {

// Fitted to 105 shapes of RNN, GRU and LSTM (B 1 to 96, H 16 to 650) on one core, by rows and by units on two cores of
// an EPYC with AVX-512, float32, inference: the estimate is off by 10 % (rms), and the way chosen is on average 0.7 %
// slower than the best one, training included. For other machines only large differences were taken into account: reads
// of weights from memory 20 to 130 GB/s (Cascade Lake, EPYC), a barrier 0.06 to 0.33 us. Other levels differ by about
// the register width, which enters below, so that the choice stays the same.
constexpr double kL2Bytes = 1e6, kL2Rate = 140e9, kFarRate = 40e9;
// Weights beyond a last-level cache: what the memory gives all threads of one together. Assumed: 32 MiB, as of 8 cores.
constexpr double kCacheBytes = 24e6, kMemoryRate = 50e9;
constexpr double kActivation = 4.5e-9;  // a gate of one register
constexpr double kLatency = 10e-9;      // other costs of a step
// Of each round of a barrier (core/threads/barrier.h), of threads that share a last-level cache and of others.
constexpr double kNearRound = 0.3e-6, kFarRound = 0.6e-6;
constexpr double kNearExchange = 60e9, kFarExchange = 10e9;  // reads of what such threads wrote
// Rows are divided less evenly than units, and each thread reads more weights. Assumed; keeps units first where the two
// are as good, as in the fit.
constexpr double kByRows = 1.05;
constexpr double kWorthIt = 0.93;   // of the time of one thread: a worker may be late
constexpr double kLaunch = 1.2e-6;  // from the call of the pool to its return, less the work, each time threads double

inline int rounds_of(int threads) {
  int rounds = 0;
  while ((1 << rounds) < threads) ++rounds;
  return rounds;
}
/// Whether so many threads can share a last-level cache.
inline bool is_near(int threads) { return threads <= Core::per_cache().load(std::memory_order_relaxed); }
inline double barrier_time(int threads) { return rounds_of(threads) * (is_near(threads) ? kNearRound : kFarRound); }

/// Bytes per second at which each thread reads its slice of the weights of a step, `whole` of all units.
inline double read_rate(double slice, double whole, const Division& d) {
  if (slice < kL2Bytes) return kL2Rate;
  const int per_cache = Core::per_cache().load(std::memory_order_relaxed);
  const double cached = whole / double(ceil_div(d.members, per_cache));  // by each last-level cache
  return cached < kCacheBytes ? kFarRate : std::min(kFarRate, kMemoryRate / std::min(per_cache, d.threads()));
}

/// Of a step, and of a call, whose threads are divided so.
template <class T>
double step_time(const Shape& s, const Division& d) {
  constexpr int W = Vec<T>::kSize;
  const Index blocks = ceil_div(s.hidden, W), own = ceil_div(blocks, d.members);
  const double rows = double(ceil_div(s.batch, d.groups)) * (d.groups > 1 ? kByRows : 1), gates = s.gates;
  const double read = double(s.hidden / s.heads);
  const double unit = gates * (read + double(s.backward ? 0 : s.input));  // products for one, and its weights
  const double slice = double(own) * W * unit * sizeof(T), whole = double(blocks) * W * unit * sizeof(T);
  const double compute = 2 * rows * double(own) * W * unit / (kFlopsPerLane * W);
  double time = std::max(compute, slice / read_rate(slice, whole, d)) + rows * double(own) * gates * kActivation;
  time += kLatency;
  if (d.members > 1) {  // each reads what the others made in the step before: h, or the gradients of all gates
    const double made = rows * read * (s.backward ? gates : 1) * sizeof(T) * (1 - 1.0 / d.members);
    time += barrier_time(d.members) + made / (is_near(d.members) ? kNearExchange : kFarExchange);
  }
  if (!s.backward) return time;
  // The products of a chunk: dx, and the gradients of both weights.
  const double width = 2.0 * double(s.input) + read;
  time += 2 * double(s.batch) * double(s.hidden) * gates * width / (kFlopsPerLane * W * d.threads());
  if (d.groups > 1) time += barrier_time(d.threads()) * double(s.batch) / double(std::max(s.batch, kChunkRows));
  return time;
}
template <class T>
double call_time(const Shape& s, const Division& d) {
  return double(s.steps) * step_time<T>(s, d) + kLaunch * rounds_of(d.threads());
}

/// The division that takes the least time.
template <class T>
Division fastest(const Shape& s, int threads, int most_groups, int most_members) {
  Division best;
  double time = call_time<T>(s, best) * kWorthIt;
  if (threads == 1 || time < kLaunch) return best;
  for (int members = 1; members <= std::min(threads, most_members); ++members) {
    const Division d{std::min(threads / members, most_groups), members};
    if (d.threads() == 1) continue;
    const double t = call_time<T>(s, d);
    if (t < time) time = t, best = d;
  }
  return best;
}

}  // namespace detail

template <class T>
Plan make_plan(const Shape& s, int threads) {
  const int most_groups = int(std::clamp<Index>(RowBlocks(s.batch).count, 1, threads));
  const int most_members = s.whole_rows ? 1 : int(std::clamp<Index>(ceil_div(s.hidden, Vec<T>::kSize), 1, threads));
  Plan plan;
  const Division forced = forced_division.load(std::memory_order_relaxed);
  if (forced.groups > 0 && forced.threads() <= threads)
    plan.division = {std::min(forced.groups, most_groups), std::min(forced.members, most_members)};
  else
    plan.division = detail::fastest<T>(s, threads, most_groups, most_members);
  plan.chunk = std::max<Index>(1, kChunkRows / std::max<Index>(1, s.batch));
  // The products of a chunk need a pass through memory, which pays only while a step has few rows: hoisted against one
  // pass, LSTM, ms, in the prototype: B=1 H=512 16.6 / 33, B=8 H=128 1.61 / 1.60, B=32 H=128 8.8 / 7.6.
  plan.hoisted = s.batch < 8 && plan.division.groups == 1 && (s.steps > 1 || plan.division.members > 1);
  plan.step_time_s = detail::call_time<T>(s, plan.division) / double(std::max<Index>(1, s.steps));
  constexpr double kPoll = 20e-3;
  if (plan.step_time_s > kPoll) {
    const double rows = double(s.batch) / plan.division.groups;
    plan.poll_rows = std::max<Index>(kTileRows, Index(rows * kPoll / plan.step_time_s));
  }
  return plan;
}

/// Seconds of layers in parallel, `pieces` pieces of each (wavefront.h), from those of each on one thread: the work is
/// shared, but no layer is faster than alone, and the last one begins when the others have done a piece.
inline double parallel_time(const std::vector<double>& layers, int threads, Index pieces) {
  const double n = double(std::min<Index>(threads, Index(layers.size())));
  const double work = std::accumulate(layers.begin(), layers.end(), 0.0);
  const double longest = *std::max_element(layers.begin(), layers.end());
  return std::max(work / n, longest) * (1 + (n - 1) / double(pieces)) + detail::kLaunch;
}

/// The part of each step that one thread does: some rows, and some blocks of W hidden units.
struct Part {
  Index first, last;  // rows of the batch
  Share units;
  RowBlocks rows{0};  // of the active ones among them
  Team team;          // threads with the same rows

  /// Where there are fewer threads than planned, they divide only what the plan divides most.
  Part(const Plan& plan, const BatchSizes& batch_sizes, Index unit_blocks, int thread, int threads)
      : Part(threads == plan.division.threads() ? plan.division.members
             : plan.division.members > 1        ? threads
                                                : 1,
             batch_sizes, unit_blocks, thread, threads) {}

  /// The first `active` rows of the batch take part.
  void activate(Index active) {
    const Index n = std::max<Index>(0, std::min(last, active) - first);
    if (n != rows.total || first != rows.first) rows = RowBlocks(n, first);
  }

  /// The end of a step: until the threads with the same rows are there. False once the job has been called off.
  bool wait(Barrier& barrier, int thread) const {
    return team.size > 1 ? barrier.wait(thread, team) : !barrier.cancelled();
  }
  /// Until all rows are there, of whatever thread.
  bool wait_for_all(Barrier& barrier, int thread) const {
    return team.size < barrier.size() ? barrier.wait(thread) : !barrier.cancelled();
  }

 private:
  Part(int members, const BatchSizes& batch_sizes, Index unit_blocks, int thread, int threads)
      : first(0),
        last(batch_sizes.batch),
        units(unit_blocks, thread % members, members),
        team{thread - thread % members, members} {
    if (members < threads) std::tie(first, last) = rows_of(batch_sizes, thread / members, threads / members);
  }
};

/// f(rows) for at most `most` rows at a time, in order, until it is false.
template <class F>
BPTT_INLINE void for_poll_rows(const RowBlocks& rows, Index most, const F& f) {
  if (rows.total <= most) {
    f(rows);
    return;
  }
  const Index end = rows.first + rows.total;
  for (Index first = rows.first; first < end; first += most) {
    if (!f(RowBlocks(std::min(most, end - first), first))) return;
  }
}

}  // namespace bptt::sequence
