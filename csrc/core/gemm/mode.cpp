// SPDX-License-Identifier: Apache-2.0
#include "core/gemm/mode.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/gemm/blocks.h"
#include "core/memory/dry_run.h"
#include "core/simd/vec.h"

namespace bptt {

#if defined(__AVX512F__) && defined(__GNUC__)

namespace {

constexpr Index kLanes = 16;
using Lanes = Vec<float>;

/// One value in all lanes. VPBROADCASTD leaves the pipes of floating point free, which VBROADCASTSS does not (Zen 4).
BPTT_INLINE Lanes broadcast(const float* p) {
  Lanes v;
  asm("vpbroadcastd %1, %0" : "=v"(v.v) : "m"(*p));
  return v;
}

/// acc + the products of the pairs of bfloat16 in each lane. No flag of the compiler allows it at this level, and GCC
/// 12 copies accumulators around the intrinsic.
BPTT_INLINE void add_pairs(Lanes& acc, const Lanes& a, const Lanes& b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
}

/// Lanes rounded to bfloat16, to 16 places.
BPTT_INLINE void store_bfloat16(std::uint16_t* to, const Lanes& x) {
  __m256i narrow;
  asm("vcvtneps2bf16 %1, %0" : "=v"(narrow) : "v"(x.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow);
}

/// Two values of each lane, rounded to bfloat16, in 32 bits: the first one below.
BPTT_INLINE Lanes bfloat16_pairs(const Lanes& first, const Lanes& second) {
  __m256i low, high;
  asm("vcvtneps2bf16 %1, %0" : "=v"(low) : "v"(first.v));
  asm("vcvtneps2bf16 %1, %0" : "=v"(high) : "v"(second.v));
  constexpr __mmask16 all = __mmask16(-1);  // masked, since GCC 12 warns of its own plain intrinsics
  const __m512i upper = _mm512_maskz_slli_epi32(all, _mm512_maskz_cvtepu16_epi32(all, high), 16);
  return Lanes(_mm512_castsi512_ps(_mm512_or_si512(upper, _mm512_maskz_cvtepu16_epi32(all, low))));
}

// The bits of a magnitude order as the magnitudes do, NaN last; those of its exponent alone are the power of two below.
constexpr std::uint32_t kInfinity = 0x7f800000u, kMagnitude = 0x7fffffffu;
constexpr std::uint32_t kLeastScale = (127u - 100u) << 23, kLargestScale = (127u + 100u) << 23;

float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

BPTT_INLINE __m512i in_all(std::uint32_t bits) { return _mm512_set1_epi32(int(bits)); }

/// In each lane the larger magnitude, as bits.
BPTT_INLINE __m512i larger_bits(__m512i most, const Lanes& x) {
  const __m512i size = _mm512_and_si512(_mm512_castps_si512(x.v), in_all(kMagnitude));
  return _mm512_mask_max_epu32(most, __mmask16(-1), most, size);
}

/// In each lane the largest magnitude of n values and of `most`, as bits.
BPTT_INLINE __m512i largest_bits(const float* a, Index n, __m512i most) {
  for (; n >= kLanes; a += kLanes, n -= kLanes) most = larger_bits(most, Lanes::load(a));
  return n > 0 ? larger_bits(most, Lanes::load(a, n)) : most;
}

/// The largest of all lanes.
BPTT_INLINE std::uint32_t largest_lane(__m512i x) {
  const auto larger = [&](__m512i y) { x = _mm512_mask_max_epu32(x, __mmask16(-1), x, y); };
  constexpr __mmask16 all = __mmask16(-1);  // masked, since GCC 12 warns of its own plain intrinsics
  larger(_mm512_maskz_shuffle_i32x4(all, x, x, 0x4e));
  larger(_mm512_maskz_shuffle_i32x4(all, x, x, 0xb1));
  larger(_mm512_maskz_shuffle_epi32(all, x, _MM_PERM_BADC));
  larger(_mm512_maskz_shuffle_epi32(all, x, _MM_PERM_CDAB));
  const float first = _mm512_cvtss_f32(_mm512_castsi512_ps(x));
  std::uint32_t bits;
  std::memcpy(&bits, &first, sizeof bits);
  return bits;
}

/// The lanes whose values have no scale, by their largest magnitude.
BPTT_INLINE __mmask16 has_no_scale(__m512i most) {
  const __mmask16 some = _mm512_cmpneq_epu32_mask(most, in_all(0));
  const __mmask16 small = _mm512_cmplt_epu32_mask(most, in_all(kLeastScale));
  const __mmask16 large = _mm512_cmpge_epu32_mask(most, in_all(kLargestScale));
  return __mmask16((some & small) | large);
}

/// What values are multiplied by, by their largest magnitude: 1 over the power of two below it. Where they have no
/// scale they are brought nearer to 1 if that is possible, so that products with values that have one stay finite.
BPTT_INLINE Lanes inverse_scale(__m512i most) {
  const auto choose = [](__mmask16 where, std::uint32_t bits, __m512i otherwise) {
    return _mm512_mask_blend_epi32(where, otherwise, in_all(bits));
  };
  constexpr std::uint32_t kOne = 127u << 23, k64 = 64u << 23;
  const __m512i power = _mm512_and_si512(most, in_all(kInfinity));
  __m512i inverse = _mm512_sub_epi32(in_all(2 * kOne), power);
  inverse = choose(_mm512_cmplt_epu32_mask(most, in_all(kLeastScale)), kOne + k64, inverse);
  inverse = choose(_mm512_cmpge_epu32_mask(most, in_all(kLargestScale)), kOne - k64, inverse);
  inverse = choose(_mm512_cmpge_epu32_mask(most, in_all(kInfinity)), kOne, inverse);
  return Lanes(_mm512_castsi512_ps(choose(_mm512_cmpeq_epu32_mask(most, in_all(0)), kOne, inverse)));
}

/// A row's scale: the power of two below its largest magnitude, or what inverse_scale chooses where it has none.
struct Scale {
  float value, inverse;
  bool none;
};

/// Of the magnitudes in all lanes.
BPTT_INLINE Scale row_scale(__m512i lanes) {
  const std::uint32_t most = largest_lane(lanes), power = most & kInfinity;
  if (kLeastScale <= most && most < kLargestScale) return {as_float(power), as_float((254u << 23) - power), false};
  const float inverse = _mm512_cvtss_f32(inverse_scale(in_all(most)).v);
  return {most == 0 ? 0.0f : 1 / inverse, inverse, has_no_scale(in_all(most)) != 0};
}

/// What sums of columns are multiplied by, 1 over inverse_scale; 0 where all values are 0, so that their products are
/// 0: sums of 0 and the other operand leave its rounding.
BPTT_INLINE Lanes scale_of(__m512i most, const Lanes& inverse) {
  return Lanes(_mm512_maskz_mov_ps(_mm512_cmpneq_epu32_mask(most, in_all(0)), (Lanes(1.0f) / inverse).v));
}

/// to[r*row_stride + place[n]] += the product of R rows with N registers of a group of S.
template <int R, int N, int S, bool kByColumns>
BPTT_NOINLINE void winograd_tile(float* to, Index row_stride, const Index* place, const float* a,
                                 [[maybe_unused]] Index ld, const ModeRows::Row* rows, const float* panel, Index steps,
                                 const float* correction, const float* scale) {
  Lanes acc[R][N];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Lanes column = Lanes::load(correction + n * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][n] = Lanes(0.0f) - (column + Lanes(rows[r].correction));
  }
  const Index to_row = kByColumns ? 1 : ld, to_k = kByColumns ? kLanes : 1;
  for (Index j = 0; j < steps; ++j, a += 3 * to_k, panel += 3 * S * kLanes) {
    Lanes w0[N], w1[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      w0[n] = Lanes::load(panel + n * kLanes), w1[n] = Lanes::load(panel + (S + n) * kLanes);
      hold(w0[n]), hold(w1[n]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float* value = a + r * to_row;
      Lanes a0 = broadcast(value), a1 = broadcast(value + to_k), a2 = broadcast(value + 2 * to_k);
      hold(a0), hold(a1), hold(a2);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        acc[r][n] = fma(a2, Lanes::load(panel + (2 * S + n) * kLanes), acc[r][n]);
        acc[r][n] = fma(a0 + w1[n], a1 + w0[n], acc[r][n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      float* sum = to + r * row_stride + place[n];
      fma(acc[r][n] * Lanes(rows[r].scale), Lanes::load(scale + n * kLanes), Lanes::load(sum)).store(sum);
    }
  }
}

/// The same for one row and one register where either has no scale: a chain of FMAs.
BPTT_NOINLINE void direct_row(float* to, const float* a, Index to_k, const ModeRows::Row& row, const float* panel,
                              Index steps, const float* scale, int S) {
  Lanes acc(0.0f);
  for (Index k = 0; k < 3 * steps; ++k) acc = fma(broadcast(a + k * to_k), Lanes::load(panel + k * S * kLanes), acc);
  fma(acc * Lanes(row.scale), Lanes::load(scale), Lanes::load(to)).store(to);
}

bool is_direct(const ModeRows::Row& row) { return row.direct; }
bool is_set(unsigned char flag) { return flag != 0; }

template <int R, int N, int S, bool kByColumns>
BPTT_NOINLINE void bfloat16_tile(float* to, Index row_stride, const Index* place, const float* a,
                                 [[maybe_unused]] Index ld, const float* panel, Index steps) {
  Lanes acc[R][N];
#pragma GCC unroll 32
  for (int i = 0; i < R * N; ++i) acc[i / N][i % N] = Lanes(0.0f);
  const Index to_row = kByColumns ? 1 : ld, to_k = kByColumns ? kLanes : 1;
  for (Index j = 0; j < steps; ++j, a += to_k, panel += S * kLanes) {
    Lanes w[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      w[n] = Lanes::load(panel + n * kLanes);
      hold(w[n]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Lanes pair = broadcast(a + r * to_row);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) add_pairs(acc[r][n], pair, w[n]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      float* sum = to + r * row_stride + place[n];
      (Lanes::load(sum) + acc[r][n]).store(sum);
    }
  }
}

}  // namespace

ModeRows::ModeRows(ProductMode mode, Index rows, Index K)
    : mode_(mode),
      rows_(rows),
      K_(K),
      ld_(mode == ProductMode::kWinograd ? ceil_div(K, 3 * kLanes) * 3 * kLanes + kLanes
                                         : ceil_div(K, 2 * kLanes) * kLanes),
      block_(ld_ * kLanes),
      values_(checked_mul(ceil_div(rows, kLanes) * kLanes, ld_)),
      info_(mode == ProductMode::kWinograd ? rows : 0) {}

void ModeRows::set(Index row, const float* a, const Segments& k) {
  float* const to = values_.data() + row * ld_;
  assert(k.count * k.length == K_ && !by_columns_);
  if (mode_ == ProductMode::kBfloat16) {
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
  by_columns_ = true;
  assert(first % kLanes == 0 && first + n <= rows_ && K <= K_);
  // Some registers of columns at a time, row by row: what lies side by side in P is read together.
  constexpr Index kStrip = 8;
  for (Index i = 0; i < n; i += kStrip * kLanes) set_strip(first + i, std::min(n - i, kStrip * kLanes), p + i, ldp, K);
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

ModePanels::ModePanels(ProductMode mode, Index K, Index registers, int group)
    : mode_(mode), registers_(ceil_div(registers, group) * group), group_(group) {
  assert(group == 2 || group == 3);
  set_depth(K);
  data_ = Buffer<float>(checked_mul(checked_mul(registers_, kLanes), steps_ * per_step()));
  if (mode == ProductMode::kWinograd) {
    correction_ = Buffer<float>(registers_ * kLanes);
    scale_ = Buffer<float>(registers_ * kLanes);
    direct_ = Buffer<unsigned char>(registers_);
  }
  for (Index c = registers; c < registers_ && !DryRun::on(); ++c) pack_zeros(c);
}

void ModePanels::set_depth(Index K) {
  K_ = K;
  steps_ = ceil_div(K, mode_ == ProductMode::kWinograd ? 3 : 2);
}

void ModePanels::pack(Index c, const float* from, Index stride, Index n) {
  const Index S = group_;
  float* to = block(c);
  const auto value = [&](Index k) { return k < K_ ? Lanes::load(from + k * stride, n) : Lanes(0.0f); };
  if (mode_ == ProductMode::kBfloat16) {
    for (Index j = 0; j < steps_; ++j, to += S * kLanes) bfloat16_pairs(value(2 * j), value(2 * j + 1)).store(to);
    return;
  }
  __m512i most = _mm512_setzero_si512();
  for (Index k = 0; k < K_; ++k) most = larger_bits(most, value(k));
  const Lanes inverse = inverse_scale(most);
  scale_of(most, inverse).store(scale_.data() + c * kLanes);
  direct_[c] = has_no_scale(most) != 0;
  Lanes sum(0.0f);
  for (Index j = 0; j < steps_; ++j, to += 3 * S * kLanes) {
    const Lanes w0 = value(3 * j) * inverse, w1 = value(3 * j + 1) * inverse;
    sum = fma(w0, w1, sum);
    w0.store(to), w1.store(to + S * kLanes), (value(3 * j + 2) * inverse).store(to + 2 * S * kLanes);
  }
  sum.store(correction_.data() + c * kLanes);
}

void ModePanels::pack_zeros(Index c) {
  alignas(64) constexpr float zeros[kLanes] = {};
  pack(c, zeros, 0, kLanes);
}

void ModePanels::multiply(float* to, Index row_stride, const Index* place, const ModeRows& a, Index row, Index rows,
                          Index first, int count) const {
  assert(0 <= first && first + count <= registers_ && a.mode() == mode_ && (!a.by_columns() || group_ == 2));
  const RowBlocks blocks(rows);
  for (Index c = first, n; c < first + count; c += n, place += n) {
    n = std::min<Index>(group_ - c % group_, first + count - c);
    const bool direct = mode_ == ProductMode::kWinograd && std::any_of(&direct_[c], &direct_[c] + n, is_set);
    for (Index i = 0; i < blocks.count; ++i) {
      const Index r = blocks.begin(i);
      const int R = blocks.size(i);
      if (direct || (a.any_direct() && std::any_of(a.info(row + r), a.info(row + r) + R, is_direct)))
        multiply_one_by_one(to + r * row_stride, row_stride, place, a, row + r, R, c, int(n));
      else
        multiply_tile(to + r * row_stride, row_stride, place, a, row + r, R, c, int(n));
    }
  }
}

void ModePanels::multiply_tile(float* to, Index row_stride, const Index* place, const ModeRows& a, Index row, int R,
                               Index c, int n) const {
  const auto tile = [&](auto height, auto width, auto group, auto by_columns) {
    constexpr int kRows = height, kWidth = width, kGroup = group;
    constexpr bool kByColumns = by_columns;
    if (mode_ == ProductMode::kWinograd)
      winograd_tile<kRows, kWidth, kGroup, kByColumns>(to, row_stride, place, a.values(row), a.ld(), a.info(row),
                                                       block(c), steps_, correction_.data() + c * kLanes,
                                                       scale_.data() + c * kLanes);
    else
      bfloat16_tile<kRows, kWidth, kGroup, kByColumns>(to, row_stride, place, a.values(row), a.ld(), block(c), steps_);
  };
  dispatch<kTileRows>(R, [&](auto height) {
    if (a.by_columns()) {
      dispatch<2>(n, [&](auto width) { tile(height, width, Constant<2>{}, std::true_type{}); });
    } else if (group_ == 2) {
      dispatch<2>(n, [&](auto width) { tile(height, width, Constant<2>{}, std::false_type{}); });
    } else {
      dispatch<3>(n, [&](auto width) { tile(height, width, Constant<3>{}, std::false_type{}); });
    }
  });
}

void ModePanels::multiply_one_by_one(float* to, Index row_stride, const Index* place, const ModeRows& a, Index row,
                                     int R, Index c, int n) const {
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < n; ++i) {
      // A register that has a scale takes the mode's sums in the rows that have one, whatever lies beside it.
      if (a.info(row + r)->direct || direct_[c + i])
        direct_row(to + r * row_stride + place[i], a.values(row + r), a.by_columns() ? kLanes : 1, *a.info(row + r),
                   block(c + i), steps_, scale_.data() + (c + i) * kLanes, group_);
      else
        multiply_tile(to + r * row_stride, row_stride, place + i, a, row + r, 1, c + i, 1);
    }
  }
}

#else

ModeRows::ModeRows(ProductMode, Index, Index) {}
void ModeRows::set(Index, const float*, const Segments&) {}
void ModeRows::set_columns(Index, Index, const float*, Index, Index) {}
void ModeRows::set_strip(Index, Index, const float*, Index, Index) {}
ModePanels::ModePanels(ProductMode, Index, Index, int) {}
void ModePanels::set_depth(Index) {}
void ModePanels::pack(Index, const float*, Index, Index) {}
void ModePanels::pack_zeros(Index) {}
void ModePanels::multiply(float*, Index, const Index*, const ModeRows&, Index, Index, Index, int) const {}

#endif

}  // namespace bptt
