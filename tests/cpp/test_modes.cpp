// SPDX-License-Identifier: Apache-2.0
// Products by another arithmetic than a chain of FMAs (core/gemm/mode.h) against double: every tile, every tail of K,
// both groups of registers, operands by rows and by columns, and rows and columns without a scale.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bindings/detect/levels.h"
#include "core/gemm/amx_permission.h"
#include "core/gemm/mode.h"
#include "test.h"

using namespace bptt;
using namespace bptt::test;

namespace {

constexpr Index W = Vec<float>::kSize;
constexpr Index kRegisters = 7, kColumns = (kRegisters - 1) * W + 5;
constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

float to_bfloat16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

bool is_rounded(ProductMode mode) { return mode == ProductMode::kBfloat16 || mode == ProductMode::kAmxBfloat16; }

/// A [rows,K], or by columns [K,rows]; B [K,columns].
struct Problem {
  ProductMode mode;
  Index K;
  int group;
  bool by_columns;
  Index rows;
  std::vector<float> a, b;

  Problem(ProductMode mode, Index K, int group, bool by_columns)
      : mode(mode),
        K(K),
        group(group),
        by_columns(by_columns),
        rows(mode == ProductMode::kAmxBfloat16 ? 37 : 2 * kTileRows + 1),
        a(std::size_t(rows * K)),
        b(std::size_t(K * kColumns)) {
    std::mt19937 rng(unsigned(K * 4 + group * 2 + by_columns));
    std::normal_distribution<float> normal;
    for (float& x : a) x = normal(rng);
    for (float& x : b) x = normal(rng);
  }

  float& at(Index r, Index k) { return a[std::size_t(by_columns ? k * rows + r : r * K + k)]; }
  float& weight(Index k, Index column) { return b[std::size_t(k * kColumns + column)]; }

  ModeRows left() {
    ModeRows made(mode, ceil_div(rows, W) * W, K);
    if (by_columns) {
      made.set_columns(0, rows, a.data(), rows, K);
      return made;
    }
    Segments k{K};
    for (const int parts : {4, 3, 2}) {  // as many segments as K allows
      if (K % parts != 0) continue;
      k.count = parts;
      k.length = K / parts;
      break;
    }
    for (int s = 0; s < k.count; ++s) k.offset[s] = s * k.length;
    for (Index r = 0; r < rows; ++r) made.set(r, a.data() + r * K, k);
    return made;
  }

  ModePanels right() {
    ModePanels made(mode, K, kRegisters, group);
    for (Index c = 0; c < kRegisters; ++c) made.pack(c, b.data() + c * W, kColumns, std::min(W, kColumns - c * W));
    return made;
  }

  /// R rows times `count` registers on top of ones, [R,count*W].
  std::vector<float> multiply(const ModeRows& left, const ModePanels& right, Index row, int R, Index first, int count) {
    std::vector<float> c(std::size_t(R * count * W), 1.0f);
    std::vector<Index> place;
    for (Index i = 0; i < count; ++i) place.push_back(i * W);
    right.multiply({c.data(), count * W, place.data()}, left, row, R, first, count);
    return c;
  }

