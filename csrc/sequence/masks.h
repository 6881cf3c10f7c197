// SPDX-License-Identifier: Apache-2.0
// Random decisions as functions of a seed, a unit, a row and a step, independent of the order of evaluation: dropout
// between layers, recurrent dropout, zoneout.
#pragma once

#include <algorithm>

#include "core/random/philox.h"
#include "core/simd/vec.h"
#include "sequence/tape.h"

namespace bptt::sequence {

/// Dropout of a layer's input: y = x m / (1 - p), m ~ Bernoulli(1 - p) for each element.
struct InputDropout {
  double p = 0;
  Philox random;

  /// x and y [width], one row at one step; may be the same.
  template <class T>
  void operator()(T* y, const T* x, Index width, Index id, Index step) const {
    constexpr int kHalf = 16;  // both words of a counter decide: those of units n to n + 15, and of the next 16
    for (Index n = 0; n < width; n += 2 * kHalf) {
      std::uint32_t word[2][kHalf];
      random(std::uint32_t(n / 2), std::uint32_t(id), std::uint32_t(step), kInputDropout, word[0], word[1]);
      for (int half = 0; half < 2; ++half) {
        T mask[kHalf];
        choose(word[half], p, T(0), T(1 / (1 - p)), mask);
        const Index begin = n + half * kHalf;
        for (Index i = begin; i < std::min(width, begin + kHalf); ++i) y[i] = x[i] * mask[i - begin];
      }
    }
  }
};

/// d of recurrent dropout, [B,Hp].
template <class T>
Buffer<T> dropout_mask(const StateOptions<T>& options, Index batch, Index Hp) {
  constexpr int W = Vec<T>::kSize;
  Buffer<T> mask(checked_mul(batch, Hp));
  if (DryRun::on()) return mask;
  const double p = options.rules.dropout;
  for (Index row = 0; row < batch; ++row) {
    for (Index unit = 0; unit < Hp; unit += W) {
      std::uint32_t word[W], unused[W];
      T values[W];
      options.random(std::uint32_t(unit), std::uint32_t(options.id(row)), 0, kRecurrentDropout, word, unused);
      choose(word, p, T(0), T(1 / (1 - p)), values);
      std::copy_n(values, W, mask.data() + row * Hp + unit);
    }
  }
  return mask;
}

/// m of zoneout for a register of units of a row: of h, and of every other state, which a unit keeps together.
template <class T>
inline void zoneout_masks(const StateOptions<T>& options, Index step, Index row, Index unit, Vec<T> (&m)[2]) {
  constexpr int W = Vec<T>::kSize;
  if (!options.training || !options.rules.zones()) {
    for (int i = 0; i < 2; ++i) m[i] = Vec<T>(T(options.rules.zoneout[i]));
    return;
  }
  std::uint32_t word[2][W];
  alignas(64) T values[W];
  options.random(std::uint32_t(unit), std::uint32_t(options.id(row)), std::uint32_t(step), kZoneout, word[0], word[1]);
  for (int i = 0; i < 2; ++i) {
    choose(word[i], options.rules.zoneout[i], T(1), T(0), values);
    m[i] = Vec<T>::load(values);
  }
}

}  // namespace bptt::sequence
