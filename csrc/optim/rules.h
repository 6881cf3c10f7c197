// SPDX-License-Identifier: Apache-2.0
// The equations of clipping, SGD and Adam for one element; no loop and no array. Each is written once and computed in
// one of two arithmetics:
//   Plain  in the arrays' own type, where no product of the equations can leave its range
//   Wide   in double, and so that no square leaves its range: right wherever the result itself is in range
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/memory/sizes.h"

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

/// Limits as a user gives them; infinity is none.
struct Limits {
  double norm, value;
};

/// g -> clamp(factor lower g, value) for a gradient of this norm. The factor is split in two where their product could
/// be subnormal.
struct Clip {
  double factor = 1, lower = 1, value;

  Clip(double norm, const Limits& limits) : value(limits.value) {
    if (norm <= limits.norm) return;
    if (limits.norm / norm < 0x1p-500) lower = std::ldexp(1.0, -std::min(std::ilogb(norm), 1000));
    factor = limits.norm / (norm * lower);
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

/// x[0] is the parameter w, x[1], where there is one, the velocity v.
struct SGD {
  double lr, momentum, weight_decay;
  bool nesterov;

  /// Whether plain arithmetic is right for small values.
  template <class T>
  bool plain() const {
    const double d = kSmall + weight_decay * kSmall, step = d + momentum * (momentum * kSmall + d);
    const double largest = std::max(step, kSmall + lr * step);
    return representable<T>(lr) && representable<T>(momentum) && representable<T>(weight_decay) &&
           representable<T>(2 * largest);
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, mu, decay;
    bool nesterov;
    explicit Rule(const SGD& o) : rate(C(o.lr)), mu(C(o.momentum)), decay(C(o.weight_decay)), nesterov(o.nesterov) {}

    template <class T, std::size_t N>
    void operator()(std::array<T, N>& x, C g) const {
      const C w = x[0], d = g + decay * w;
      C step = d;
      if constexpr (N == 2) {
        const C v = mu * C(x[1]) + d;
        x[1] = T(v);
        step = nesterov ? d + mu * v : v;
      }
      x[0] = T(w - rate * step);
    }
  };
};

/// x holds the parameter w, the first moment m, and the root s of the second moment: its range is that of the gradient,
/// which that of the moment itself is not.
struct Adam {
  double lr, beta1, beta2, eps, weight_decay;
  Index step;

  double correction1() const { return 1 - std::pow(beta1, double(step)); }
  double correction2() const { return 1 - std::pow(beta2, double(step)); }

  /// Whether plain arithmetic is right for small values. Squares below the smallest normal number min are lost in it:
  /// those of a step take at most 2 min from s^2, those of all steps at most sqrt(2 min / (1 - beta2)) from s without
  /// its bias. That must be less than half a unit in the last place of eps.
  template <class T>
  bool plain() const {
    using Limit = std::numeric_limits<T>;
    const double lost = std::sqrt(2 * double(Limit::min()) / (1 - beta2));
    const double step = weight_decay * kSmall + kSmall / (eps * correction1());
    return representable<T>(lr) && representable<T>(lr * weight_decay) && representable<T>(beta1) &&
           representable<T>(beta2) && eps * double(Limit::epsilon()) / 2 >= lost &&
           representable<T>(2 * (kSmall + lr * step));
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, decay, b1, a1, b2, a2, root, e;  // root and e correct both biases

    explicit Rule(const Adam& o)
        : rate(C(o.lr)),
          decay(C(o.lr * o.weight_decay)),
          b1(C(o.beta1)),
          a1(C(1 - o.beta1)),
          b2(C(o.beta2)),
          a2(C(1 - o.beta2)),
          root(C(o.correction1() / std::sqrt(o.correction2()))),
          e(C(o.eps * o.correction1())) {}

    /// sqrt(b2 s^2 + a2 g^2)
    template <class T>
    C root_mean_square(C s, C g) const {
      if constexpr (A::kWide && sizeof(T) == sizeof(double)) {
        const C x = std::sqrt(b2) * s, y = std::sqrt(a2) * std::abs(g);
        const C larger = std::max(x, y), ratio = larger > 0 ? std::min(x, y) / larger : 0;
        return larger * std::sqrt(1 + ratio * ratio);
      } else {
        return std::sqrt(b2 * s * s + a2 * g * g);
      }
    }

    /// m / (s root + e). 0 / 0, possible where eps is less than the smallest normal number, is no step.
    C change(C m, C s) const {
      const C ratio = m / (s * root + e);
      if constexpr (A::kWide)
        return m == 0 ? 0 : ratio;
      else
        return ratio;
    }

    template <class T>
    void operator()(std::array<T, 3>& x, C g) const {
      const C w = x[0], m = b1 * C(x[1]) + a1 * g, s = root_mean_square<T>(C(x[2]), g);
      x[0] = T(w - (decay * w + rate * change(m, s)));
      x[1] = T(m);
      x[2] = T(s);
    }
  };
};

}  // namespace bptt::optim
