// SPDX-License-Identifier: Apache-2.0
// A cell's weights in fewer bits (core/gemm/narrow.h), gate by gate for each block of units: register block*G + g has
// gate g of the block's units. For cells of one stage without heads, forward alone.
#pragma once

#include <algorithm>

#include "cells/info.h"
#include "core/gemm/narrow.h"
#include "core/threads/parallel.h"
#include "sequence/flat.h"

namespace bptt::sequence {

struct NarrowWeights {
  static constexpr int W = Vec<float>::kSize;
  int G = 0;
  Index I = 0, H = 0;
  NarrowPanels x, h;  // I and H deep

  NarrowWeights() = default;
  NarrowWeights(ProductMode mode, int G, Index I, Index H)
      : G(G),
        I(I),
        H(H),
        x(mode, I, ceil_div(H, W) * G, G == 3 ? 6 : 8),
        h(mode, H, ceil_div(H, W) * G, G == 3 ? 6 : 8) {}

  /// From weight_ih and weight_hh; false where it was called off.
  bool pack(const float* weight_ih, const float* weight_hh, int threads, Poll& poll) {
    const Index registers = ceil_div(H, W) * G;
    return parallel_for(2 * registers, 1, threads, poll, [&](int, Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        const Index c = i % registers;
        if (i < registers)
          x.pack(c, weight_ih + row(c) * I, units(c));
        else
          h.pack(c, weight_hh + row(c) * H, units(c));
      }
    });
  }

  void unpack(float* weight_ih, float* weight_hh) const {
    for (Index c = 0; c < ceil_div(H, W) * G; ++c) {
      x.unpack(c, weight_ih + row(c) * I, units(c));
      h.unpack(c, weight_hh + row(c) * H, units(c));
    }
  }

 private:
  /// The row of a weight that is the first lane of register c, and how many follow it.
  Index row(Index c) const { return c % G * H + c / G * W; }
  Index units(Index c) const { return std::min<Index>(W, H - c / G * W); }
};

}  // namespace bptt::sequence
