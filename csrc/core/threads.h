// SPDX-License-Identifier: Apache-2.0
// A pool of threads that runs one job at a time, and what a job needs: a barrier that can be called off, a flag for
// interruption, and flushing of denormals. No OpenMP: a forked child of libgomp hangs, and two copies of it are loaded
// beside PyTorch and scikit-learn already.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
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

/// Waits for a condition: busy for a while, then letting other threads run, so that a machine with more threads than
/// cores still moves. Longer than partners of a job differ by: who yields beside another busy program is away for its
/// whole turn of 3 ms (LSTM B=32 T=100 H=128 training on two threads, one core busy: 164 ms after 6 us, 28 after 60).
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

/// Denormal results and operands are zero while this lives: they slow recurrent steps 18 to 27 times.
class FlushDenormals {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__) && !defined(_MSC_VER)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (std::uint64_t(1) << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  std::uint64_t saved_;
#endif
};

/// Where all `size` threads of a job meet. Calling the job off releases everybody, now and at every later meeting.
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

/// Asks now and then whether a long job should stop: `interrupted` is called about ten times a second, the clock read
/// about once a millisecond. `stop`, where it is given, is shared by jobs side by side: what stops one of them stops
/// all.
class Poll {
 public:
  using Interrupted = bool (*)();

  explicit Poll(Interrupted interrupted, std::atomic<bool>* stop = nullptr) : interrupted_(interrupted), stop_(stop) {}

  /// After `work` more of whatever the job counts, rows for example.
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

/// Cores this process may use: its affinity mask, bounded by the cgroup's quota.
inline int available_cores() {
  int cores = std::max(1, int(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = std::max(1, CPU_COUNT(&set));
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::ifstream quota_v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period_v1("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if ((v2 >> quota >> period || (quota_v1 >> quota && period_v1 >> period)) && quota > 0 && period > 0) {
    cores = std::min(cores, std::max(1, int((quota + period - 1) / period)));
  }
#endif
  return cores;
}

/// BPTT_NUM_THREADS where it is a positive number, else the available cores.
inline int default_threads() {
  if (const char* text = std::getenv("BPTT_NUM_THREADS")) {
    const long n = std::strtol(text, nullptr, 10);
    if (n >= 1) return int(std::min(n, 256L));
  }
  return available_cores();
}

/// Which core a thread is on, and a way off it. Linux may keep two busy threads on one core for 0.1 s and more while
/// another is idle: LSTM B=20 T=30 H=300 on two threads that had begun on one core took 4.1 instead of 2.2 ms for so
/// long.
class Core {
 public:
#if defined(__linux__)
  static int here() { return sched_getcpu(); }

  /// Moves the calling thread away where it is on `taken`; the cores that it may use stay what they were.
  static void leave(int taken) {
    cpu_set_t allowed, others;
    if (here() != taken || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(std::size_t(taken), &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
  }
#else
  static int here() { return -1; }
  static void leave(int) {}
#endif
};

class Pool {
 public:
  static constexpr int kMaxThreads = 256;

  /// The process's pool; a forked child gets a new one, since the parent's workers do not exist there.
  static Pool& instance() {
    Pool* pool = current().load(std::memory_order_acquire);
    if (pool) return *pool;
    static std::mutex creation;
    std::lock_guard<std::mutex> lock(creation);
    pool = current().load(std::memory_order_acquire);
    if (!pool) {
#if defined(__unix__) || defined(__APPLE__)
      static const int registered = pthread_atfork(nullptr, nullptr, [] {
        current().store(nullptr, std::memory_order_release);
        new (&creation) std::mutex;
      });
      (void)registered;
#endif
      pool = new Pool;  // never destroyed: workers are not joined at exit
      current().store(pool, std::memory_order_release);
    }
    return *pool;
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

  static std::atomic<Pool*>& current() {
    static std::atomic<Pool*> pool{nullptr};
    return pool;
  }

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
