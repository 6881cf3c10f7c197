// SPDX-License-Identifier: Apache-2.0
// Which plan a call gets, of three ways: one core; the batch split (no barrier inside a time step, each core
// reads all weights); the hidden units split (a barrier per step, each core keeps its slice of the weights in its own
// cache). Chosen by estimated time; the result does not depend on the choice, only the time does.
#pragma once

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "core/gemm/blocks.h"
#include "core/threads/share.h"
#include "sequence/batch_sizes.h"
#include "sequence/plan.h"

namespace bptt::sequence {

struct Shape {
  Index steps, batch, input, hidden;
  int gates;
  bool whole_rows = false;  // units are not divided
  Index heads = 1;
};

namespace detail {

// Fitted to 105 shapes of RNN, GRU and LSTM (B 1 to 96, H 16 to 650) in each of the three ways on two cores of an EPYC
// with AVX-512, float32, inference: the estimate is off by 10 % (rms), and the way chosen is on average 0.7 % slower
// than the best one, training included. For other machines only large differences were taken into account: reads of
// weights from memory 20 to 130 GB/s (Cascade Lake, EPYC), a barrier 0.06 to 0.33 us. Other levels differ by about the
// register width, which enters below, so that the choice stays the same.
constexpr double kL2Bytes = 1e6, kL2Rate = 140e9, kFarRate = 40e9;
constexpr double kActivation = 4.5e-9;  // a gate of one register
constexpr double kLatency = 10e-9;      // other costs of a step
constexpr double kBarrier = 0.2e-6;
constexpr double kLaunch = 1.2e-6;  // from the call of the pool to its return, less the work

template <class T>
double step_time(const Shape& s, Index rows, Index blocks) {
  constexpr int W = Vec<T>::kSize;
  const double lanes = double(blocks) * W, depth = double(s.hidden / s.heads + s.input), gates = s.gates;
  const double bytes = lanes * gates * depth * sizeof(T);
  const double compute = 2 * double(rows) * lanes * gates * depth / (kFlopsPerLane * W);
  const double weights = bytes / (bytes < kL2Bytes ? kL2Rate : kFarRate);
  return std::max(compute, weights) + double(rows) * double(blocks) * gates * kActivation + kLatency;
}

}  // namespace detail

template <class T>
Plan make_plan(const Shape& s, int threads) {
  constexpr int W = Vec<T>::kSize;
  const Index blocks = ceil_div(s.hidden, W);
  const RowBlocks row_blocks(s.batch);
  Plan best;
  best.chunk = std::max<Index>(1, kChunkRows / std::max<Index>(1, s.batch));
  // The products of a chunk need a pass through memory, which pays only while a step has few rows: hoisted against one
  // pass, LSTM, ms, in the prototype: B=1 H=512 16.6 / 33, B=8 H=128 1.61 / 1.60, B=32 H=128 8.8 / 7.6.
  best.hoisted = s.batch < 8 && s.steps > 1;
  double time = double(s.steps) * detail::step_time<T>(s, s.batch, blocks);

  const int batch_threads = int(std::min<Index>(threads, row_blocks.count));
  if (batch_threads > 1) {
    const Index rows = ceil_div(row_blocks.count, batch_threads) * row_blocks.max_size();
    const double t = double(s.steps) * detail::step_time<T>(s, rows, blocks) + detail::kLaunch;
    if (t < time) time = t, best.split = Split::kBatch, best.threads = batch_threads, best.hoisted = false;
  }
  const int hidden_threads = s.whole_rows ? 1 : int(std::min<Index>(threads, blocks));
  if (hidden_threads > 1) {
    const double step = detail::step_time<T>(s, s.batch, ceil_div(blocks, hidden_threads)) + detail::kBarrier;
    const double t = double(s.steps) * step + detail::kLaunch;
    if (t < time) time = t, best.split = Split::kHidden, best.threads = hidden_threads, best.hoisted = s.batch < 8;
  }
  best.step_time_s = time / double(std::max<Index>(1, s.steps));
  constexpr double kPoll = 20e-3;
  if (best.step_time_s > kPoll)
    best.poll_rows = std::max<Index>(kTileRows, Index(double(s.batch) / best.threads * kPoll / best.step_time_s));
  return best;
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

  Part(const Plan& plan, const BatchSizes& batch_sizes, Index unit_blocks, int thread, int threads)
      : first(0),
        last(batch_sizes.batch),
        units(unit_blocks, plan.split == Split::kHidden ? thread : 0, plan.split == Split::kHidden ? threads : 1) {
    if (plan.split == Split::kBatch) std::tie(first, last) = rows_of(batch_sizes, thread, threads);
  }

  /// The first `active` rows of the batch take part.
  void activate(Index active) {
    const Index n = std::max<Index>(0, std::min(last, active) - first);
    if (n != rows.total || first != rows.first) rows = RowBlocks(n, first);
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
