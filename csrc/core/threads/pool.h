// SPDX-License-Identifier: Apache-2.0
// A pool of threads that runs one job at a time. No OpenMP: a forked child of libgomp hangs, and two copies of it are
// loaded beside PyTorch and scikit-learn already.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "core/threads/barrier.h"
#include "core/threads/cores.h"
#include "core/threads/denormals.h"

namespace bptt {

class Pool {
 public:
  static constexpr int kMaxThreads = 256;

  /// The process's pool, never destroyed: workers are not joined at exit. A forked child gets a new one, since the
  /// parent's workers do not exist there.
  static Pool& instance() {
    Pool* pool = current_.load(std::memory_order_acquire);
    if (pool) return *pool;
    auto made = std::make_unique<Pool>();
    if (current_.compare_exchange_strong(pool, made.get(), std::memory_order_acq_rel)) return *made.release();
    return *pool;  // of a thread that was faster
  }

  /// Threads a call may use.
  static std::atomic<int>& size() {
    static std::atomic<int> size{default_threads()};
    return size;
  }

  /// Runs job(thread, barrier) on `threads` threads, the caller being thread 0; barrier.size() says how many they are.
  /// While another caller has the pool, the job runs on the caller alone. The first exception is rethrown here; a job
  /// that uses the barrier must not throw.
  template <class Job>
  void run(int threads, const Job& job) {
    std::unique_lock<std::mutex> lease(lease_, std::defer_lock);
    if (threads <= 1 || !lease.try_lock()) {
      FlushDenormals flush;
      Barrier alone(1);
      job(0, alone);
      return;
    }
    Barrier barrier(threads);
    const Call<Job> call{job, barrier};
    while (int(workers_.size()) < threads - 1) {
      const int id = int(workers_.size()) + 1;
      workers_.emplace_back([this, id, seen = epoch_.load()] { work(id, seen); });
      workers_.back().detach();
    }
    perform_ = [](const void* context, int thread) {
      const auto& c = *static_cast<const Call<Job>*>(context);
      c.job(thread, c.barrier);
    };
    context_ = &call;
    caller_core_ = Core::here();
    threads_ = threads;
    error_ = nullptr;
    pending_.store(int(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (parked_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    perform(0);
    spin_until([&] { return pending_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  template <class Job>
  struct Call {
    const Job& job;
    Barrier& barrier;
  };

  static inline std::atomic<Pool*> current_{nullptr};
#if defined(__unix__) || defined(__APPLE__)
  static inline const int at_fork_ = pthread_atfork(nullptr, nullptr, [] { current_.store(nullptr); });
#endif

  void perform(int thread) {
    FlushDenormals flush;
    try {
      perform_(context_, thread);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int thread, std::uint64_t seen) {
    for (;;) {
      for (int i = 0; i < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++i) cpu_relax();
      if (epoch_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        parked_.fetch_add(1, std::memory_order_release);
        wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
        parked_.fetch_sub(1, std::memory_order_release);
      }
      ++seen;
      if (thread < threads_) {
        Core::leave(caller_core_);
        perform(thread);
      }
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  static constexpr int kSpins = 2000;  // about 50 us, longer than the Python code between two calls of a training step

  std::mutex lease_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  alignas(64) std::atomic<std::uint64_t> epoch_{0};
  alignas(64) std::atomic<int> pending_{0};
  std::atomic<int> parked_{0};
  void (*perform_)(const void*, int) = nullptr;
  const void* context_ = nullptr;
  int threads_ = 1, caller_core_ = -1;
  std::exception_ptr error_;
};

}  // namespace bptt
