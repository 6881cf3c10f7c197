// SPDX-License-Identifier: Apache-2.0
// How the items of a job are divided among its threads.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/memory/sizes.h"

namespace bptt {

/// The part [begin, end) of n items that `thread` of `threads` does.
struct Share {
  Index begin, end;
  Share(Index begin, Index end) : begin(begin), end(end) { assert(0 <= begin && begin <= end); }
  Share(Index n, int thread, int threads) : Share(n * thread / threads, n * (thread + 1) / threads) {
    assert(0 <= thread && thread < threads);
  }
};

/// The tiles of a product that `thread` of `threads` makes, where rows x columns of tiles are divided both ways so that
/// the largest part is small: 22 x 2 tiles on 16 threads are parts of 2 x 2 by rows alone, of 3 x 1 both ways. By rows
/// alone unless columns gain a tenth: a thread then reads all weights, which is cheaper than all of the other operand.
struct TileShare {
  Share rows, columns;

  TileShare(Index row_tiles, Index column_tiles, int thread, int threads)
      : TileShare(row_tiles, column_tiles, thread, threads, parts_across(row_tiles, column_tiles, threads)) {}

 private:
  TileShare(Index row_tiles, Index column_tiles, int thread, int threads, int across)
      : rows(0, 0), columns(column_tiles, thread % across, across) {
    if (thread / across < threads / across) rows = Share(row_tiles, thread / across, threads / across);
  }

  static int parts_across(Index row_tiles, Index column_tiles, int threads) {
    int best = 1;
    Index least = ceil_div(row_tiles, threads) * column_tiles;
    for (int across = 2; across <= std::min<Index>(threads, column_tiles); ++across) {
      const Index tiles = ceil_div(row_tiles, threads / across) * ceil_div(column_tiles, across);
      if (10 * tiles < 9 * least) least = tiles, best = across;
    }
    return best;
  }
};

}  // namespace bptt
