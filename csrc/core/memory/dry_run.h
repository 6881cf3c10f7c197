// SPDX-License-Identifier: Apache-2.0
// What a call will hold at its peak: the call itself runs, but its buffers are only counted, and no step is computed.
// So the lines that take memory are also those that say how much.
#pragma once

#include <algorithm>
#include <cassert>
#include <utility>

#include "core/memory/sizes.h"

namespace bptt {

/// While it lives, buffers that this thread makes are counted and have no data; whoever would touch data asks on().
class DryRun {
 public:
  DryRun() {
    assert(!current_);
    current_ = this;
  }
  DryRun(const DryRun&) = delete;
  ~DryRun() { current_ = nullptr; }

  /// Null where memory is taken.
  static DryRun* current() { return current_; }
  static bool on() { return current_ != nullptr; }

  void take(Index bytes) {
    in_use_ = checked_add(in_use_, bytes);
    peak_ = std::max(peak_, in_use_);
  }
  void give(Index bytes) { in_use_ -= bytes; }
  Index peak() const { return peak_; }

  /// job(0) to job(n - 1) as if they ran in parallel: their peaks add up.
  template <class Job>
  void parallel(int n, const Job& job) {
    const Index before = std::exchange(peak_, in_use_);
    Index together = in_use_;
    for (int i = 0; i < n; ++i) {
      const Index start = peak_ = in_use_;
      job(i);
      together = checked_add(together, peak_ - start);
    }
    peak_ = std::max(before, together);
  }

 private:
  static inline thread_local DryRun* current_ = nullptr;
  Index in_use_ = 0, peak_ = 0;
};

}  // namespace bptt
