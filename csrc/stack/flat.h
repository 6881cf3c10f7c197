// SPDX-License-Identifier: Apache-2.0
// Where a flat buffer of one kernel's parameters, or of their gradients, has what: weight_ih [G*H,I], weight_hh
// [G*H,R/N], bias [G*H], vectors [P,H], projection [R,H], one after the other, those that there are.
#pragma once

#include <type_traits>
#include <utility>

#include "sequence/recurrence.h"

namespace bptt::stack {

template <class T>
struct FlatParts : sequence::Flat<T> {
  Index size;
};

/// flat may be null where only the size is asked for. Without bias a cell has no vectors but those that are no bias.
template <class T>
FlatParts<T> flat_parts(const sequence::Recurrence<std::remove_const_t<T>>& r, Index input, bool bias, T* flat) {
  const Index H = r.width(1), rows = checked_mul(r.gates(), H);
  Index at = 0;
  const auto take = [&](Index n, Index width, bool there = true) -> T* {
    if (!there) return nullptr;
    const Index begin = std::exchange(at, at + checked_mul(n, width));
    return flat ? flat + begin : nullptr;
  };
  FlatParts<T> parts;
  parts.weight_ih = take(rows, input);
  parts.weight_hh = take(rows, r.width(0) / r.heads());
  parts.bias = take(rows, 1, bias);
  parts.vectors = take(r.vectors(), H, r.vectors() > 0 && (bias || !r.vectors_are_bias()));
  parts.projection = take(r.width(0), H, r.projects());
  parts.size = at;
  return parts;
}

}  // namespace bptt::stack
