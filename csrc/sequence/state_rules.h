// SPDX-License-Identifier: Apache-2.0
// What a call asks to happen to states and gradients between two steps (state_transition.h).
#pragma once

#include <array>
#include <cstdint>
#include <limits>

namespace bptt::sequence {

struct StateRules {
  std::array<double, 2> zoneout{};  // probabilities that a unit keeps its old value: of h, of every other state
  double dropout = 0;               // of units of h in the product, in training
  double clip = std::numeric_limits<double>::infinity();           // of states
  double clip_gradient = std::numeric_limits<double>::infinity();  // of the gradients of pre-activations
  std::uint64_t seed = 0;                                          // of the masks

  bool zones() const { return zoneout[0] > 0 || zoneout[1] > 0; }
  bool mixes() const { return zones() || clip < std::numeric_limits<double>::infinity(); }
  bool clips_gradient() const { return clip_gradient < std::numeric_limits<double>::infinity(); }
};

}  // namespace bptt::sequence
