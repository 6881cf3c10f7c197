// SPDX-License-Identifier: Apache-2.0
// Rows whose distance may differ from their width, and copies of such rows.
#pragma once

#include <algorithm>
#include <cassert>

#include "core/memory/sizes.h"

namespace bptt {

/// Rows of values, `ld` apart.
template <class U>
struct StridedRows {
  U* data;
  Index ld;
  bool ordered = true;  // in the order of the kernels' rows, or as the caller sees them

  /// The values from a column on; no data stays none.
  StridedRows from(Index column) const { return {data ? data + column : data, ld, ordered}; }
};

/// `columns` values of each row; the rest of a wider row of the target becomes zero.
template <class T>
void copy_rows(T* to, Index ld_to, const T* from, Index ld_from, Index rows, Index columns) {
  assert(columns <= ld_to && (columns <= ld_from || rows <= 1));
  for (Index r = 0; r < rows; ++r) {
    std::copy_n(from + r * ld_from, columns, to + r * ld_to);
    std::fill(to + r * ld_to + columns, to + (r + 1) * ld_to, T(0));
  }
}

}  // namespace bptt
