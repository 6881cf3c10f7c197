// SPDX-License-Identifier: Apache-2.0
// Columns in the form of a mode, and their products with rows.
#include "core/gemm/mode.h"

#include <algorithm>
#include <cassert>
#include <type_traits>

#include "core/gemm/amx.h"
#include "core/gemm/blocks.h"
#include "core/gemm/mode_tiles.h"
#include "core/memory/dry_run.h"

namespace bptt {

#if defined(__AVX512F__) && defined(__GNUC__)

using namespace lanes;

namespace {

/// The products of `height` tiles of rows and `width` of columns, at most four.
void multiply_four(const amx::Operand& a, const amx::Operand& b, Index steps, int height, int width, float* sums) {
  const auto multiply = [&](auto rows, auto columns) {
    constexpr int R = rows, N = columns;
    constexpr Index kSize = amx::kTile * kLanes;
    amx::multiply<R, N>(a, b, steps);
    amx::store<0>(sums);
    if constexpr (R * N > 1) amx::store<1>(sums + kSize);
    if constexpr (R * N > 2) amx::store<2>(sums + 2 * kSize), amx::store<3>(sums + 3 * kSize);
  };
  if (width == 4)
    multiply(Constant<1>{}, Constant<4>{});
  else
    dispatch<2>(height, [&](auto rows) { dispatch<2>(width, [&](auto columns) { multiply(rows, columns); }); });
}

}  // namespace

ModeScope::ModeScope(ProductMode mode) : mode_(mode) {
  if (mode == ProductMode::kAmxBfloat16) amx::configure();
}
ModeScope::~ModeScope() {
  if (mode_ == ProductMode::kAmxBfloat16) amx::release();
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
  if (mode_ == ProductMode::kAmxBfloat16) steps_ = ceil_div(steps_, amx::kTile) * amx::kTile;
}

void ModePanels::pack(Index c, const float* from, Index stride, Index n) {
  const Index S = group_;
  float* to = block(c);
  const auto value = [&](Index k) { return k < K_ ? Lanes::load(from + k * stride, n) : Lanes(0.0f); };
  if (mode_ != ProductMode::kWinograd) {
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

void ModePanels::multiply(const ModeSums& to, const ModeRows& a, Index row, Index rows, Index first, int count) const {
  assert(0 <= first && first + count <= registers_ && a.mode() == mode_ && (!a.by_columns() || group_ == 2));
  if (mode_ == ProductMode::kAmxBfloat16) return multiply_tiles(to, a, row, rows, first, count);
  const auto is_direct = [](const ModeRows::Row& each) { return each.direct; };
  const auto is_set = [](unsigned char flag) { return flag != 0; };
  const RowBlocks blocks(rows);
  for (Index c = first, n; c < first + count; c += n) {
    n = std::min<Index>(group_ - c % group_, first + count - c);
    const bool direct = mode_ == ProductMode::kWinograd && std::any_of(&direct_[c], &direct_[c] + n, is_set);
    for (Index i = 0; i < blocks.count; ++i) {
      const Index r = blocks.begin(i);
      const int R = blocks.size(i);
      const ModeSums sums = to.at(r, c - first);
      if (direct || (a.any_direct() && std::any_of(a.info(row + r), a.info(row + r) + R, is_direct)))
        multiply_one_by_one(sums, a, row + r, R, c, int(n));
      else
        multiply_tile(sums, a, row + r, R, c, int(n));
    }
  }
}

lanes::Panel ModePanels::panel(Index c) const {
  if (mode_ != ProductMode::kWinograd) return {block(c), steps_, nullptr, nullptr};
  return {block(c), steps_, correction_.data() + c * kLanes, scale_.data() + c * kLanes};
}

void ModePanels::multiply_tile(const ModeSums& to, const ModeRows& a, Index row, int R, Index c, int n) const {
  const auto tile = [&](auto height, auto width, auto group, auto by_columns) {
    constexpr int kRows = height, kWidth = width, kGroup = group;
    constexpr bool kByColumns = by_columns;
    const lanes::Operand operand{a.values(row), a.ld(), a.info(row)};
    if (mode_ == ProductMode::kWinograd)
      lanes::winograd_tile<kRows, kWidth, kGroup, kByColumns>(to, operand, panel(c));
    else
      lanes::bfloat16_tile<kRows, kWidth, kGroup, kByColumns>(to, operand, panel(c));
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

void ModePanels::multiply_one_by_one(const ModeSums& to, const ModeRows& a, Index row, int R, Index c, int n) const {
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < n; ++i) {
      const ModeSums sums = to.at(r, i);
      const lanes::Operand operand{a.values(row + r), a.ld(), a.info(row + r)};
      // A register that has a scale takes the mode's sums in the rows that have one, whatever lies beside it.
      if (operand.rows->direct || direct_[c + i])
        lanes::direct_row(sums.to + sums.place[0], operand, a.by_columns() ? kLanes : 1, panel(c + i), group_);
      else
        multiply_tile(sums, a, row + r, 1, c + i, 1);
    }
  }
}

void ModePanels::multiply_tiles(const ModeSums& to, const ModeRows& a, Index row, Index rows, Index first,
                                int count) const {
  alignas(64) float sums[4][amx::kTile][kLanes];
  for (Index c = first, n; c < first + count; c += n) {
    const Index left = first + count - c;
    const bool wide = rows <= amx::kTile && group_ == 2 && c % 2 == 0 && left >= 4;  // four sums of one tile of rows
    n = wide ? 4 : std::min<Index>({2, group_ - c % group_, left});
    const amx::Operand right{block(c), group_ * kLanes, wide ? block(c + 2) - block(c) : 0};
    for (Index r = 0, R; r < rows; r += R) {
      R = std::min<Index>(2 * amx::kTile, rows - r);
      multiply_four({a.values(row + r), a.ld()}, right, steps_, R > amx::kTile ? 2 : 1, int(n), sums[0][0]);
      for (Index i = 0; i < n; ++i) {
        for (Index l = 0; l < R; ++l) {
          float* sum = to.to + (r + l) * to.row_stride + to.place[c - first + i];
          (Lanes::load(sum) + Lanes::load(sums[l / amx::kTile * n + i][l % amx::kTile])).store(sum);
        }
      }
    }
  }
}

#else

ModeScope::ModeScope(ProductMode mode) : mode_(mode) {}
ModeScope::~ModeScope() {}
ModePanels::ModePanels(ProductMode, Index, Index, int) {}
void ModePanels::set_depth(Index) {}
void ModePanels::pack(Index, const float*, Index, Index) {}
void ModePanels::pack_zeros(Index) {}
void ModePanels::multiply(const ModeSums&, const ModeRows&, Index, Index, Index, int) const {}

#endif

}  // namespace bptt
