// SPDX-License-Identifier: Apache-2.0
// Narrow weights: rounding, their order in memory, and products with rows.
#include "core/gemm/narrow.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "core/gemm/blocks.h"
#include "core/gemm/narrow_tiles.h"

namespace bptt {

namespace narrow {

/// Smaller magnitudes count as zero: 127 over one of them need not be finite.
constexpr float kLeast = 0x1p-100f;

/// The largest magnitude of x [n]; NaN where some value is not finite.
static float largest_magnitude(const float* x, Index n) {
  constexpr int kSums = 4;
  Lanes most[kSums], none[kSums];
  for (int u = 0; u < kSums; ++u) most[u] = none[u] = Lanes(0.0f);
  const auto look = [&](int u, Lanes value) {
    most[u] = at_least(most[u], abs(value));
    none[u] = fma(value, Lanes(0.0f), none[u]);  // 0, or NaN
  };
  Index i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
#pragma GCC unroll 4
    for (int u = 0; u < kSums; ++u) look(u, Lanes::load(x + i + u * kLanes));
  }
  for (; i < n; i += kLanes) look(0, Lanes::load(x + i, std::min(kLanes, n - i)));
  most[0] = at_least(at_least(most[0], most[1]), at_least(most[2], most[3]));
  float lanes[kLanes];
  most[0].store(lanes);
  const float nothing = ((none[0] + none[1]) + (none[2] + none[3])).sum();
  return *std::max_element(lanes, lanes + kLanes) + nothing;
}

/// x [n] times `inverse`, rounded to nearest even, as bytes; |x| * inverse is at most 127.
static void to_bytes(std::int8_t* to, const float* x, Index n, float inverse) {
  constexpr Index kMany = 4 * kLanes;
  const Lanes factor(inverse);
  Lanes values[4];
  Index i = 0;
  for (; i + kMany <= n; i += kMany) {
    for (int u = 0; u < 4; ++u) values[u] = Lanes::load(x + i + u * kLanes) * factor;
    store_bytes(to + i, values);
  }
  if (i == n) return;
  std::int8_t rest[kMany];
  for (int u = 0; u < 4; ++u)
    values[u] = Lanes::load(x + i + u * kLanes, std::min(kLanes, std::max<Index>(0, n - i - u * kLanes))) * factor;
  store_bytes(rest, values);
  std::copy_n(rest, n - i, to + i);
}

/// Integers [n] into magnitudes and signs; the sum of the magnitudes of negative ones.
static std::int32_t divide(std::int8_t* values, std::int8_t* signs, Index n) {
  std::int32_t sum = 0;
  for (Index i = 0; i < n; ++i) {
    const int value = values[i], sign = value >> 7, magnitude = (value ^ sign) - sign;
    values[i] = std::int8_t(magnitude), signs[i] = std::int8_t(sign);
    sum += magnitude & sign;
  }
  return sum;
}

/// Integers [n] plus 128; 0.
static std::int32_t shift(std::int8_t* values, Index n) {
  for (Index i = 0; i < n; ++i) values[i] = std::int8_t(values[i] ^ -128);
  return 0;
}

}  // namespace narrow

float quantize_weights(std::int8_t* to, const float* from, Index K) {
  const float most = narrow::largest_magnitude(from, K);
  if (!(most >= narrow::kLeast)) {
    std::fill_n(to, K, std::int8_t(0));
    return most < narrow::kLeast ? 0.0f : most;
  }
  float scale = most / 127;
  std::uint32_t bits;
  std::memcpy(&bits, &scale, sizeof bits);
  bits = (bits + 0x7f) & ~std::uint32_t(0x7f);  // up, so that no integer is beyond 127
  std::memcpy(&scale, &bits, sizeof bits);
  narrow::to_bytes(to, from, K, 1 / scale);
  return scale;
}

std::uint16_t to_bfloat16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t sign = bits & 0x80000000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return std::uint16_t((bits >> 16) | 1);  // NaN stays one
  if (size == 0x7f800000u) return std::uint16_t(bits >> 16);
  const std::uint32_t rounded = size + 0x7fff + (size >> 16 & 1);
  return std::uint16_t((sign | std::min(rounded, 0x7f7fffffu)) >> 16);
}

