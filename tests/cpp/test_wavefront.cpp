// SPDX-License-Identifier: Apache-2.0
// Layers side by side: every piece once, after the one before it and after the same one of the layer before, on any
// number of threads; and a way out where a piece fails. What threads hand to each other is plain memory, so that a
// thread sanitizer sees what is not ordered.
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "sequence/wavefront.h"
#include "test.h"

using namespace bptt;
using namespace bptt::test;
using sequence::run_wavefront;

namespace {

bool never() { return false; }

void check_order(int layers, int pieces, int threads) {
  std::vector<std::vector<int>> made(std::size_t(layers), std::vector<int>(std::size_t(pieces), -1));
  std::vector<int> next(std::size_t(layers), 0), settled(std::size_t(layers), 0);
  std::atomic<bool> stop{false};
  const bool complete = run_wavefront(
      layers, pieces, threads, &never, stop,
      [&](int layer, int piece) {
        const auto k = std::size_t(layer), p = std::size_t(piece);
        check_equal(next[k]++, piece, "the next piece of a layer");
        check_equal(k > 0 ? made[k - 1][p] : layer - 1, layer - 1, "the layer before");
        volatile int work = 0;  // of changing length, so that threads overtake each other
        for (int i = 0; i < (17 * layer + 5 * piece) % 300; ++i) work = work + i;
        made[k][p] = layer;
        return true;
      },
      [&](int layer, int piece) { check_equal(settled[std::size_t(layer)]++, piece, "the rest of a piece"); });
  check(complete, "complete");
  for (const int n : settled) check_equal(n, pieces, "pieces of a layer");
}

void check_ways_out(int layer, int piece) {
  std::atomic<bool> stop{false};
  const auto nothing = [](int, int) {};
  const auto is_it = [&](int k, int p) { return k == layer && p == piece; };
  check(!run_wavefront(3, 10, 3, &never, stop, [&](int k, int p) { return !is_it(k, p); }, nothing), "called off");
  bool thrown = false;
  try {
    run_wavefront(
        3, 10, 3, &never, stop,
        [&](int k, int p) {
          if (is_it(k, p)) throw std::runtime_error("a piece");
          return true;
        },
        nothing);
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  check(thrown, "what a piece throws arrives");
}

/// Who waits asks whether a neighbour has stopped: the only piece that can be done takes its time.
void check_waiting() {
  std::atomic<bool> stop{true};
  bool complete = true;
  for (int attempt = 0; complete && attempt < 50; ++attempt) {  // the other thread may come late
    complete = run_wavefront(
        2, 1, 2, &never, stop,
        [](int, int) {
          std::this_thread::sleep_for(std::chrono::milliseconds(10));
          return true;
        },
        [](int, int) {});
  }
  check(!complete, "stopped while it waited");
}

}  // namespace

int main() {
  for (int layers = 2; layers <= 5; ++layers) {
    for (const int pieces : {1, 2, 7, 40}) {
      for (int threads = 1; threads <= 5; ++threads) check_order(layers, pieces, threads);
    }
  }
  for (int layer = 0; layer < 3; ++layer) {
    for (int piece = 0; piece < 10; ++piece) check_ways_out(layer, piece);
  }
  check_waiting();
  return finish();
}
