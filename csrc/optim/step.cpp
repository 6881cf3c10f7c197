// SPDX-License-Identifier: Apache-2.0
// Norm, clipping and update in two passes over the gradient, without a copy of it.
#include "optim/step.h"

#include "optim/norm.h"

namespace bptt::optim {

namespace detail {

/// The largest magnitude among the new values of elements [begin, end), which are stored with kWrite.
template <bool kWrite, class Rule, class Clipping, class T, std::size_t N>
Magnitude<T> update(const Rule rule, const Clipping clip, const Arrays<T, N> arrays, Index begin, Index end) {
  Magnitude<T> largest = 0;
  for (Index i = begin; i < end; ++i) {
    std::array<T, N> x;
    for (std::size_t k = 0; k < N; ++k) x[k] = arrays.values[k][i];
    rule(x, clip(arrays.grads[i]));
    for (std::size_t k = 0; k < N; ++k) {
      largest = std::max(largest, magnitude(x[k]));
      if constexpr (kWrite) arrays.values[k][i] = x[k];
    }
  }
  return largest;
}

template <class A, class Optimizer, class T, std::size_t N>
void step(const Optimizer& optimizer, const Clip& clip, const Arrays<T, N>& arrays, StepResult& result) {
  const typename Optimizer::template Rule<A> rule(optimizer);
  const Clip::Rule<A> clipping(clip);
  const auto updated = [&](auto write, Index begin, Index end) {
    return update<decltype(write)::value>(rule, clipping, arrays, begin, end);
  };
  const auto updated_all = [&](auto write) {
    return largest_over<T>(arrays.n, [&](Index begin, Index end) { return updated(write, begin, end); });
  };
  if (A::kWide && !is_finite<T>(updated_all(std::false_type{}))) {
    const FlushDenormals flush;
    Index i = 0;
    while (i + 1 < arrays.n && is_finite<T>(updated(std::false_type{}, i, i + 1))) ++i;
    result.overflow = i;
    return;
  }
  if (std::isfinite(clip.value)) {
    const Magnitude<T> bits = largest_magnitude(arrays.grads, arrays.n);
    T largest;
    std::memcpy(&largest, &bits, sizeof bits);
    result.clipped = result.clipped || clipping.scaled(largest) > clipping.value;
  }
  result.small = updated_all(std::true_type{}) <= magnitude(T(kSmall));
}

}  // namespace detail

template <class Optimizer, class T, std::size_t N>
StepResult step(const Optimizer& optimizer, const Arrays<T, N>& arrays, const Limits& limits, bool known_small) {
  StepResult result{norm(arrays.grads, arrays.n)};
  if (!std::isfinite(result.norm)) return result;
  result.clipped = result.norm > limits.norm;
  const Clip clip(result.norm, limits);
  const bool plain = optimizer.template plain<T>() && clip.template plain<T>() &&
                     std::min({result.norm, limits.norm, limits.value}) <= kSmall &&
                     (known_small || std::all_of(arrays.values.begin(), arrays.values.end(), [&](const T* values) {
                        return largest_magnitude(values, arrays.n) <= magnitude(T(kSmall));
                      }));
  if (plain)
    detail::step<Plain<T>>(optimizer, clip, arrays, result);
  else
    detail::step<Wide>(optimizer, clip, arrays, result);
  return result;
}

template StepResult step(const SGD&, const Arrays<float, 1>&, const Limits&, bool);
template StepResult step(const SGD&, const Arrays<float, 2>&, const Limits&, bool);
template StepResult step(const SGD&, const Arrays<double, 1>&, const Limits&, bool);
template StepResult step(const SGD&, const Arrays<double, 2>&, const Limits&, bool);
template StepResult step(const Adam&, const Arrays<float, 3>&, const Limits&, bool);
template StepResult step(const Adam&, const Arrays<double, 3>&, const Limits&, bool);

}  // namespace bptt::optim
