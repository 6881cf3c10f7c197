// SPDX-License-Identifier: Apache-2.0
// How the threads of a job wait for each other: spinning, and a barrier that can be cancelled.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace bptt {

inline void cpu_relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
  asm volatile("yield");
#endif
}

/// Waits for a condition: spins for 60 us, then yields, so that a machine with more threads than cores still moves. The
/// spin outlasts the usual skew between a job's threads: a thread that yields on a busy machine loses its core for a
/// slice of 3 ms (LSTM B=32 T=100 H=128 training on two threads, one core busy: 164 ms with 6 us, 28 ms with 60 us).
template <class Condition>
void spin_until(Condition condition) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point end{};
  for (int i = 1; !condition(); ++i) {
    if (i % 64 != 0)
      cpu_relax();
    else if (i == 64)
      end = Clock::now() + std::chrono::microseconds(60);
    else if (Clock::now() > end)
      i = 127, std::this_thread::yield();
  }
}

/// A barrier of all `size` threads of a job. Cancelling the job releases all threads, now and at every later barrier.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  int size() const { return size_; }

  /// False once the job has been called off.
  bool wait() {
    if (size_ > 1) {
      const unsigned round = round_.load(std::memory_order_acquire);
      if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
      } else {
        spin_until([&] { return round_.load(std::memory_order_acquire) != round || cancelled(); });
      }
    }
    return !cancelled();
  }

  void cancel() { cancelled_.store(true, std::memory_order_release); }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

 private:
  const int size_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
  std::atomic<bool> cancelled_{false};
};

}  // namespace bptt
