// SPDX-License-Identifier: Apache-2.0
// The two arithmetics in which each equation of clipping and of the rules is computed:
//   Plain  in the arrays' own type, where no product of the equations can leave its range
//   Wide   in double, and so that no square leaves its range: right wherever the result itself is in range
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace bptt::optim {

template <class T>
struct Plain {
  using Number = T;
  static constexpr bool kWide = false;
};

struct Wide {
  using Number = double;
  static constexpr bool kWide = true;
};

/// The largest magnitude of parameters, moments and clipped gradients for plain arithmetic: their squares are well
/// within float.
constexpr double kSmall = 0x1p60;

/// Whether T holds x at full precision.
template <class T>
bool representable(double x) {
  return x == 0 || (x >= double(std::numeric_limits<T>::min()) && x <= double(std::numeric_limits<T>::max()));
}

template <class T, class... Numbers>
bool all_representable(Numbers... x) {
  return (representable<T>(x) && ...);
}

/// sqrt(b s^2 + a g^2)
template <class A, class T, class C>
C root_of_squares(C b, C s, C a, C g) {
  if constexpr (A::kWide && sizeof(T) == sizeof(double)) {
    const C x = std::sqrt(b) * s, y = std::sqrt(a) * std::abs(g);
    const C larger = std::max(x, y), ratio = larger > 0 ? std::min(x, y) / larger : 0;
    return larger * std::sqrt(1 + ratio * ratio);
  } else {
    return std::sqrt(b * s * s + a * g * g);
  }
}

/// Whether the squares that plain arithmetic loses do not change root + eps. Squares below the smallest normal number
/// min are lost: those of a step take at most 2 min from s^2, those of `memory` steps at most sqrt(2 min memory) from
/// s. That must be less than half a unit in the last place of eps. A mean with the factor beta has the memory 1 / (1 -
/// beta), with its bias corrected too.
template <class T>
bool eps_hides_lost_squares(double eps, double memory) {
  using Limit = std::numeric_limits<T>;
  return eps * double(Limit::epsilon()) / 2 >= std::sqrt(2 * double(Limit::min()) * memory);
}

/// x / y, where 0 / 0 is no step: it is possible where eps is less than the smallest normal number. Plain arithmetic
/// is used with a larger eps only.
template <class A, class C>
C quotient(C x, C y) {
  const C ratio = x / y;
  if constexpr (A::kWide)
    return x == 0 ? 0 : ratio;
  else
    return ratio;
}

}  // namespace bptt::optim
