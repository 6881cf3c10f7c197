// SPDX-License-Identifier: Apache-2.0
// Weights in fewer bits (core/gemm/narrow.h) against plain loops: every tile, every tail of K, both groups of
// registers. Sums of int8 are exact, bfloat16 has the bits of a chain of FMAs; both are compared bit by bit.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "bindings/detect/levels.h"
#include "core/gemm/narrow.h"
#include "test.h"

using namespace bptt;
using namespace bptt::test;

namespace {

constexpr Index W = Vec<float>::kSize;
constexpr Index kRows = 9, kRegisters = 11, kColumns = (kRegisters - 1) * W + 1;

/// a*b + c as the kernels of this level compute it.
float fused(float a, float b, float c) {
  float lanes[W];
  fma(Vec<float>(a), Vec<float>(b), Vec<float>(c)).store(lanes);
  return lanes[0];
}

struct Problem {
  ProductMode mode;
  Index K;
  std::vector<float> a, b;  // [rows,K], [columns,K]
  NarrowRows rows;
  NarrowPanels panels;

  Problem(ProductMode mode, Index K, int group)
      : mode(mode),
        K(K),
        a(std::size_t(kRows * K)),
        b(std::size_t(kColumns * K)),
        rows(mode, kRows, K),
        panels(mode, K, kRegisters, group) {
    std::mt19937 rng(unsigned(K * 8 + group));
    std::normal_distribution<float> normal;
    for (float& x : a) x = normal(rng);
    for (float& x : b) x = normal(rng);
    for (Index k = 0; k < K; ++k) a[std::size_t(k)] = k % 3 ? 1.0f : -1.0f;  // the largest products of all
    for (Index k = 0; k < K; ++k) b[std::size_t(k)] = k % 3 ? -2.0f : 2.0f;
    rows.set(0, kRows, a.data());
    for (Index c = 0; c < kRegisters; ++c) panels.pack(c, b.data() + c * W * K, std::min(W, kColumns - c * W));
  }

  /// The sum of row r and column c, which began at `start`.
  float expected(Index r, Index c, float start) const {
    const float* x = a.data() + r * K;
    const float* w = b.data() + c * K;
    if (mode == ProductMode::kBfloat16Weights) {
      for (Index k = 0; k < K; ++k) start = fused(x[k], from_bfloat16(to_bfloat16(w[k])), start);
      return start;
    }
    float most = 0;
    for (Index k = 0; k < K; ++k) most = std::max(most, std::fabs(x[k]));
    std::vector<std::int8_t> weights(std::size_t(K), 0);
    const float scale = quantize_weights(weights.data(), w, K);
    std::int64_t sum = 0;
    for (Index k = 0; k < K; ++k) sum += std::int64_t(std::nearbyint(x[k] * (127 / most))) * weights[std::size_t(k)];
    return fused(float(sum) * (most / 127), scale, start);
  }
};

void test_products(ProductMode mode) {
  for (const int group : {6, 8}) {
    for (const Index K : {1, 2, 3, 4, 5, 8, 31, 64, 257}) {
      const Problem p(mode, K, group);
      for (Index rows = 1; rows <= kRows; ++rows) {
        for (Index first = 0; first < kRegisters; first += 3) {
          const int count = int(std::min<Index>(kRegisters - first, 2 * group));
          std::vector<float> sums(std::size_t(rows * kRegisters * W), 0.25f);
          std::vector<Index> place;
          for (int i = 0; i < count; ++i) place.push_back((first + i) * W);
          p.panels.multiply({sums.data(), kRegisters * W, place.data()}, p.rows, kRows - rows, rows, first, count);
          for (Index r = 0; r < rows; ++r) {
            for (Index c = 0; c < kColumns; ++c) {
              const bool counts = first * W <= c && c < (first + count) * W;
              const float exact = counts ? p.expected(kRows - rows + r, c, 0.25f) : 0.25f;
              check(sums[std::size_t(r * kRegisters * W + c)] == exact, "the sum of a plain loop");
            }
          }
        }
      }
      std::vector<float> back(std::size_t(W * K));
      p.panels.unpack(1, back.data(), W);
      std::vector<std::int8_t> weights(std::size_t(K), 0);
      const float scale = quantize_weights(weights.data(), p.b.data() + W * K, K);
      const float first =
          is_int8(mode) ? float(weights[0]) * scale : from_bfloat16(to_bfloat16(p.b[std::size_t(W * K)]));
      check(back[0] == first, "what was packed");
    }
  }
}

}  // namespace

int main() {
  test_products(ProductMode::kBfloat16Weights);
  test_products(ProductMode::kInt8);
  const std::vector<std::string> features = detect::processor().features;
  const bool has_vnni = std::find(features.begin(), features.end(), "avx512_vnni") != features.end();
  if (kHasModes && has_vnni) test_products(ProductMode::kInt8Vnni);
  return finish();
}