  double expected(Index r, Index column) {
    double sum = 1;
    for (Index k = 0; k < K; ++k) {
      const bool round = is_rounded(mode);
      sum += double(round ? to_bfloat16(at(r, k)) : at(r, k)) *
             double(round ? to_bfloat16(weight(k, column)) : weight(k, column));
    }
    return sum;
  }
};

/// Squares of the errors of the mode and of a chain of FMAs.
struct Errors {
  double mode = 0, chain = 0;
};

/// The whole product is right, and each element has the bits of a product of its row and its register alone.
void check_product(Problem p, Errors& errors) {
  const ModeRows left = p.left();
  const ModePanels right = p.right();
  std::vector<float> alone;  // [rows,registers,W]
  for (Index r = 0; r < p.rows; ++r) {
    for (Index c = 0; c < kRegisters; ++c) {
      const auto each = p.multiply(left, right, r, 1, c, 1);
      alone.insert(alone.end(), each.begin(), each.end());
    }
  }
  // With scales, sums of two values below 2: each of K roundings is of a partial sum below 16 K / 2.
  const double eps = std::numeric_limits<float>::epsilon();
  for (Index r = 0; r < p.rows; ++r) {
    for (Index column = 0; column < kColumns; ++column) {
      double largest_a = 0, largest_b = 0;
      for (Index k = 0; k < p.K; ++k) {
        largest_a = std::max(largest_a, std::abs(double(p.at(r, k))));
        largest_b = std::max(largest_b, std::abs(double(p.weight(k, column))));
      }
      const double exact = p.expected(r, column), found = alone[std::size_t(r * kRegisters * W + column)];
      check_near(found, exact, eps * (1 + 8 * double(p.K * p.K) * largest_a * largest_b), "product");
      float chain = 0;
      for (Index k = 0; k < p.K; ++k) chain = std::fma(p.at(r, k), p.weight(k, column), chain);
      errors.mode += (found - exact) * (found - exact);
      errors.chain += (double(1 + chain) - exact) * (double(1 + chain) - exact);
    }
  }
  for (int R = 1; R <= int(p.rows); ++R) {
    for (int count = 1; count <= kRegisters; ++count) {
      const Index row = p.rows - R, first = kRegisters - count;
      const auto tile = p.multiply(left, right, row, R, first, count);
      bool same = true;
      for (Index r = 0; r < R; ++r) {
        const float* from = alone.data() + ((row + r) * kRegisters + first) * W;
        same &= std::memcmp(tile.data() + r * count * W, from, std::size_t(count * W) * sizeof(float)) == 0;
      }
      check(same, "bits of a tile of " + std::to_string(R) + " rows and " + std::to_string(count) + " registers");
    }
  }
}

bool same_kind(float found, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(found);
  if (std::isinf(expected)) return double(found) == expected;
  return std::abs(double(found) - expected) <= tolerance;
}

/// Rows and columns without a scale, or with parts that are not finite: right by themselves, and no other is touched.
void check_without_scale(ProductMode mode, int group, bool by_columns) {
  const bool rounds = is_rounded(mode);
  Problem clean(mode, 31, group, by_columns), p = clean;
  for (Index k = 0; k < p.K; ++k) {
    p.at(1, k) *= 0x1p-120f;
    p.at(2, k) *= k % 2 ? 1e20f : 1e-20f;
    p.at(4, k) = 0;
    p.weight(k, 3) *= 1e10f;
    p.weight(k, 20) = 0;
    if (!rounds) p.weight(k, 40) *= 0x1p-120f;
  }
  p.at(3, 7) = kInfinity;
  p.at(5, 11) = kNaN;
  const auto whole = [&](Problem& each) {
    return each.multiply(each.left(), each.right(), 0, int(each.rows), 0, kRegisters);
  };
  const auto with = whole(p), without = whole(clean);
  for (Index r = 0; r < p.rows; ++r) {
    for (Index column = 0; column < kColumns; ++column) {
      const float found = with[std::size_t(r * kRegisters * W + column)];
      double size = 1;
      for (Index k = 0; k < p.K; ++k) size += std::abs(double(p.at(r, k)) * double(p.weight(k, column)));
      const std::string at = " row " + std::to_string(r) + " column " + std::to_string(column);
      check(same_kind(found, p.expected(r, column), 1e-5 * size), "without scale:" + at);
      if (r == 4 || column == 20) check(std::isnan(found) || found == 1, "a product with zeros is zero:" + at);
      // a register in which a column has no scale takes chains of FMAs
      if (r == 0 && column != 3 && column != 20 && column / W != 40 / W)
        check_equal(found, without[std::size_t(column)], "others stay:" + at);
    }
  }
}

}  // namespace

int main() {
  check(true, "a level without modes has nothing to check");
  const auto features = detect::processor().features;
  const auto has = [&](const char* name) {
    return std::find(features.begin(), features.end(), name) != features.end();
  };
  const bool has_bfloat16 = has("avx512_bf16"), has_amx = has_bfloat16 && has("amx_bf16") && request_amx();
  for (const ProductMode mode : {ProductMode::kWinograd, ProductMode::kBfloat16, ProductMode::kAmxBfloat16}) {
    const bool runs = mode == ProductMode::kAmxBfloat16 ? has_amx : has_bfloat16 || mode == ProductMode::kWinograd;
    if (!kHasModes || !runs) continue;
    const ModeScope scope(mode);
    Errors errors;
    for (const int group : {2, 3}) {
      for (Index K = 1; K <= 50; ++K) check_product({mode, K, group, false}, errors);
      check_without_scale(mode, group, false);
    }
    for (Index K = 1; K <= 50; ++K) check_product({mode, K, 2, true}, errors);
    check_without_scale(mode, 2, true);
    if (!is_rounded(mode))
      check(errors.mode <= 16 * errors.chain, "errors are at most 4 times those of a chain of FMAs");
  }
  return finish();
}
