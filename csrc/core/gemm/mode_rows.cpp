// SPDX-License-Identifier: Apache-2.0
// Rows in the form of a mode.
#include "core/gemm/mode.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "core/gemm/amx.h"
#include "core/gemm/mode_tiles.h"
#include "core/gemm/transpose.h"

namespace bptt {

#if defined(__AVX512F__) && defined(__GNUC__)

using namespace lanes;

// A tile has 16 rows, wherever it begins. Its rows have a register between them: a power of two apart, they would meet
// in one set of the cache.
ModeRows::ModeRows(ProductMode mode, Index rows, Index K)
    : mode_(mode),
      rows_(rows),
      K_(K),
      ld_(mode == ProductMode::kWinograd ? ceil_div(K, 3 * kLanes) * 3 * kLanes + kLanes
                                         : ceil_div(K, 2 * kLanes) * kLanes),
      values_(),
      info_(mode == ProductMode::kWinograd ? rows : 0) {
  Index room = ceil_div(rows, kLanes) * kLanes;
  if (mode == ProductMode::kAmxBfloat16) room += kLanes, ld_ += kLanes;
  block_ = ld_ * kLanes;
  values_ = Buffer<float>(checked_mul(room, ld_));
}

void ModeRows::set(Index row, const float* a, const Segments& k) {
  float* const to = values_.data() + row * ld_;
  assert(k.count * k.length == K_ && !by_columns_);
  if (mode_ != ProductMode::kWinograd) {
    auto* pairs = reinterpret_cast<std::uint16_t*>(to);
    alignas(64) std::uint16_t last[kLanes];
    for (int s = 0; s < k.count; ++s) {
      const float* from = a + k.offset[s];
      for (Index i = 0; i < k.length; i += kLanes) {
        const Index n = std::min(kLanes, k.length - i);
        store_bfloat16(last, Lanes::load(from + i, n));
        std::memcpy(pairs + s * k.length + i, last, std::size_t(n) * sizeof *pairs);
      }
    }
    std::fill(pairs + K_, pairs + 2 * ld_, std::uint16_t(0));
    return;
  }
  __m512i lanes = _mm512_setzero_si512();
  for (int s = 0; s < k.count; ++s) lanes = largest_bits(a + k.offset[s], k.length, lanes);
  Row& info = info_[row];
  const Scale scale = row_scale(lanes);
  info.scale = scale.value;
  info.direct = scale.none;
  any_direct_ |= scale.none;
  const Lanes inverse(scale.inverse);
  // The correction is the sum of a[k] a[k + 1] where k is a multiple of 3. Values are read from `a`: what was just
  // stored cannot be loaded again one place further without waiting.
  constexpr std::uint64_t kThirds = 0x9249249249249249u;  // bits 0, 3, 6, ...
  Lanes sum[3] = {Lanes(0.0f), Lanes(0.0f), Lanes(0.0f)};
  float across = 0;  // pairs of two segments
  int phase = 0;     // of a segment's first value, in its three
  for (int s = 0; s < k.count; ++s) {
    const float* from = a + k.offset[s];
    float* out = to + s * k.length;
    const std::uint64_t thirds = kThirds << (phase == 0 ? 0 : 3 - phase);
    const __mmask16 opens_pair[3] = {__mmask16(thirds), __mmask16(thirds >> 16), __mmask16(thirds >> 32)};
    const auto add = [&](int u, Index i) {
      const Lanes value = Lanes::load(from + i) * inverse;
      value.store(out + i);
      const Lanes next = Lanes::load(from + i + 1);  // scaled at the end
      sum[u].v = _mm512_mask3_fmadd_ps(value.v, next.v, sum[u].v, opens_pair[u]);
    };
    Index i = 0;
    for (; i + 3 * kLanes < k.length; i += 3 * kLanes) add(0, i), add(1, i + kLanes), add(2, i + 2 * kLanes);
    __mmask16 mask = opens_pair[0];  // of the last register, which may be part of one
    if (i + kLanes < k.length) add(0, i), i += kLanes, mask = opens_pair[1];
    if (i + kLanes < k.length) add(1, i), i += kLanes, mask = opens_pair[2];
    const Index n = k.length - i;
    const Lanes value = Lanes::load(from + i, n) * inverse, next = Lanes::load(from + i + 1, n - 1);
    value.store(out + i, n);
    sum[2].v = _mm512_mask3_fmadd_ps(value.v, next.v, sum[2].v, mask & __mmask16((1u << (n - 1)) - 1));
    const bool opens = (phase + k.length - 1) % 3 == 0;  // the last value is the first of a pair
    if (opens && s + 1 < k.count) across = std::fma(from[k.length - 1] * scale.inverse, a[k.offset[s + 1]], across);
    phase = int((phase + k.length) % 3);
  }
  std::fill(to + K_, to + ceil_div(K_, 3) * 3, 0.0f);
  info.correction = (((sum[0] + sum[1]) + sum[2]).sum() + across) * scale.inverse;
}

void ModeRows::set_columns(Index first, Index n, const float* p, Index ldp, Index K) {
  by_columns_ = mode_ != ProductMode::kAmxBfloat16;
  assert(first % kLanes == 0 && first + n <= rows_ && K <= K_);
  // Some registers of columns at a time, row by row: what lies side by side in P is read together.
  constexpr Index kStrip = 8;
  for (Index i = 0; i < n; i += kStrip * kLanes) {
    const Index strip = std::min(n - i, kStrip * kLanes);
    by_columns_ ? set_strip(first + i, strip, p + i, ldp, K) : set_tiles(first + i, strip, p + i, ldp, K);
  }
}

void ModeRows::set_tiles(Index first, Index n, const float* p, Index ldp, Index K) {
  alignas(64) float square[amx::kTile][kLanes];
  for (Index j = 0; j < ceil_div(K, 2 * amx::kTile) * amx::kTile; j += amx::kTile) {
    for (Index i = 0; i < n; i += kLanes) {
      const Index count = std::min(kLanes, n - i);
      const auto value = [&](Index k) { return k < K ? Lanes::load(p + k * ldp + i, count) : Lanes(0.0f); };
      for (Index r = 0; r < amx::kTile; ++r)
        bfloat16_pairs(value(2 * (j + r)), value(2 * (j + r) + 1)).store(square[r]);
      transpose(values_.data() + (first + i) * ld_ + j, ld_, square[0], kLanes, amx::kTile, count);
    }
  }
}

void ModeRows::set_strip(Index first, Index n, const float* p, Index ldp, Index K) {
  constexpr Index kStrip = 8;
  const Index count = ceil_div(n, kLanes), last = n - (count - 1) * kLanes;
  const auto value = [&](Index k, Index i) {
    return k < K ? Lanes::load(p + k * ldp + i * kLanes, i + 1 < count ? kLanes : last) : Lanes(0.0f);
  };
  const auto out = [&](Index i) { return values_.data() + (first / kLanes + i) * block_; };
  if (mode_ == ProductMode::kBfloat16) {
    for (Index j = 0; j < ceil_div(K, 2); ++j) {
      for (Index i = 0; i < count; ++i) bfloat16_pairs(value(2 * j, i), value(2 * j + 1, i)).store(out(i) + j * kLanes);
    }
    return;
  }
  __m512i most[kStrip];
  for (__m512i& each : most) each = _mm512_setzero_si512();
  for (Index k = 0; k < K; ++k) {
    for (Index i = 0; i < count; ++i) most[i] = larger_bits(most[i], value(k, i));
  }
  Lanes inverse[kStrip], sum[kStrip];
  for (Index i = 0; i < count; ++i) inverse[i] = inverse_scale(most[i]), sum[i] = Lanes(0.0f);
  for (Index j = 0; j < ceil_div(K, 3); ++j) {
    for (Index i = 0; i < count; ++i) {
      float* to = out(i) + 3 * j * kLanes;
      const Lanes a0 = value(3 * j, i) * inverse[i], a1 = value(3 * j + 1, i) * inverse[i];
      sum[i] = fma(a0, a1, sum[i]);
      a0.store(to), a1.store(to + kLanes), (value(3 * j + 2, i) * inverse[i]).store(to + 2 * kLanes);
    }
  }
  for (Index i = 0; i < count; ++i) {
    const __mmask16 direct = has_no_scale(most[i]);
    alignas(64) float correction[kLanes], scale[kLanes];
    sum[i].store(correction), scale_of(most[i], inverse[i]).store(scale);
    for (Index l = 0; l < std::min(kLanes, n - i * kLanes); ++l)
      info_[first + i * kLanes + l] = {correction[l], scale[l], (direct >> l & 1) != 0};
    any_direct_ |= direct != 0;
  }
}

#else

ModeRows::ModeRows(ProductMode, Index, Index) {}
void ModeRows::set(Index, const float*, const Segments&) {}
void ModeRows::set_columns(Index, Index, const float*, Index, Index) {}
void ModeRows::set_strip(Index, Index, const float*, Index, Index) {}
void ModeRows::set_tiles(Index, Index, const float*, Index, Index) {}

#endif

}  // namespace bptt
