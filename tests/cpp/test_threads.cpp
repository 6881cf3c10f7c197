// SPDX-License-Identifier: Apache-2.0
// The pool and the barrier: each thread once, exceptions, and workers that a call does not need.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#endif

#include "core/threads/pool.h"
#include "core/threads/share.h"
#include "core/threads/work.h"
#include "test.h"

using namespace bptt;
using namespace bptt::test;

namespace {

void check_pool() {
  for (int threads : {1, 2, 3, 5, 2, 32, 9, 1}) {
    std::atomic<int> sum{0}, calls{0};
    Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
      sum += thread;
      ++calls;
      check_equal(barrier.size(), threads, "size of the team");
    });
    check_equal(calls.load(), threads, "calls of the job");
    check_equal(sum.load(), threads * (threads - 1) / 2, "each thread once");
  }
  check_throws<std::runtime_error>(
      [] {
        Pool::instance().run(3, [](int thread, Barrier&) {
          if (thread == 2) throw std::runtime_error("x");
        });
      },
      "a worker's exception reaches the caller");
  std::atomic<int> inner{0};
  Pool::instance().run(2, [&](int, Barrier&) { Pool::instance().run(2, [&](int, Barrier& b) { inner += b.size(); }); });
  check_equal(inner.load(), 2, "a call from inside runs alone");
}

/// What threads write before they wait is plain memory, so that a thread sanitizer sees what is not ordered. All
/// threads wait for each other every third round, teams of `members` in the others.
void check_barrier(int threads, int members, int rounds) {
  std::vector<int> slots(std::size_t(threads), 0);
  std::atomic<int> wrong{0};
  Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
    const Team team{thread - thread % members, members};
    for (int round = 1; round <= rounds; ++round) {
      const bool all = round % 3 == 0;
      const auto wait = [&] { return all ? barrier.wait(thread) : barrier.wait(thread, team); };
      slots[std::size_t(thread)] = round;
      wrong += !wait();
      const int first = all ? 0 : team.first, end = all ? threads : team.first + members;
      for (int other = first; other < end; ++other) wrong += slots[std::size_t(other)] != round;
      wrong += !wait();
    }
  });
  check_equal(wrong.load(), 0, "everybody sees what was written before the barrier");
}

void check_barriers() {
  check_barrier(2, 2, 2000);
  check_barrier(4, 2, 500);
  check_barrier(5, 5, 200);
  check_barrier(6, 3, 200);
  check_barrier(8, 4, 100);
  check_barrier(16, 1, 50);
  check_barrier(32, 8, 30);
  std::atomic<int> released{0};
  Pool::instance().run(3, [&](int thread, Barrier& barrier) {
    if (thread == 0)
      barrier.cancel();
    else if (!barrier.wait(thread))
      ++released;
  });
  check_equal(released.load(), 2, "calling off releases those who wait");
}

/// Every tile belongs to one thread, and no thread has many more than the mean.
void check_shares() {
  for (const Index rows : {1, 3, 11, 22, 43}) {
    for (const Index columns : {1, 2, 5, 32}) {
      for (const int threads : {1, 2, 3, 5, 8, 16, 32, 64}) {
        std::vector<int> owners(std::size_t(rows * columns), 0);
        Index most = 0;
        for (int thread = 0; thread < threads; ++thread) {
          const TileShare part(rows, columns, thread, threads);
          Index tiles = 0;
          for (Index i = part.rows.begin; i < part.rows.end; ++i) {
            for (Index j = part.columns.begin; j < part.columns.end; ++j, ++tiles)
              ++owners[std::size_t(i * columns + j)];
          }
          most = std::max(most, tiles);
        }
        for (const int n : owners) check_equal(n, 1, "owners of a tile");
        check(most <= (rows + threads - 1) / threads * columns, "as good as by rows alone");
      }
    }
  }
  Index most = 0;
  for (int thread = 0; thread < 16; ++thread) {
    const TileShare part(22, 2, thread, 16);
    most = std::max(most, (part.rows.end - part.rows.begin) * (part.columns.end - part.columns.begin));
  }
  check_equal(most, Index(3), "tiles of the busiest thread");
}

void check_flush() {
  volatile float tiny = 1e-38f;
  float inside = 1, outside = 0;
  Pool::instance().run(2, [&](int thread, Barrier&) {
    if (thread == 0) inside = tiny * 0.01f;
  });
  outside = tiny * 0.01f;
  check_equal(inside, 0.0f, "denormals are zero inside a job");
  check(outside > 0, "and are not outside");
}

#if defined(__linux__)
/// A line of /proc/self/task/THREAD/status, without its name.
std::string status(int thread, const std::string& name) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name + ":", 0) == 0) return line.substr(name.size() + 1);
  }
  return "?";
}

/// Workers that a call does not need sleep on: the system does not run them even once.
void check_retirement() {
  constexpr int kMany = 8, kFew = 2;
  std::vector<int> threads(kMany);
  std::vector<std::string> before(kMany);
  Pool::instance().run(kMany, [&](int thread, Barrier&) { threads[std::size_t(thread)] = int(syscall(SYS_gettid)); });
  for (std::size_t i = kFew; i < kMany; ++i) {
    while (status(threads[i], "State").find("sleeping") == std::string::npos) std::this_thread::yield();
    before[i] = status(threads[i], "voluntary_ctxt_switches");
    check(before[i] != "?", "the system counts how often a thread goes to sleep");
  }
  std::atomic<int> calls{0};
  for (int i = 0; i < 100; ++i) {
    Pool::instance().run(kFew, [&](int, Barrier&) { ++calls; });
    if (i % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // until the needed ones park, too
  }
  check_equal(calls.load(), 100 * kFew, "calls of the job");
  for (std::size_t i = kFew; i < kMany; ++i)
    check_equal(status(threads[i], "voluntary_ctxt_switches"), before[i], "a worker that was not needed woke up");
  Pool::instance().run(kMany, [&](int, Barrier&) { ++calls; });
  check_equal(calls.load(), 100 * kFew + kMany, "and takes part when it is needed again");
}
#endif

/// Each thread has as much to do as it takes to wake it, and there are no more than the pool may have.
void check_threads_for() {
  const int before = Pool::size().exchange(3);
  check_equal(threads_for(0), 1, "threads for nothing");
  check_equal(threads_for(1.99 * kWakeNs), 1, "threads for less than two can do");
  check_equal(threads_for(2 * kWakeNs), 2, "threads for two");
  check_equal(threads_for(1e18), 3, "threads for much");
  Pool::size() = before;
}

/// Callers from many threads share the pool, with parked workers or without; each of their jobs is done once.
void check_many_callers() {
  std::atomic<int> done{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 200; ++i) {
        std::vector<int> parts(5);
        Pool::instance().run(1 + (i + c) % 5, [&](int thread, Barrier& barrier) {
          for (int n = thread; n < 5; n += barrier.size()) parts[std::size_t(n)] = n;
        });
        int sum = 0;
        for (const int n : parts) sum += n;
        done += sum == 10;
        if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  check_equal(done.load(), 4 * 200, "complete jobs");
}

}  // namespace

int main() {
  check_pool();
  check_barriers();
  check_shares();
  check_flush();
  check_threads_for();
#if defined(__linux__)
  check_retirement();
#endif
  check_many_callers();
  return finish();
}
