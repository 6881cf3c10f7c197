// SPDX-License-Identifier: Apache-2.0
// Clipping of the gradient: what it takes from an element. The norms are measured elsewhere.
#pragma once

#include <algorithm>
#include <cmath>

#include "optim/arithmetic.h"

namespace bptt::optim {

/// Limits as a user gives them; infinity is none. The norm of each span, then the norm of all, then each element.
struct Limits {
  double norm, span_norm, value;
};

/// g -> clamp(factor lower g, value) for a gradient of this norm, which becomes at most `target`. The factor is split
/// in two where their product could be subnormal.
struct Clip {
  double factor = 1, lower = 1, value;

  Clip(double norm, double target, double value) : value(value) {
    if (norm <= target) return;
    if (target / norm < 0x1p-500) lower = std::ldexp(1.0, -std::min(std::ilogb(norm), 1000));
    factor = target / (norm * lower);
  }

  template <class T>
  bool plain() const {
    return lower == 1 && representable<T>(factor);
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C factor, lower, value;
    explicit Rule(const Clip& clip) : factor(C(clip.factor)), lower(C(clip.lower)), value(C(clip.value)) {}

    C scaled(C g) const {
      if constexpr (A::kWide)
        return g * lower * factor;  // in this order: g factor may be infinite
      else
        return g * factor;
    }
    C operator()(C g) const { return std::min(std::max(scaled(g), -value), value); }
  };
};

}  // namespace bptt::optim
