// SPDX-License-Identifier: Apache-2.0
// One optimizer step over flat arrays of n parameters. A step that would leave an infinite value or NaN anywhere is not
// taken; the caller sees it in the result.
#pragma once

#include <array>

#include "optim/rules.h"

namespace bptt::optim {

/// What a step changes (parameters first, then moments) and by which gradient, all [n].
template <class T, std::size_t N>
struct Arrays {
  std::array<T*, N> values;
  const T* grads;
  Index n;
};

struct StepResult {
  double norm;  // before clipping
  bool clipped = false;
  Index overflow = -1;  // the first element whose parameter or moment would not be finite; nothing changed then
  bool small = false;   // whether no magnitude in the values is above kSmall
};

/// `known_small`: the caller knows from the last step that all values are small; else they are measured.
template <class Optimizer, class T, std::size_t N>
StepResult step(const Optimizer& optimizer, const Arrays<T, N>& arrays, const Limits& limits, bool known_small);

}  // namespace bptt::optim
