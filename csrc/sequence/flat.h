// SPDX-License-Identifier: Apache-2.0
// The parameters of one kernel where users hold them.
#pragma once

#include <array>

namespace bptt::sequence {

constexpr int kMaxStates = 4;  // h first

/// A layer's parameters, or their gradients, as users hold them: weight_ih [G*H,I], weight_hh [G*H,Q] (Q = R,
/// or of N heads R/N), bias [G*H], vectors [P,H] (less the bias, where that is one of them), projection [R,H]. The last
/// three are null for zeros, or where there is no such thing.
template <class U>
struct Flat {
  U *weight_ih, *weight_hh, *bias, *vectors, *projection;

  /// In the order in which a flat buffer has them.
  std::array<U*, 5> all() const { return {weight_ih, weight_hh, bias, vectors, projection}; }
};

}  // namespace bptt::sequence
