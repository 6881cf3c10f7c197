// SPDX-License-Identifier: Apache-2.0
// How a long job finds out that it should stop.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace bptt {

/// Asks now and then whether a long job should stop; `interrupted` is called about ten times a second. `stop`, where it
/// is given, is shared by jobs side by side: what stops one of them stops all.
class Poll {
 public:
  using Interrupted = bool (*)();

  Poll(Interrupted interrupted, double step_time_s, std::atomic<bool>* stop)
      : interrupted_(interrupted), stop_(stop), stride_(std::int64_t(std::clamp(1e-3 / step_time_s, 1.0, 1e4))) {}

  bool operator()() {
    if (++steps_ % stride_ != 0) return false;
    if (stop_ && stop_->load(std::memory_order_relaxed)) return true;
    const auto now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return false;
    last_ = now;
    const bool stopped = interrupted_();
    if (stopped && stop_) stop_->store(true, std::memory_order_relaxed);
    return stopped;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Interrupted interrupted_;
  std::atomic<bool>* stop_;
  std::int64_t stride_, steps_ = 0;
  Clock::time_point last_ = Clock::now();
};

}  // namespace bptt
