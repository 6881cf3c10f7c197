// SPDX-License-Identifier: Apache-2.0
// The equations of the optimizers for one element; no loop and no array. A rule is a struct of numbers:
//   kName, kMoments  by which Python asks for it; the number of moments
//   kOptions         the names of its numbers, in their order
//   plain<T>(rates)  whether plain arithmetic is right for values up to kSmall
//   Rule<A>          the equations in arithmetic A: x[0] is the parameter w, x[1]... are the moments, g is clipped
// `step` counts from 1. To add a rule: its struct here, a line in kRules of step.cpp, a class in python/bptt/optim.
//
// A second moment is kept as its root s: the range of s is that of the gradient, that of s^2 is not.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "optim/arithmetic.h"

namespace bptt::optim {

/// What may differ between the parameters of one step.
struct Rates {
  double lr, weight_decay;
};

template <bool kMomentum>
struct SGD {
  static constexpr const char* kName = "sgd";
  static constexpr std::size_t kMoments = kMomentum;  // the velocity v
  static constexpr std::array kOptions{"momentum", "nesterov"};
  double momentum, nesterov;

  template <class T>
  bool plain(const Rates& rates) const {
    const double d = kSmall + rates.weight_decay * kSmall, step = d + momentum * (momentum * kSmall + d);
    const double largest = std::max(step, kSmall + rates.lr * step);
    return all_representable<T>(rates.lr, rates.weight_decay, momentum, 2 * largest);
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, decay, mu;
    bool nesterov;
    Rule(const SGD& o, const Rates& rates)
        : rate(C(rates.lr)), decay(C(rates.weight_decay)), mu(C(o.momentum)), nesterov(o.nesterov != 0) {}

    template <class T, std::size_t N>
    void operator()(std::array<T, N>& x, C g) const {
      const C w = x[0], d = g + decay * w;
      C step = d;
      if constexpr (kMomentum) {
        const C v = mu * C(x[1]) + d;
        x[1] = T(v);
        step = nesterov ? d + mu * v : v;
      }
      x[0] = T(w - rate * step);
    }
  };
};

/// The weight decay is decoupled (AdamW). kMax: AMSGrad.
template <bool kMax>
struct Adam {
  static constexpr const char* kName = "adam";
  static constexpr std::size_t kMoments = kMax ? 3 : 2;  // m, s, the largest s so far
  static constexpr std::array kOptions{"beta1", "beta2", "eps", "step"};
  double beta1, beta2, eps, step;

  double correction1() const { return 1 - std::pow(beta1, step); }
  double correction2() const { return 1 - std::pow(beta2, step); }

  template <class T>
  bool plain(const Rates& rates) const {
    const double decay = rates.lr * rates.weight_decay;
    const double largest = kSmall + decay * kSmall + rates.lr * kSmall / (eps * correction1());
    return all_representable<T>(rates.lr, decay, beta1, beta2, 2 * largest) &&
           eps_hides_lost_squares<T>(eps, 1 / (1 - beta2));
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, decay, b1, a1, b2, a2, root, e;  // root and e correct both biases

    Rule(const Adam& o, const Rates& rates)
        : rate(C(rates.lr)),
          decay(C(rates.lr * rates.weight_decay)),
          b1(C(o.beta1)),
          a1(C(1 - o.beta1)),
          b2(C(o.beta2)),
          a2(C(1 - o.beta2)),
          root(C(o.correction1() / std::sqrt(o.correction2()))),
          e(C(o.eps * o.correction1())) {}

    template <class T, std::size_t N>
    void operator()(std::array<T, N>& x, C g) const {
      const C w = x[0], m = b1 * C(x[1]) + a1 * g, s = root_of_squares<A, T>(b2, C(x[2]), a2, g);
      C divisor = s;
      if constexpr (kMax) {
        divisor = std::max(C(x[3]), s);
        x[3] = T(divisor);
      }
      x[0] = T(w - (decay * w + rate * quotient<A>(m, divisor * root + e)));
      x[1] = T(m);
      x[2] = T(s);
    }
  };
};

/// mu, mu_next: the factors of the momentum at this step and the next; product: of mu at all steps, this one included.
struct NAdam {
  static constexpr const char* kName = "nadam";
  static constexpr std::size_t kMoments = 2;  // m, s
  static constexpr std::array kOptions{"beta1", "beta2", "eps", "step", "mu", "mu_next", "product", "decoupled"};
  double beta1, beta2, eps, step, mu, mu_next, product, decoupled;

  double gradient_factor() const { return (1 - mu) / (1 - product); }
  double moment_factor() const { return mu_next / (1 - product * mu_next); }

