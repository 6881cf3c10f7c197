// SPDX-License-Identifier: Apache-2.0
// Optimizer steps over flat arrays of n parameters: norm, clipping and update without a copy of the gradient. Where the
// norm is not finite nothing changes; the caller sees it in the result.
#pragma once

#include "optim/norm.h"

namespace bptt::optim {

/// f(begin, end) over [0, n) by threads, in whole cache lines.
template <class F>
void for_ranges(Index n, F&& f) {
  const Index lines = ceil_div(n, 16);
  Pool::instance().run(threads_for(n), [&](int thread, Barrier& barrier) {
    const Share share(lines, thread, barrier.size());
    f(share.begin * 16, std::min(n, share.end * 16));
  });
}

struct SGD {
  double lr, momentum, weight_decay;
  bool nesterov;

  /// velocity may be null where momentum is 0.
  template <class T>
  void step(T* w, const T* g, T* velocity, Index n, const Clip<T>& clip) const {
    const T rate = T(lr), mu = T(momentum), decay = T(weight_decay);
    for_ranges(n, [=, nesterov = nesterov](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        T d = clip(g[i]) + decay * w[i];
        if (velocity) {
          const T v = mu * velocity[i] + d;
          velocity[i] = v;
          d = nesterov ? d + mu * v : v;
        }
        w[i] -= rate * d;
      }
    });
  }
};

struct Adam {
  double lr, beta1, beta2, eps, weight_decay;

  template <class T>
  void step(T* w, const T* g, T* m, T* v, Index n, Index t, const Clip<T>& clip) const {
    const double correction1 = 1 - std::pow(beta1, double(t)), correction2 = 1 - std::pow(beta2, double(t));
    const T b1 = T(beta1), b2 = T(beta2), a1 = T(1 - beta1), a2 = T(1 - beta2), e = T(eps);
    const T rate = T(lr / correction1), root = T(1 / std::sqrt(correction2)), keep = T(1 - lr * weight_decay);
    for_ranges(n, [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const T d = clip(g[i]);
        const T m1 = b1 * m[i] + a1 * d, v1 = b2 * v[i] + a2 * d * d;
        m[i] = m1;
        v[i] = v1;
        w[i] = keep * w[i] - rate * m1 / (std::sqrt(v1) * root + e);
      }
    });
  }
};

}  // namespace bptt::optim
