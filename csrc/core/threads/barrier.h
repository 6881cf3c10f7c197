// SPDX-License-Identifier: Apache-2.0
// How the threads of a job wait for each other: spinning, and a barrier that can be cancelled.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "core/threads/cores.h"

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

/// How long a thread spins before it yields its core. The spin outlasts the usual skew between a job's threads: a
/// thread that yields on a busy machine loses its core for a slice of 3 ms (LSTM B=32 T=100 H=128 training on two
/// threads, one core busy: 164 ms with 6 us, 28 ms with 60 us).
constexpr std::chrono::microseconds kSpin(60);

/// Waits for a condition: spins for `spin`, then yields, so that a machine with more threads than cores still moves.
template <class Condition>
void spin_until(Condition condition, std::chrono::microseconds spin = kSpin) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point end{};
  for (int i = 1; !condition(); ++i) {
    if (i % 64 != 0)
      cpu_relax();
    else if (i == 64)
      end = Clock::now() + spin;
    else if (Clock::now() > end)
      i = 127, std::this_thread::yield();
  }
}

/// Neighbouring threads of a job.
struct Team {
  int first, size;
};

/// A barrier of all `size` threads of a job, or of the threads of each team. Cancelling the job releases all threads,
/// now and at every later barrier.
///
/// A wait has log2(size) rounds: in each, a thread counts on and waits for the thread 1, 2, 4, ... places further, so
/// that behind the last round it has heard of all. Each counter has one writer and, in a round, one reader, and there
/// is no place where all threads meet: with a counter for all, a wait takes as many transfers of one cache line as
/// there are threads.
class Barrier {
 public:
  static constexpr int kMaxThreads = 256;

  explicit Barrier(int size) : size_(size), spin_(size <= Core::count() ? kSpin : std::chrono::microseconds(0)) {
    for (int i = 0; i < size && size > 1; ++i) {
      places_[i].all.store(0, std::memory_order_relaxed);
      places_[i].team.store(0, std::memory_order_relaxed);
    }
  }
  int size() const { return size_; }

  /// Until all threads wait. False once the job has been called off.
  bool wait(int thread) { return wait(thread, {0, size_}, &Place::all); }
  /// Until all of the calling thread's team wait. The teams of a job stay the same.
  bool wait(int thread, const Team& team) { return wait(thread, team, &Place::team); }

  void cancel() { cancelled_.store(true, std::memory_order_release); }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

 private:
  struct alignas(64) Place {
    std::atomic<unsigned> all, team;  // the rounds that a thread has begun, and those among its team
  };

  bool wait(int thread, const Team& team, std::atomic<unsigned> Place::* counter) {
    std::atomic<unsigned>& own = places_[thread].*counter;
    for (int step = 1; step < team.size; step *= 2) {
      const unsigned round = own.load(std::memory_order_relaxed) + 1;
      own.store(round, std::memory_order_release);
      const int place = thread - team.first + step;
      const auto& other = places_[team.first + (place < team.size ? place : place - team.size)].*counter;
      const auto arrived = [&] { return int(other.load(std::memory_order_acquire) - round) >= 0 || cancelled(); };
      spin_until(arrived, spin_);
    }
    return !cancelled();
  }

  const int size_;
  const std::chrono::microseconds spin_;
  alignas(64) std::atomic<bool> cancelled_{false};
  Place places_[kMaxThreads];  // of the threads that there are; the others stay untouched
};

}  // namespace bptt
