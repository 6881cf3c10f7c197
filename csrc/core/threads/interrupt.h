// SPDX-License-Identifier: Apache-2.0
// How a long job finds out that it should stop.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace bptt {

/// Polls whether a long job should stop: it calls `interrupted` about ten times a second and reads the clock about once
/// a millisecond. Jobs that run in parallel share `stop`: the first one that stops stops all.
class Poll {
 public:
  using Interrupted = bool (*)();

  explicit Poll(Interrupted interrupted, std::atomic<bool>* stop = nullptr) : interrupted_(interrupted), stop_(stop) {}

  /// After `work` more units of work, such as rows.
  bool operator()(std::int64_t work = 1) {
    left_ -= work;
    return left_ <= 0 && look();
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool look() {
    if (stop_ && stop_->load(std::memory_order_relaxed)) return true;
    const auto now = Clock::now();
    const auto since = now - looked_;
    looked_ = now;
    if (since < std::chrono::microseconds(500)) stride_ = std::min<std::int64_t>(2 * stride_, 1 << 20);
    if (since > std::chrono::microseconds(1000)) stride_ = std::max<std::int64_t>(1, stride_ / 4);
    left_ = stride_;
    if (now - asked_ < std::chrono::milliseconds(100)) return false;
    asked_ = now;
    const bool stopped = interrupted_();
    if (stopped && stop_) stop_->store(true, std::memory_order_relaxed);
    return stopped;
  }

  Interrupted interrupted_;
  std::atomic<bool>* stop_;
  std::int64_t stride_ = 1, left_ = 1;  // work between two looks at the clock, and until the next one
  Clock::time_point looked_ = Clock::now(), asked_ = looked_;
};

}  // namespace bptt
