// SPDX-License-Identifier: Apache-2.0
// One optimizer step over flat arrays of n parameters. A step that would leave an infinite value or NaN anywhere is not
// taken; the caller sees it in the result.
#pragma once

#include <vector>

#include "core/memory/sizes.h"
#include "optim/clip.h"

namespace bptt::optim {

/// The parameters from the end of the span before, 0 for the first, to `end`: what differs between them and others.
struct Span {
  Index end;
  double lr, weight_decay;
};

/// What a step changes (values: parameters first, then moments) and by which gradient, all [n].
template <class T>
struct Arrays {
  T* const* values;
  const T* grads;
  Index n;
};

/// All that a step needs but its arrays. `known_small`: the caller knows from the last step that all values are small;
/// else they are measured.
struct Setting {
  std::vector<Span> spans;  // at least one; the last ends at n
  Limits limits;
  bool known_small;
};

struct StepResult {
  double norm;          // before clipping
  double limited_norm;  // after the norms are clipped, before the elements are
  double clipped_norm;  // after all clipping
  bool clipped = false;
  Index overflow = -1;  // the first element whose parameter or moment would not be finite; nothing changed then
  bool small = false;   // whether no magnitude in the values is above kSmall
};

/// A rule of rules.h, without its type. `options` are the values of the `options_count` names in `option_names`.
struct RuleEntry {
  const char* name;
  int moments;
  const char* const* option_names;
  int options_count;
  StepResult (*step_float)(const double* options, const Arrays<float>& arrays, const Setting& setting);
  StepResult (*step_double)(const double* options, const Arrays<double>& arrays, const Setting& setting);

  StepResult step(const double* options, const Arrays<float>& arrays, const Setting& setting) const {
    return step_float(options, arrays, setting);
  }
  StepResult step(const double* options, const Arrays<double>& arrays, const Setting& setting) const {
    return step_double(options, arrays, setting);
  }
};

constexpr int kMaxOptions = 8;

/// The rule of this name with this number of moments; null where there is none.
const RuleEntry* find_rule(const char* name, int moments);

}  // namespace bptt::optim
