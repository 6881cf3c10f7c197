// SPDX-License-Identifier: Apache-2.0
// Norm, clipping and update in two passes over the gradient, without a copy of it.
#include "optim/step.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "optim/norm.h"
#include "optim/rules.h"

namespace bptt::optim {

namespace detail {

/// The largest magnitude among the new values of elements [begin, end), which are stored with kWrite.
template <bool kWrite, class Rule, class Clipping, class T, std::size_t N>
Magnitude<T> update(const Rule rule, const Clipping clip, const std::array<T*, N> values, const T* grads, Share part) {
  Magnitude<T> largest = 0;
  for (Index i = part.begin; i < part.end; ++i) {
    std::array<T, N> x;
    for (std::size_t k = 0; k < N; ++k) x[k] = values[k][i];
    rule(x, clip(grads[i]));
    for (std::size_t k = 0; k < N; ++k) {
      largest = std::max(largest, magnitude(x[k]));
      if constexpr (kWrite) values[k][i] = x[k];
    }
  }
  return largest;
}

/// f(s, part) for each span s and its part of [begin, end).
template <class F>
void for_spans(const std::vector<Span>& spans, Index begin, Index end, F&& f) {
  Index start = 0;
  for (std::size_t s = 0; s < spans.size() && start < end; ++s) {
    const Index first = std::max(begin, start), last = std::min(end, spans[s].end);
    if (first < last) f(s, Share(first, last));
    start = spans[s].end;
  }
}

/// Whether an element is clamped, and the norm after that.
template <class T, class Clipping>
void measure_clamping(const Clipping& clipping, const Arrays<T>& arrays, const Setting& setting, StepResult& result) {
  bool clamped = false;
  for_spans(setting.spans, 0, arrays.n, [&](std::size_t s, Share part) {
    const Magnitude<T> bits = largest_magnitude(arrays.grads + part.begin, part.end - part.begin);
    T largest;
    std::memcpy(&largest, &bits, sizeof bits);
    clamped = clamped || clipping[s].scaled(largest) > clipping[s].value;
  });
  if (!clamped) return;
  result.clipped = true;
  result.clipped_norm = 0;
  for_spans(setting.spans, 0, arrays.n, [&](std::size_t s, Share part) {
    const auto clamp = [&](T g) { return double(clipping[s](g)); };
    const double each = norm(arrays.grads + part.begin, part.end - part.begin, clamp);
    result.clipped_norm = std::hypot(result.clipped_norm, each);
  });
}

template <class A, class Optimizer, class T>
void step(const Optimizer& optimizer, const std::vector<Clip>& clips, const Arrays<T>& arrays, const Setting& setting,
          StepResult& result) {
  constexpr std::size_t N = 1 + Optimizer::kMoments;
  std::array<T*, N> values;
  std::copy_n(arrays.values, N, values.begin());
  std::vector<typename Optimizer::template Rule<A>> rules;
  std::vector<Clip::Rule<A>> clipping(clips.begin(), clips.end());
  for (const Span& span : setting.spans) rules.emplace_back(optimizer, Rates{span.lr, span.weight_decay});
  const auto updated = [&](auto write, Index begin, Index end) {
    Magnitude<T> largest = 0;
    for_spans(setting.spans, begin, end, [&](std::size_t s, Share part) {
      largest = std::max(largest, update<decltype(write)::value>(rules[s], clipping[s], values, arrays.grads, part));
    });
    return largest;
  };
  const auto updated_all = [&](auto write) {
    return largest_over<T>(arrays.n, [&](Index begin, Index end) { return updated(write, begin, end); });
  };
  if (A::kWide && !is_finite<T>(updated_all(std::false_type{}))) {
    const FlushDenormals flush;
    for_spans(setting.spans, 0, arrays.n, [&](std::size_t s, Share part) {
      const auto finite = [&](Index i) {
        return is_finite<T>(update<false>(rules[s], clipping[s], values, arrays.grads, Share(i, i + 1)));
      };
      Index i = part.begin;
      while (result.overflow < 0 && i < part.end && finite(i)) ++i;
      if (result.overflow < 0 && i < part.end) result.overflow = i;
    });
    assert(result.overflow >= 0);
    return;
  }
  if (std::isfinite(setting.limits.value)) measure_clamping<T>(clipping, arrays, setting, result);
  result.small = updated_all(std::true_type{}) <= magnitude(T(kSmall));
}

/// The norm of each span, where they have a limit, else that of all in norms[0].
template <class T>
std::vector<double> norms(const Arrays<T>& arrays, const Setting& setting) {
  std::vector<double> found;
  if (std::isfinite(setting.limits.span_norm)) {
    Index begin = 0;
    for (const Span& span : setting.spans) {
      found.push_back(norm(arrays.grads + begin, span.end - begin));
      begin = span.end;
    }
  } else {
    found.push_back(norm(arrays.grads, arrays.n));
  }
  return found;
}

/// Of the parts' norms, each at most `limit`; NaN and infinity stay what they are.
inline double joint_norm(const std::vector<double>& norms, double limit) {
  double total = 0;
  for (const double each : norms) {
    if (!std::isfinite(each)) return each;
    total = norms.size() == 1 ? std::min(each, limit) : std::hypot(total, std::min(each, limit));
  }
  return total;
}

template <class Optimizer, class T>
StepResult step(const Optimizer& optimizer, const Arrays<T>& arrays, const Setting& setting) {
  const Limits& limits = setting.limits;
  const std::vector<double> norms = detail::norms(arrays, setting);
  StepResult result{joint_norm(norms, std::numeric_limits<double>::infinity()), 0, 0};
  if (!std::isfinite(result.norm)) return result;
  const double after_spans = joint_norm(norms, limits.span_norm);
  const double rest = after_spans > limits.norm ? limits.norm / after_spans : 1;
  result.limited_norm = result.clipped_norm = std::min(after_spans, limits.norm);
  result.clipped = after_spans > limits.norm;
  std::vector<Clip> clips;
  bool plain = std::min(result.limited_norm, limits.value) <= kSmall;
  for (std::size_t s = 0; s < setting.spans.size(); ++s) {
    const double norm = norms[norms.size() == 1 ? 0 : s];
    // Without limits of spans exactly the limit: the same bits as if there were no spans.
    const double target =
        norms.size() == 1 ? std::min(limits.span_norm, limits.norm) : std::min(norm, limits.span_norm) * rest;
    clips.emplace_back(norm, target, limits.value);
    result.clipped = result.clipped || norm > limits.span_norm;
    const Rates rates{setting.spans[s].lr, setting.spans[s].weight_decay};
    plain = plain && optimizer.template plain<T>(rates) && clips.back().template plain<T>();
  }
  if (!setting.known_small) {
    for (std::size_t k = 0; plain && k < 1 + Optimizer::kMoments; ++k) {
      plain = largest_magnitude(arrays.values[k], arrays.n) <= magnitude(T(kSmall));
    }
  }
  if (plain)
    step<Plain<T>>(optimizer, clips, arrays, setting, result);
  else
    step<Wide>(optimizer, clips, arrays, setting, result);
  return result;
}

template <class Optimizer, std::size_t... I>
Optimizer made(const double* options, std::index_sequence<I...>) {
  return {options[I]...};
}

template <class Optimizer, class T>
StepResult step_of(const double* options, const Arrays<T>& arrays, const Setting& setting) {
  assert(!setting.spans.empty() && setting.spans.back().end == arrays.n);
  return step(made<Optimizer>(options, std::make_index_sequence<Optimizer::kOptions.size()>()), arrays, setting);
}

template <class Optimizer>
constexpr RuleEntry entry() {
  static_assert(Optimizer::kOptions.size() <= kMaxOptions);
  return {Optimizer::kName,           int(Optimizer::kMoments),
          Optimizer::kOptions.data(), int(Optimizer::kOptions.size()),
          &step_of<Optimizer, float>, &step_of<Optimizer, double>};
}

constexpr RuleEntry kRules[] = {
    entry<SGD<false>>(),
    entry<SGD<true>>(),
    entry<Adam<false>>(),
    entry<Adam<true>>(),
    entry<NAdam>(),
    entry<RMSprop<false, false>>(),
    entry<RMSprop<false, true>>(),
    entry<RMSprop<true, false>>(),
    entry<RMSprop<true, true>>(),
    entry<Adagrad>(),
    entry<Lion>(),
};

}  // namespace detail

const RuleEntry* find_rule(const char* name, int moments) {
  const auto* found = std::find_if(std::begin(detail::kRules), std::end(detail::kRules), [&](const RuleEntry& rule) {
    return std::strcmp(rule.name, name) == 0 && rule.moments == moments;
  });
  return found == std::end(detail::kRules) ? nullptr : found;
}

}  // namespace bptt::optim
