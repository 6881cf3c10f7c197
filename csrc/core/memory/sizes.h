// SPDX-License-Identifier: Apache-2.0
// Sizes: 64 bits wide everywhere, and checked where they are multiplied before an allocation.
#pragma once

#include <cstdint>
#include <limits>
#include <new>

namespace bptt {

using Index = std::int64_t;

inline Index ceil_div(Index a, Index b) { return a / b + (a % b != 0); }

/// a * b for sizes; an impossible size is std::bad_alloc (MemoryError in Python), never a wrapped number.
inline Index checked_mul(Index a, Index b) {
  if (a < 0 || b < 0 || (a != 0 && b > std::numeric_limits<Index>::max() / 64 / a)) throw std::bad_alloc();
  return a * b;
}

}  // namespace bptt
