// SPDX-License-Identifier: Apache-2.0
// How a call is spread over the cores. Three ways: one core; the batch split (no barrier inside a time step, each core
// reads all weights); the hidden units split (a barrier per step, each core keeps its slice of the weights in its own
// cache). Chosen by estimated time; the result does not depend on the choice, only the time does.
#pragma once

#include <algorithm>

#include "core/gemm.h"

namespace bptt::sequence {

enum class Split { kNone, kBatch, kHidden };

struct Plan {
  Split split = Split::kNone;
  int threads = 1;
  bool hoisted = false;    // input products of a whole chunk first, instead of with each step
  Index chunk = 1;         // time steps handled together
  double step_time_s = 0;  // estimated
};

struct Shape {
  Index steps, batch, input, hidden;
  int gates;
};

namespace detail {

// From a prototype with AVX-512 on Cascade Lake, one core of 2.5 GHz; not yet fitted to these kernels. Other levels
// differ by about the register width, which enters below, so that the choice stays the same.
constexpr double kFlopsPerLane = 7.5e9;  // 120 GF/s at 16 lanes
constexpr double kL2Bytes = 1.5e6, kL2Rate = 90e9, kFarRate = 20e9;
constexpr double kActivation = 7e-9;  // a gate of one register, exp and division
constexpr double kLatency = 50e-9;    // the chain h -> product -> gates -> h
constexpr double kBarrier = 0.3e-6;
constexpr double kLaunch = 4e-6;

template <class T>
double step_time(const Shape& s, Index rows, Index blocks) {
  constexpr int W = Vec<T>::kSize;
  const double lanes = double(blocks) * W, depth = double(s.hidden + s.input), gates = s.gates;
  const double bytes = lanes * gates * depth * sizeof(T);
  const double compute = 2 * double(rows) * lanes * gates * depth / (kFlopsPerLane * W);
  const double weights = bytes / (bytes < kL2Bytes ? kL2Rate : kFarRate);
  return std::max(compute, weights) + double(rows) * double(blocks) * gates * kActivation + kLatency;
}

}  // namespace detail

/// Rows times steps that are handled together: at H = 512 an LSTM's gradients of them take 1 MiB, half of a 2 MiB
/// second-level cache.
constexpr Index kChunkRows = 128;

template <class T>
Plan make_plan(const Shape& s, int threads) {
  constexpr int W = Vec<T>::kSize;
  const Index blocks = ceil_div(s.hidden, W), row_blocks = ceil_div(s.batch, kTileRows);
  Plan best;
  best.chunk = std::max<Index>(1, kChunkRows / std::max<Index>(1, s.batch));
  // The products of a chunk need a pass through memory, which pays only while a step has few rows: hoisted against one
  // pass, LSTM, ms, in the prototype: B=1 H=512 16.6 / 33, B=8 H=128 1.61 / 1.60, B=32 H=128 8.8 / 7.6.
  best.hoisted = s.batch < 8 && s.steps > 1;
  double time = double(s.steps) * detail::step_time<T>(s, s.batch, blocks);

  const int batch_threads = int(std::min<Index>(threads, row_blocks));
  if (batch_threads > 1) {
    const Index rows = std::min(s.batch, ceil_div(row_blocks, batch_threads) * kTileRows);
    const double t = double(s.steps) * detail::step_time<T>(s, rows, blocks) + detail::kLaunch;
    if (t < time) time = t, best.split = Split::kBatch, best.threads = batch_threads, best.hoisted = false;
  }
  const int hidden_threads = int(std::min<Index>(threads, blocks));
  if (hidden_threads > 1) {
    const double step = detail::step_time<T>(s, s.batch, ceil_div(blocks, hidden_threads)) + detail::kBarrier;
    const double t = double(s.steps) * step + detail::kLaunch;
    if (t < time) time = t, best.split = Split::kHidden, best.threads = hidden_threads, best.hoisted = s.batch < 8;
  }
  best.step_time_s = time / double(std::max<Index>(1, s.steps));
  return best;
}

/// The part of a step that one thread does.
struct Part {
  Share rows;    // row blocks
  Share blocks;  // blocks of W hidden units
  Part(const Plan& plan, Index row_blocks, Index unit_blocks, int thread, int threads)
      : rows(row_blocks, plan.split == Split::kBatch ? thread : 0, plan.split == Split::kBatch ? threads : 1),
        blocks(unit_blocks, plan.split == Split::kHidden ? thread : 0, plan.split == Split::kHidden ? threads : 1) {}
};

}  // namespace bptt::sequence
