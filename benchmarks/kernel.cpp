// SPDX-License-Identifier: Apache-2.0
// The bare kernels beside the FMA peak, one core: the micro-kernel `accumulate` at the tile shapes of the cells and at
// depths whose panels lie in the first or second cache or beyond, and the cells' equations. A first argument is the
// seconds for each figure. Built with the C++ tests: `build/dev/tests/cpp/kernel_v4`.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cells/all.h"
#include "core/gemm/tile.h"
#include "core/memory/arena.h"
#include "core/simd/math.h"

using namespace bptt;

namespace {

using T = float;
constexpr int W = Vec<T>::kSize;
double seconds_per_figure = 0.05;
volatile T sink;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// The best rate of work(), which returns what it did.
template <class Work>
double best_rate(Work work) {
  double best = 0;
  for (const double end = now_s() + seconds_per_figure; now_s() < end;) {
    const double start = now_s(), done = work();
    best = std::max(best, done / (now_s() - start));
  }
  return best;
}

double peak() {
  constexpr int chains = kAccumulators;
  return best_rate([] {
    Vec<T> a[chains];
    for (int i = 0; i < chains; ++i) a[i] = Vec<T>(sink + T(i));
    const Vec<T> x(T(0.9)), y(T(1.1));
    constexpr Index rounds = 20000;
    for (Index k = 0; k < rounds; ++k) {
#pragma GCC unroll 32
      for (int i = 0; i < chains; ++i) a[i] = fma(a[i], x, y);
    }
    T lanes[W];
    for (int i = 0; i < chains; ++i) a[i].store(lanes), sink = lanes[0];
    sink = 0;
    return 2.0 * chains * W * double(rounds);
  });
}

/// R rows times panels of N registers, `panels` of them one after the other: flop/s.
template <int R, int N>
double kernel(Index depth, Index panels) {
  Buffer<T> a(R * depth), w(panels * depth * N * W);
  for (Index i = 0; i < a.size(); ++i) a[i] = T(0.01) * T(i % 7);
  for (Index i = 0; i < w.size(); ++i) w[i] = T(0.01) * T(i % 11);
  return best_rate([&] {
    for (Index p = 0; p < panels; ++p) {
      Vec<T> acc[R][N];
      for (auto& row : acc) {
        for (auto& value : row) value = Vec<T>(T(0));
      }
      accumulate<Identity, N, N>(acc, a.data(), depth, w.data() + p * depth * N * W, 0, depth);
      T lanes[W];
      for (auto& row : acc) {
        for (auto& value : row) value.store(lanes), sink = lanes[0];
      }
    }
    return 2.0 * R * N * W * double(depth) * double(panels);
  });
}

/// The cell's forward equations: registers of units per second.
template <class Cell>
double equations() {
  constexpr Index count = 48;
  Buffer<T> a(count * Cell::A * W), states(2 * count * W), kept(count * 4 * W);
  for (Index i = 0; i < a.size(); ++i) a[i] = T(i % 23) / 4 - 3;
  states.clear();
  return best_rate([&] {
    for (Index r = 0; r < count; ++r) {
      Vec<T> av[Cell::A], p[Cell::P + 1], s0[2], s1[2], k[Cell::K + 1];
      for (int i = 0; i < Cell::A; ++i) av[i] = Vec<T>::load(a.data() + (r * Cell::A + i) * W);
      for (auto& value : p) value = Vec<T>(T(0.1));
      for (int i = 0; i < 2; ++i) s0[i] = Vec<T>::load(states.data() + (2 * r + i) * W);
      Cell::forward(av, p, s0, s1, k);
      for (int i = 0; i < Cell::S; ++i) s1[i].store(states.data() + (2 * r + i) * W);
      for (int i = 0; i < Cell::K; ++i) k[i].store(kept.data() + (r * 4 + i) * W);
    }
    return double(count);
  });
}

template <int R, int N>
void row(double roof) {
  std::printf("%2d x %d", R, N);
  const Index sizes[][2] = {{64, 1}, {256, 8}, {1024, 32}, {2048, 128}};  // depth, panels
  for (const auto& size : sizes) {
    const double rate = kernel<R, N>(size[0], size[1]);
    std::printf("  %6.1f (%.2f)", rate / 1e9, rate / roof);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seconds_per_figure = std::atof(argv[1]);
  const double roof = peak();
  std::printf(
      "FMA peak %.1f GF/s at %d lanes\n\nGF/s (of the peak)\nrows x registers, panels of 1 x 64, 8 x 256, 32 x 1024, "
      "128 x 2048 deep\n",
      roof / 1e9, W);
  row<kTileRows, 4>(roof);
  row<kTileRows - 1, 4>(roof);
  row<kTileRows, 3>(roof);
  row<3, 4>(roof);
  row<1, 8>(roof);
  row<1, 4>(roof);
  std::printf("\nequations, ns a register: LSTM %.1f  GRU %.1f  RNN %.1f\n", 1e9 / equations<cells::LSTM>(),
              1e9 / equations<cells::GRU>(), 1e9 / equations<cells::RNNTanh>());
}
