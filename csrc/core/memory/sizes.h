// SPDX-License-Identifier: Apache-2.0
// Sizes: 64 bits wide everywhere, and checked where they are multiplied before an allocation.
#pragma once

#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <new>

namespace bptt {

using Index = std::int64_t;

inline Index ceil_div(Index a, Index b) { return a / b + (a % b != 0); }

/// Memory that cannot be had: MemoryError in Python. It takes no memory itself.
class OutOfMemory : public std::bad_alloc {
 public:
  /// `bytes` that the system did not give.
  explicit OutOfMemory(std::size_t bytes) {
    std::snprintf(text_, sizeof text_, "memory: %zu bytes could not be allocated, expected smaller sizes", bytes);
  }
  /// A size that no memory has.
  OutOfMemory(Index a, Index b) {
    std::snprintf(text_, sizeof text_, "memory: a size is %" PRId64 " x %" PRId64 " values, expected less than 2^57", a,
                  b);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[120];
};

/// a * b for sizes; an impossible size is OutOfMemory, never a wrapped number.
inline Index checked_mul(Index a, Index b) {
  if (a < 0 || b < 0 || (a != 0 && b > std::numeric_limits<Index>::max() / 64 / a)) throw OutOfMemory(a, b);
  return a * b;
}

/// a + b for sizes that are not negative, the same way.
inline Index checked_add(Index a, Index b) {
  if (b > std::numeric_limits<Index>::max() - a) throw OutOfMemory(a, b);
  return a + b;
}

}  // namespace bptt
