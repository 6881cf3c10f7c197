// SPDX-License-Identifier: Apache-2.0
// Which values of h a block of W units reads. Of a layer with N heads, each unit reads the H/N values of its own head:
// weight_hh is block-diagonal, a row of it has H/N values. A block reads a band: its units' heads from the first to the
// last. Where one block has units of several heads, the panels have zeros for the values of the other heads. On the way
// back the same numbers say which units' gradients reach a block of h.
#pragma once

#include <algorithm>
#include <vector>

#include "core/simd/vec.h"

namespace bptt::sequence {

struct Band {
  Index first, end;     // the blocks, side by side, that read the same
  Index begin, length;  // of h
};

/// At least the length of the longest band; computed without one.
inline Index longest_band(Index H, Index N, Index W) {
  const Index head = H / N;
  const Index heads = head % W == 0 ? 1 : W % head == 0 ? W / head : (W + head - 2) / head + 1;
  return std::min(N, heads) * head;
}

/// The band of each block.
inline std::vector<Band> make_bands(Index H, Index N, Index W) {
  const Index head = H / N;
  std::vector<Band> bands;
  for (Index unit = 0; unit < H; unit += W) {
    const Index begin = unit / head * head, last = std::min(unit + W, H) - 1;
    const Index length = last / head * head + head - begin, block = unit / W;
    const bool same = block > 0 && bands.back().begin == begin && bands.back().length == length;
    bands.push_back({same ? bands.back().first : block, block + 1, begin, length});
  }
  for (auto band = bands.rbegin(); band != bands.rend(); ++band) {
    const Index block = Index(bands.rend() - band) - 1;
    if (block + 1 < Index(bands.size()) && bands[std::size_t(block + 1)].first == band->first)
      band->end = bands[std::size_t(block + 1)].end;
  }
  return bands;
}

}  // namespace bptt::sequence
