// SPDX-License-Identifier: Apache-2.0
// How weights are stored. The type of one stored value names the format: T itself for values as they are; another type
// with a specialisation of Format for weights that are stored in fewer bits. Panels hold such values, and the
// micro-kernel reads them through Format. Sums are in T whatever the format.
#pragma once

#include "core/simd/vec.h"

namespace bptt {

/// Values as they are. A specialisation for another type has the same members. Stored() is zero.
template <class Stored>
struct Format {
  using Value = Stored;  // what a stored value stands for, and the type of sums

  /// The values of a register.
  static BPTT_INLINE Vec<Value> load(const Stored* p) { return Vec<Value>::load(p); }
  /// The first n lanes, each rounded as `narrow` does.
  static BPTT_INLINE void store(Stored* p, Vec<Value> x, Index n) { x.store(p, n); }

  static Stored narrow(Value x) { return x; }
  static Value widen(Stored x) { return x; }
};

}  // namespace bptt
