// SPDX-License-Identifier: Apache-2.0
// There is room for weights in fewer bits: two formats that the library does not have, bfloat16 and 8-bit fixed point.
// A product with weights of such a format has the bits of the product with the rounded weights.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/gemm/panels.h"
#include "core/gemm/product.h"
#include "core/gemm/tile.h"
#include "test.h"

namespace bptt {

struct BFloat16 {
  std::uint16_t bits = 0;  // the upper half of a float
};

struct Fixed8 {
  std::int8_t value = 0;  // in 1/64
};

namespace test {

/// What all formats of float share here: registers by way of lanes.
template <class Own, class Stored>
struct ByLanes {
  using Value = float;
  static Vec<float> load(const Stored* p) {
    float lanes[Vec<float>::kSize];
    for (float& lane : lanes) lane = Own::widen(*p++);
    return Vec<float>::load(lanes);
  }
  static void store(Stored* p, Vec<float> x, Index n) {
    float lanes[Vec<float>::kSize];
    x.store(lanes);
    for (Index i = 0; i < n; ++i) p[i] = Own::narrow(lanes[i]);
  }
};

}  // namespace test

template <>
struct Format<BFloat16> : test::ByLanes<Format<BFloat16>, BFloat16> {
  static BFloat16 narrow(float x) {  // to nearest even
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof x);
    return {std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  }
  static float widen(BFloat16 x) {
    const std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

template <>
struct Format<Fixed8> : test::ByLanes<Format<Fixed8>, Fixed8> {
  static Fixed8 narrow(float x) { return {std::int8_t(std::lrint(64 * x))}; }
  static float widen(Fixed8 x) { return float(x.value) / 64; }
};

}  // namespace bptt

using namespace bptt;
using namespace bptt::test;

namespace {

constexpr int W = Vec<float>::kSize;

std::vector<float> numbers(Index n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.9f, 1.9f);  // within Fixed8
  std::vector<float> values(std::size_t(n), 0.0f);
  for (float& x : values) x = uniform(generator);
  return values;
}

template <class Stored>
std::vector<float> rounded(std::vector<float> values) {
  for (float& x : values) x = Format<Stored>::widen(Format<Stored>::narrow(x));
  return values;
}

template <class Stored>
void check_product(Index rows, Index depth, Index columns) {
  const auto a = numbers(rows * depth, 1), b = numbers(depth * columns, 2), bias = numbers(columns, 3);
  const auto same = rounded<Stored>(b);
  check(same != b, "the format rounds");
  const RowBlocks blocks(rows);
  const auto multiplied = [&](const auto& panels) {
    std::vector<float> c(std::size_t(rows * columns), 0.0f);
    product(c.data(), columns, a.data(), depth, Segments{depth}, panels, bias.data(), blocks, 0, blocks.count);
    return c;
  };
  Panels<float> exact(depth, columns);
  Panels<float, Stored> stored(depth, columns);
  exact.pack(same.data(), columns, exact.all());
  stored.pack(b.data(), columns, stored.all());
  check(multiplied(stored) == multiplied(exact), "product");

  // the same numbers as the transpose of [columns,depth]
  exact.pack_transposed(same.data(), depth, exact.all());
  stored.pack_transposed(b.data(), depth, stored.all());
  check(multiplied(stored) == multiplied(exact), "product with a transpose");
  std::vector<float> back(b.size());
  stored.unpack_transposed(back.data(), depth);
  check(back == same, "unpacking");
}

template <class Stored>
void check_narrow_product(Index rows, Index columns) {
  constexpr Index kLength = 3 * W;
  const auto a = numbers(rows * kLength, 4), b = numbers(columns * kLength, 5), same = rounded<Stored>(b);
  std::vector<Stored> stored;
  for (const float x : b) stored.push_back(Format<Stored>::narrow(x));
  const RowBlocks blocks(rows);
  const auto multiplied = [&](const auto* weights) {
    std::vector<float> c(std::size_t(rows * columns), 0.0f);
    narrow_product(c.data(), columns, a.data(), kLength, Segments{kLength}, weights, blocks, 0, blocks.count);
    return c;
  };
  check(multiplied(stored.data()) == multiplied(same.data()), "narrow product");
}

/// Tiles as recurrent steps use them: several gates for each block of units forward, segments backward.
template <class Stored>
void check_tiles() {
  constexpr int R = 2, U = 2, G = 3;
  constexpr Index kDepth = 11;
  const auto a = numbers(R * G * kDepth, 6), b = numbers(U * kDepth * G * W, 7), same = rounded<Stored>(b);
  std::vector<Stored> stored;
  for (const float x : b) stored.push_back(Format<Stored>::narrow(x));
  const Index offset[4] = {0, kDepth, 2 * kDepth};
  const auto sums = [&](const auto* weights) {
    Vec<float> forward[R][U * G], backward[R][U];
    for (auto& row : forward)
      for (auto& sum : row) sum = Vec<float>(1.0f);
    for (auto& row : backward)
      for (auto& sum : row) sum = Vec<float>(2.0f);
    accumulate<Identity, G, G>(forward, a.data(), kDepth, weights, kDepth * G * W, kDepth);
    accumulate_segments<G>(backward, a.data(), G * kDepth, offset, weights, kDepth * G * W, kDepth);
    std::vector<float> all(std::size_t(R * U * (G + 1) * W));
    float* to = all.data();
    for (auto& row : forward)
      for (auto& sum : row) sum.store(to), to += W;
    for (auto& row : backward)
      for (auto& sum : row) sum.store(to), to += W;
    return all;
  };
  check(sums(stored.data()) == sums(same.data()), "tiles");
}

template <class Stored>
void check_format() {
  for (const Index rows : {1, 3, 7}) {
    for (const Index columns : {1, W - 1, W, 5 * W + 1}) check_product<Stored>(rows, 13, columns);
    for (Index columns = 1; columns <= kNarrow; ++columns) check_narrow_product<Stored>(rows, columns);
  }
  check_tiles<Stored>();
}

}  // namespace

int main() {
  check_format<BFloat16>();
  check_format<Fixed8>();
  return finish();
}
