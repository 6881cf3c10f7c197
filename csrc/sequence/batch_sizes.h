// SPDX-License-Identifier: Apache-2.0
// Which rows take part in which step. Rows are sorted by length, longest first, so that the active ones are always the
// first. Arrays of a call are packed, step after step; where all sequences are equally long that is [T,B].
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "core/memory/sizes.h"

namespace bptt::sequence {

struct BatchSizes {
  Index steps = 0, batch = 0;
  const Index* offset = nullptr;  // [steps+1]: the place of each step's first row; null: every row has every step

  Index begin(Index t) const { return offset ? offset[t] : t * batch; }
  /// Active rows of a step; none beyond the last.
  Index rows(Index t) const { return t >= steps ? 0 : offset ? offset[t + 1] - offset[t] : batch; }
  Index total() const { return offset ? begin(steps) : checked_mul(steps, batch); }
};

/// Rows times steps that are handled together: at H = 512 an LSTM's gradients of them take 1 MiB, half of a 2 MiB
/// second-level cache.
constexpr Index kChunkRows = 128;

/// The first step of the chunk that ends before `end`: as many whole steps as fit, at least one.
inline Index chunk_begin(const BatchSizes& batch_sizes, Index end) {
  Index begin = end - 1, rows = batch_sizes.rows(begin);
  while (begin > 0 && rows + batch_sizes.rows(begin - 1) <= kChunkRows) rows += batch_sizes.rows(--begin);
  return begin;
}

/// Steps of each chunk but the first, where every row has every step.
inline Index equal_chunk(const BatchSizes& batch_sizes) {
  return batch_sizes.batch == 0 ? std::max<Index>(1, batch_sizes.steps)
                                : std::max<Index>(1, kChunkRows / batch_sizes.batch);
}

/// Steps of the first chunk, which is the last to be reached going back.
inline Index chunk_steps(const BatchSizes& batch_sizes) {
  if (!batch_sizes.offset) return batch_sizes.steps == 0 ? 0 : (batch_sizes.steps - 1) % equal_chunk(batch_sizes) + 1;
  Index end = batch_sizes.steps;
  while (end > 0 && chunk_begin(batch_sizes, end) > 0) end = chunk_begin(batch_sizes, end);
  return end;
}

/// Where segments of about `length` steps begin, and the last one ends; whole chunks, so that sums over time have the
/// same order with and without segments. One segment for length 0.
inline std::vector<Index> cut(const BatchSizes& batch_sizes, Index length) {
  std::vector<Index> cuts{batch_sizes.steps};
  for (Index begin = batch_sizes.steps; length > 0 && begin > 0;) {
    begin = chunk_begin(batch_sizes, begin);
    if (begin > 0 && cuts.back() - begin >= length) cuts.push_back(begin);
  }
  cuts.push_back(0);
  std::reverse(cuts.begin(), cuts.end());
  return cuts;
}

/// How many segments `cut` makes, and the rows of the longest one.
struct Cuts {
  Index segments, longest;
};
inline Cuts measure_cuts(const BatchSizes& batch_sizes, Index length) {
  if (length == 0 || batch_sizes.steps == 0) return {1, batch_sizes.total()};
  // Equal chunks except the first, which has the rest; no loop over steps, of which there may be many.
  if (!batch_sizes.offset) {
    const Index chunk = equal_chunk(batch_sizes), most = std::max<Index>(1, batch_sizes.steps);
    const Index steps = length >= most ? most : std::min(most, ceil_div(length, chunk) * chunk);
    return {ceil_div(batch_sizes.steps, steps), steps * batch_sizes.batch};
  }
  const std::vector<Index> cuts = cut(batch_sizes, length);
  Cuts c{Index(cuts.size()) - 1, 0};
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i)
    c.longest = std::max(c.longest, batch_sizes.begin(cuts[i + 1]) - batch_sizes.begin(cuts[i]));
  return c;
}

/// The rows [first, second) of the batch that `thread` of `threads` does: an equal share of all rows of all steps.
inline std::pair<Index, Index> rows_of(const BatchSizes& batch_sizes, int thread, int threads) {
  if (!batch_sizes.offset) return {batch_sizes.batch * thread / threads, batch_sizes.batch * (thread + 1) / threads};
  Index bound[2], done = 0, row = 0, t = batch_sizes.steps;
  for (int i = 0; i < 2; ++i) {
    const Index goal = batch_sizes.total() * (thread + i) / threads;
    for (; row < batch_sizes.batch && done < goal; ++row) {
      while (t > 0 && batch_sizes.rows(t - 1) <= row) --t;
      done += t;  // the row's length
    }
    bound[i] = row;
  }
  return {bound[0], thread + 1 == threads ? batch_sizes.batch : bound[1]};
}

}  // namespace bptt::sequence
