// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, as JSON on stdout: `probe THREADS [SECONDS_PER_POINT]`.
// FMA rate from registers, read rate by size of the set, flag round trip between two cores. One core, then all at once.
// Compiled by machine.py when the benchmark starts; not part of the library. Rates are the best of several tries: what
// else runs on the machine only ever takes away. One core alone is each of them in turn.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kChains = 24;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kChains = 12;
#else
constexpr int kVectorBytes = 16, kChains = 12;
#endif
constexpr int kTries = 6, kStreams = 16;

typedef float Vector __attribute__((vector_size(kVectorBytes)));

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void pin([[maybe_unused]] int thread) {
#ifdef __linux__
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != thread) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
#endif
}

Vector splat(float value) { return value - Vector{}; }

volatile float sink;

float sum(const Vector* v, int n) {
  float total = 0;
  for (int i = 0; i < n; ++i) total += v[i][0];
  return total;
}

// Flops of `rounds` rounds of independent FMA chains in registers.
double fma_chains(long rounds) {
  Vector a[kChains];
  // From a volatile, so that the compiler cannot see that two chains hold the same values and drop one.
  for (int i = 0; i < kChains; ++i) a[i] = splat(sink + float(i));
  const Vector x = splat(0.9f), y = splat(1.1f);
  for (long k = 0; k < rounds; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) a[i] = a[i] * x + y;
  }
  sink = sum(a, kChains);
  return 2.0 * double(rounds) * kChains * (kVectorBytes / 4);
}

// Reads `n` vectors, `n` a multiple of kStreams.
void read_all(const Vector* p, size_t n) {
  Vector a[kStreams] = {};
  for (size_t i = 0; i < n; i += kStreams) {
#pragma GCC unroll 16
    for (int k = 0; k < kStreams; ++k) a[k] += p[i + size_t(k)];
  }
  sink = sum(a, kStreams);
}

// Runs work() on `threads` threads, pinned from core `first` on, all starting together; the mean of the rates it
// returns.
template <class Work>
double together(int threads, int first, Work work) {
  std::atomic<int> ready{0};
  std::vector<double> rates(static_cast<size_t>(threads));
  auto body = [&](int thread) {
    pin(first + thread);
    ready.fetch_add(1);
    while (ready.load() < threads) {
    }
    rates[size_t(thread)] = work();
  };
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) workers.emplace_back(body, t);
  for (auto& worker : workers) worker.join();
  double total = 0;
  for (double rate : rates) total += rate;
  return total / threads;
}

double peak_gflops(int threads, int cores, double seconds) {
  double best = 0;
  for (int k = 0; k < 4 * kTries; ++k) {
    const double rate = together(threads, k % (cores - threads + 1), [&] {
      double flops = 0;
      const double t0 = now_s();
      while (now_s() - t0 < seconds) flops += fma_chains(100000);
      return flops / (now_s() - t0) / 1e9;
    });
    if (rate > best) best = rate;
  }
  return best;
}

double read_gbs(int threads, int cores, size_t bytes, double seconds) {
  double best = 0;
  for (int k = 0; k < kTries; ++k) {
    const double rate = together(threads, k % (cores - threads + 1), [&] {
      auto* memory = static_cast<Vector*>(std::aligned_alloc(4096, bytes));
      if (!memory) return 0.0;
      std::memset(static_cast<void*>(memory), 0, bytes);
      const size_t n = bytes / sizeof(Vector), inner = 1 + (size_t(1) << 20) / bytes;
      read_all(memory, n);
      double done = 0;
      const double t0 = now_s();
      while (now_s() - t0 < seconds) {
        for (size_t i = 0; i < inner; ++i) read_all(memory, n);
        done += double(inner) * double(bytes);
      }
      const double rate = done / (now_s() - t0) / 1e9;
      std::free(memory);
      return rate;
    });
    if (rate > best) best = rate;
  }
  return best;
}

// Flag to the other core and back, in microseconds.
double round_trip_us() {
  alignas(128) static std::atomic<int> ping, pong;
  constexpr int kTrips = 20000;
  double best = 1e9;
  for (int k = 0; k < kTries; ++k) {
    ping = pong = 0;
    std::thread other([] {
      pin(1);
      for (int i = 1; i <= kTrips; ++i) {
        while (ping.load(std::memory_order_acquire) != i) {
        }
        pong.store(i, std::memory_order_release);
      }
    });
    double time_s = 0;
    std::thread self([&] {
      pin(0);
      const double t0 = now_s();
      for (int i = 1; i <= kTrips; ++i) {
        ping.store(i, std::memory_order_release);
        while (pong.load(std::memory_order_acquire) != i) {
        }
      }
      time_s = now_s() - t0;
    });
    self.join();
    other.join();
    if (time_s / kTrips * 1e6 < best) best = time_s / kTrips * 1e6;
  }
  return best;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double seconds = argc > 2 ? std::atof(argv[2]) : 0.02;
  std::printf("{\"vector_bytes\": %d, \"threads\": %d,\n", kVectorBytes, threads);
  std::printf(" \"peak_gflops\": {\"1\": %.2f", peak_gflops(1, threads, seconds));
  if (threads > 1) std::printf(", \"%d\": %.2f", threads, threads * peak_gflops(threads, threads, seconds));
  std::printf("},\n \"read_gbs\": [");
  for (size_t kib = 16; kib <= 65536; kib *= 2) {
    const double one = read_gbs(1, threads, kib * 1024, seconds);
    const double each = threads > 1 ? read_gbs(threads, threads, kib * 1024, seconds) : one;
    std::printf("%s[%zu, %.2f, %.2f]", kib == 16 ? "" : ", ", kib, one, each);
  }
  std::printf("],\n \"round_trip_us\": %.4f}\n", threads > 1 ? round_trip_us() : 0.0);
  return 0;
}