float from_bfloat16(std::uint16_t x) {
  const std::uint32_t bits = std::uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

NarrowRows::NarrowRows(ProductMode mode, Index rows, Index K)
    : mode_(mode), K_(K), Kp_(ceil_div(K, 4) * 4), ld_(mode == ProductMode::kInt8 ? 2 * Kp_ : Kp_) {
  if (!is_int8(mode)) return;
  bytes_ = Buffer<std::int8_t>(checked_mul(rows, ld_));
  scale_ = Buffer<float>(rows);
  start_ = Buffer<std::int32_t>(rows);
}

void NarrowRows::set(Index first, Index n, const float* a) {
  floats_ = a, first_ = first;
  for (Index row = first; is_int8(mode_) && row < first + n; ++row, a += K_) {
    std::int8_t* to = bytes_.data() + row * ld_;
    const float most = narrow::largest_magnitude(a, K_);
    scale_[row] = most >= narrow::kLeast ? most / 127 : most < narrow::kLeast ? 0.0f : most;
    if (most >= narrow::kLeast)
      narrow::to_bytes(to, a, K_, 127 / most);
    else
      std::fill_n(to, K_, std::int8_t(0));
    std::fill(to + K_, to + Kp_, std::int8_t(0));
    start_[row] = mode_ == ProductMode::kInt8 ? narrow::divide(to, to + Kp_, Kp_) : narrow::shift(to, Kp_);
  }
}

narrow::ByteRows NarrowRows::bytes(Index row) const {
  return {bytes_.data() + row * ld_, ld_, mode_ == ProductMode::kInt8 ? Kp_ : 0, scale_.data() + row,
          start_.data() + row};
}

NarrowPanels::NarrowPanels(ProductMode mode, Index K, Index registers, int group)
    : mode_(mode),
      K_(K),
      steps_(ceil_div(K, is_int8(mode) ? 4 : 2)),
      registers_(ceil_div(registers, group) * group),
      group_(group),
      words_(checked_mul(checked_mul(registers_, kLanes), steps_)) {
  assert(!is_int8(mode) || K <= kMostInt8Depth);
  if (is_int8(mode)) scale_ = Buffer<float>(registers_ * kLanes);
  if (mode == ProductMode::kInt8Vnni) start_ = Buffer<std::int32_t>(registers_ * kLanes);
}

void NarrowPanels::pack(Index c, const float* from, Index n) {
  std::vector<std::int8_t> bytes(std::size_t(4 * steps_));
  for (Index lane = 0; lane < kLanes; ++lane) {
    const float* row = from + lane * K_;
    const bool some = lane < n;
    if (!is_int8(mode_)) {
      for (Index step = 0; step < steps_; ++step) {
        const std::uint32_t low = some ? to_bfloat16(row[2 * step]) : 0;
        const std::uint32_t high = some && 2 * step + 1 < K_ ? to_bfloat16(row[2 * step + 1]) : 0;
        words_[word(c, step, lane)] = low | high << 16;
      }
      continue;
    }
    std::fill(bytes.begin(), bytes.end(), std::int8_t(0));
    scale_[c * kLanes + lane] = some ? quantize_weights(bytes.data(), row, K_) : 0.0f;
    for (Index step = 0; step < steps_; ++step)
      std::memcpy(&words_[word(c, step, lane)], &bytes[std::size_t(4 * step)], 4);
    if (mode_ != ProductMode::kInt8Vnni) continue;
    std::int32_t sum = 0;
    for (const std::int8_t each : bytes) sum += each;
    start_[c * kLanes + lane] = -128 * sum;
  }
}

void NarrowPanels::unpack(Index c, float* to, Index n) const {
  for (Index lane = 0; lane < n; ++lane) {
    for (Index k = 0; k < K_; ++k) {
      if (is_int8(mode_)) {
        std::int8_t bytes[4];
        std::memcpy(bytes, &words_[word(c, k / 4, lane)], sizeof bytes);
        to[lane * K_ + k] = float(bytes[k % 4]) * scale_[c * kLanes + lane];
      } else {
        to[lane * K_ + k] = from_bfloat16(std::uint16_t(words_[word(c, k / 2, lane)] >> (k % 2 * 16)));
      }
    }
  }
}

void NarrowPanels::multiply(const ModeSums& to, const NarrowRows& a, Index row, Index rows, Index first,
                            int count) const {
  assert(0 <= first && first + count <= registers_);
  const RowBlocks blocks(rows, 0, narrow::kRows);
  for (Index c = first, n; c < first + count; c += n) {
    n = std::min<Index>(group_ - c % group_, first + count - c);
    if (blocks.max_size() > 1) n = std::min<Index>(n, group_ / 2);
    if (n != 6 && n != 8) n = std::min<Index>(n, 4);
    for (Index i = 0; i < blocks.count; ++i) {
      const Index r = blocks.begin(i);
      tile(to.at(r, c - first), a, row + r, blocks.size(i), c, int(n));
    }
  }
}

void NarrowPanels::tile(const ModeSums& to, const NarrowRows& a, Index row, int R, Index c, int n) const {
  const Index column = c * kLanes;
  const narrow::Panel panel{words_.data() + word(c, 0, 0),
                            K_,
                            steps_,
                            group_,
                            is_int8(mode_) ? scale_.data() + column : nullptr,
                            mode_ == ProductMode::kInt8Vnni ? start_.data() + column : nullptr};
  const auto run = [&](auto height, auto width) {
    constexpr int kHeight = height, kWidth = width;
    if (mode_ == ProductMode::kBfloat16Weights)
      narrow::bfloat16_tile<kHeight, kWidth>(to, a.floats(row), a.K(), panel);
    else if (narrow::kHasVnni && mode_ == ProductMode::kInt8Vnni)
      narrow::int8_tile<narrow::Vnni, kHeight, kWidth>(to, a.bytes(row), panel);
    else
      narrow::int8_tile<narrow::Multiply, kHeight, kWidth>(to, a.bytes(row), panel);
  };
  if (n == 8) return run(Constant<1>{}, Constant<8>{});
  if (n == 6) return run(Constant<1>{}, Constant<6>{});
  dispatch<narrow::kRows>(R, [&](auto height) { dispatch<4>(n, [&](auto width) { run(height, width); }); });
}

}  // namespace bptt
