// SPDX-License-Identifier: Apache-2.0
// A pool of threads that runs one job at a time. No OpenMP of its own: a forked child of libgomp hangs, and PyTorch and
// scikit-learn already load two copies of it. A call that PyTorch makes is a guest on PyTorch's threads.
#pragma once

#include <atomic>
#include <cassert>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
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
  /// A callable job(thread, barrier), referred to and not owned: the pool is compiled once, not once for each job.
  class Job {
   public:
    template <class F>
    Job(const F& f)  // implicit: callers hand over a lambda
        : context_(&f), call_([](const void* context, int thread, Barrier& barrier) {
            (*static_cast<const F*>(context))(thread, barrier);
          }) {}
    void operator()(int thread, Barrier& barrier) const { call_(context_, thread, barrier); }

   private:
    const void* context_;
    void (*call_)(const void*, int, Barrier&);
  };

  static constexpr int kMaxThreads = Barrier::kMaxThreads;

  /// The process's pool, never destroyed: workers are not joined at exit. A forked child gets a new one, since the
  /// parent's workers do not exist there.
  static Pool& instance() {
    Pool* pool = current_.load(std::memory_order_acquire);
    if (pool) return *pool;
    auto made = std::make_unique<Pool>();
    if (current_.compare_exchange_strong(pool, made.get(), std::memory_order_acq_rel)) return *made.release();
    return *pool;  // of a thread that was faster
  }

  /// The threads of an OpenMP library that the process has loaded: GOMP_parallel, which runs f(data) on `threads` of
  /// them (0: as many as the library has), the caller's being one, and what it tells each of them.
  struct Host {
    void (*run)(void (*f)(void*), void* data, unsigned threads, unsigned flags);
    int (*team_size)();
    int (*thread)();
  };

  /// Says where guests run; a forked child forgets it, since libgomp would hang there.
  static void set_host(const Host& host) {
    host_.store(new Host(host), std::memory_order_release);  // never freed: threads may be using it
  }

  /// While it lives, and `wanted`, jobs of the calling thread run on the host's threads. Those spin for a while after
  /// each of its own jobs, and would take a core from our workers.
  class Guest {
   public:
    explicit Guest(bool wanted) : outer_(std::exchange(is_guest_, wanted)) {}
    ~Guest() { is_guest_ = outer_; }
    Guest(const Guest&) = delete;

   private:
    const bool outer_;
  };

  /// Threads a call may use; python/bptt/_threads.py says how many at first.
  static std::atomic<int>& size() { return size_; }

  /// Runs job(thread, barrier) on `threads` threads, the caller being thread 0; barrier.size() says how many they are.
  /// While another caller has the pool, the job runs on the caller alone. The first exception is rethrown here; a job
  /// that uses the barrier must not throw.
  void run(int threads, const Job& job) {
    assert(threads <= kMaxThreads);
    if (threads <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
      FlushDenormals flush;
      Barrier alone(1);
      job(0, alone);
      return;
    }
    const Lease lease{busy_};
    if (is_guest_ && run_at_host(threads, job)) return;
    while (int(workers_.size()) < threads - 1) {
      if (!add_worker()) threads = int(workers_.size()) + 1;
    }
    Barrier barrier(threads);
    begin(threads, job, barrier);
    pending_.store(threads - 1, std::memory_order_relaxed);
    wake_next(0);
    perform(0);
    spin_until([&] { return pending_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Lease {
    std::atomic<bool>& busy;
    ~Lease() { busy.store(false, std::memory_order_release); }
  };

  /// Signals the next call to one worker, which spins for a while, then parks. Each worker has one, so that a call
  /// wakes and awaits only the workers that it needs.
  class alignas(64) Worker {
   public:
    void wake() {
      ++turn_;
      if (!parked_) return;
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }  // until it waits
      wake_.notify_one();
    }

    /// Returns when there has been a turn after `seen`.
    void wait(std::uint64_t seen) {
      for (int i = 0; i < kSpins; ++i) {
        if (turn_.load(std::memory_order_acquire) != seen) return;
        cpu_relax();
      }
      std::unique_lock<std::mutex> lock(mutex_);
      parked_ = true;  // before it looks once more, as wake() looks after it has made the turn
      wake_.wait(lock, [&] { return turn_ != seen; });
      parked_ = false;
    }

   private:
    static constexpr int kSpins = 2000;  // about 50 us, longer than the Python code between two calls of training

    std::atomic<std::uint64_t> turn_{0};
    std::atomic<bool> parked_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
  };

  static inline std::atomic<int> size_{1};
  static inline std::atomic<Pool*> current_{nullptr};
  static inline std::atomic<const Host*> host_{nullptr};
  static inline thread_local bool is_guest_ = false;
#if defined(__unix__) || defined(__APPLE__)
  static inline const int at_fork_ =
      pthread_atfork(nullptr, nullptr, [] { current_.store(nullptr), host_.store(nullptr); });
#endif

  void begin(int threads, const Job& job, Barrier& barrier) {
    threads_ = threads;
    job_ = &job;
    barrier_ = &barrier;
    caller_core_ = Core::here();
    error_ = nullptr;
  }

  /// False, and nothing has run, where the host has fewer threads or none. It is asked for all of them: libgomp ends
  /// the threads that a smaller team leaves out, and makes them again for the next one.
  bool run_at_host(int threads, const Job& job) {
    const Host* const host = host_.load(std::memory_order_acquire);
    if (!host) return false;
    Barrier barrier(threads);
    begin(threads, job, barrier);
    struct Visit {
      Pool& pool;
      const Host& host;
      bool ran;
    } visit{*this, *host, false};
    const auto each = [](void* data) {
      auto& [pool, at, ran] = *static_cast<Visit*>(data);
      const int thread = at.thread();
      if (at.team_size() < pool.threads_ || thread >= pool.threads_) return;
      if (thread == 0)
        ran = true;
      else
        Core::leave(pool.caller_core_);
      pool.perform(thread);
    };
    host->run(each, &visit, 0, 0);
    if (error_) std::rethrow_exception(error_);
    return visit.ran;
  }

  /// False where the system has no more threads.
  bool add_worker() {
    workers_.reserve(workers_.size() + 1);  // before there is a thread: nothing may fail behind it
    auto made = std::make_unique<Worker>();
    try {
      std::thread([this, worker = made.get(), thread = int(workers_.size()) + 1] { work(*worker, thread); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    workers_.push_back(std::move(made));
    return true;
  }

  void perform(int thread) {
    FlushDenormals flush;
    try {
      (*job_)(thread, *barrier_);
    } catch (...) {
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  /// Each thread wakes two others, so that the caller does not wake all of them: it takes 2 to 5 us to wake a parked
  /// one.
  void wake_next(int thread) {
    for (int next = 2 * thread + 1; next <= 2 * thread + 2 && next < threads_; ++next)
      workers_[std::size_t(next - 1)]->wake();
  }

  void work(Worker& self, int thread) {
    for (std::uint64_t seen = 0;; ++seen) {
      self.wait(seen);
      wake_next(thread);
      if (seen == 0) Core::enter(thread, caller_core_);
      Core::leave(caller_core_);
      perform(thread);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::atomic<bool> busy_{false};
  std::vector<std::unique_ptr<Worker>> workers_;
  alignas(64) std::atomic<int> pending_{0};
  int threads_ = 1;  // of the job
  const Job* job_ = nullptr;
  Barrier* barrier_ = nullptr;
  int caller_core_ = -1;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace bptt