  template <class T>
  bool plain(const Rates& rates) const {
    const double decay = rates.lr * rates.weight_decay, d = kSmall + rates.weight_decay * kSmall;
    const double largest =
        kSmall + decay * kSmall + rates.lr * (gradient_factor() * d + moment_factor() * (kSmall + d)) / eps;
    return all_representable<T>(rates.lr, rates.weight_decay, decay, beta1, beta2, moment_factor(), 2 * d * d,
                                2 * largest) &&
           eps_hides_lost_squares<T>(eps, 1 / (1 - beta2));
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, coupled, decay, b1, a1, b2, a2, root, e, of_gradient, of_moment;

    Rule(const NAdam& o, const Rates& rates)
        : rate(C(rates.lr)),
          coupled(C(o.decoupled != 0 ? 0 : rates.weight_decay)),
          decay(C(o.decoupled != 0 ? rates.lr * rates.weight_decay : 0)),
          b1(C(o.beta1)),
          a1(C(1 - o.beta1)),
          b2(C(o.beta2)),
          a2(C(1 - o.beta2)),
          root(C(1 / std::sqrt(1 - std::pow(o.beta2, o.step)))),
          e(C(o.eps)),
          of_gradient(C(o.gradient_factor())),
          of_moment(C(o.moment_factor())) {}

    template <class T>
    void operator()(std::array<T, 3>& x, C g) const {
      const C w = x[0], d = g + coupled * w;
      const C m = b1 * C(x[1]) + a1 * d, s = root_of_squares<A, T>(b2, C(x[2]), a2, d);
      x[0] = T(w - (decay * w + rate * quotient<A>(of_gradient * d + of_moment * m, s * root + e)));
      x[1] = T(m);
      x[2] = T(s);
    }
  };
};

/// The moments are s, m where kCentered, v where kMomentum. Centered, s^2 is the mean square of g less the square of
/// its mean m. It is kept by the recursion of the variance, which cannot become negative: with g - m = e before a step,
/// it is alpha (s^2 + (1 - alpha) e^2) after it (Finch 2009).
template <bool kCentered, bool kMomentum>
struct RMSprop {
  static constexpr const char* kName = kCentered ? "centered_rmsprop" : "rmsprop";
  static constexpr std::size_t kMoments = 1 + kCentered + kMomentum;
  static constexpr std::array kOptions{"alpha", "eps", "momentum"};
  double alpha, eps, momentum;

  template <class T>
  bool plain(const Rates& rates) const {
    const double d = kSmall + rates.weight_decay * kSmall, deviation = d + kSmall;
    const double step = momentum * kSmall + d / eps;
    return all_representable<T>(rates.lr, rates.weight_decay, alpha, momentum, 2 * deviation * deviation, 2 * step,
                                2 * (kSmall + rates.lr * step)) &&
           eps_hides_lost_squares<T>(eps, 1 / (1 - alpha));
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, decay, b, a, e, mu;

    Rule(const RMSprop& o, const Rates& rates)
        : rate(C(rates.lr)),
          decay(C(rates.weight_decay)),
          b(C(o.alpha)),
          a(C(kCentered ? o.alpha * (1 - o.alpha) : 1 - o.alpha)),
          e(C(o.eps)),
          mu(C(o.momentum)) {}

    template <class T, std::size_t N>
    void operator()(std::array<T, N>& x, C g) const {
      const C w = x[0], d = g + decay * w;
      C deviation = d;
      if constexpr (kCentered) {
        deviation = d - C(x[2]);
        x[2] = T(C(x[2]) + (1 - b) * deviation);
      }
      const C s = root_of_squares<A, T>(b, C(x[1]), a, deviation);
      x[1] = T(s);
      C step = quotient<A>(d, s + e);
      if constexpr (kMomentum) {
        step = mu * C(x[N - 1]) + step;
        x[N - 1] = T(step);
      }
      x[0] = T(w - rate * step);
    }
  };
};

struct Adagrad {
  static constexpr const char* kName = "adagrad";
  static constexpr std::size_t kMoments = 1;  // s, the root of the sum of all squares
  static constexpr std::array kOptions{"lr_decay", "eps", "step"};
  double lr_decay, eps, step;

  double rate(const Rates& rates) const { return rates.lr / (1 + (step - 1) * lr_decay); }

  /// Float squares are summed in double, where none is lost: the number of steps has no limit.
  template <class T>
  bool plain(const Rates& rates) const {
    const double d = kSmall + rates.weight_decay * kSmall;
    return all_representable<T>(rate(rates), rates.weight_decay, 2 * d * d, 2 * (kSmall + rate(rates) * (d / eps))) &&
           eps_hides_lost_squares<double>(eps, step) && eps >= double(std::numeric_limits<T>::min());
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, decay, e;
    Rule(const Adagrad& o, const Rates& rates) : rate(C(o.rate(rates))), decay(C(rates.weight_decay)), e(C(o.eps)) {}

    template <class T>
    void operator()(std::array<T, 2>& x, C g) const {
      const C w = x[0], d = g + decay * w;
      const C s = C(root_of_squares<A, T>(1.0, double(x[1]), 1.0, double(d)));
      x[1] = T(s);
      x[0] = T(w - rate * quotient<A>(d, s + e));
    }
  };
};

/// The weight decay is decoupled.
struct Lion {
  static constexpr const char* kName = "lion";
  static constexpr std::size_t kMoments = 1;  // m
  static constexpr std::array kOptions{"beta1", "beta2"};
  double beta1, beta2;

  template <class T>
  bool plain(const Rates& rates) const {
    const double decay = rates.lr * rates.weight_decay;
    return all_representable<T>(rates.lr, decay, beta1, beta2, 2 * (kSmall + decay * kSmall + rates.lr));
  }

  template <class A>
  struct Rule {
    using C = typename A::Number;
    C rate, decay, b1, a1, b2, a2;

    Rule(const Lion& o, const Rates& rates)
        : rate(C(rates.lr)),
          decay(C(rates.lr * rates.weight_decay)),
          b1(C(o.beta1)),
          a1(C(1 - o.beta1)),
          b2(C(o.beta2)),
          a2(C(1 - o.beta2)) {}

    template <class T>
    void operator()(std::array<T, 2>& x, C g) const {
      const C w = x[0], m = x[1], c = b1 * m + a1 * g;
      const C sign = (c > 0 ? C(1) : C(0)) - (c < 0 ? C(1) : C(0));
      x[0] = T(w - (decay * w + rate * sign));
      x[1] = T(b2 * m + a2 * g);
    }
  };
};

}  // namespace bptt::optim
