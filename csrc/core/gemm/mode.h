// SPDX-License-Identifier: Apache-2.0
// Products of float32 by another arithmetic than a chain of FMAs, where the processor has a faster one (AVX-512):
//
//   kWinograd  Winograd's inner product (1968). Of three k, two are one FMA of two sums and the third is plain:
//                a0 w0 + a1 w1 = (a0 + w1) (a1 + w0) - a0 a1 - w0 w1
//              Additions have pipes of their own on some processors, so that three multiply-adds cost two FMAs. The
//              corrections sum(a0 a1) and sum(w0 w1) are made once for each row and each column. Rows and columns are
//              first divided by the power of two below their largest magnitude: sums of values of different scales
//              would lose the smaller one's digits. What has no such scale (values that are not finite, or all beyond
//              2^100 or below 2^-100) takes a chain of FMAs.
//   kBfloat16  VDPBF16PS: values rounded to bfloat16, two products a lane and instruction, sums in float32.
//   kAmxBfloat16  the same by the tiles of AMX (amx.h), between the two ends of a ModeScope.
//
// Both operands are brought into the mode's form first: rows by ModeRows, columns by ModePanels. Each element is one
// chain in a fixed order of k, whatever the tile: its bits depend on its row and on the columns of its register, of
// which one without a scale makes all of them take FMAs.
#pragma once

#include <cstdint>

#include "core/gemm/product.h"
#include "core/gemm/product_mode.h"
#include "core/memory/arena.h"
#include "core/memory/sizes.h"

namespace bptt {

/// Whether this module has the other modes; those of bfloat16 and AMX need a processor that has the instructions.
#if defined(__AVX512F__) && defined(__GNUC__)
constexpr bool kHasModes = true;
#else
constexpr bool kHasModes = false;
#endif

/// While it is there, this thread can multiply in the mode.
class ModeScope {
 public:
  explicit ModeScope(ProductMode mode);
  ~ModeScope();
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;

 private:
  ProductMode mode_;
};

/// Rows of A, [rows,K], as a mode reads them.
class ModeRows {
 public:
  struct Row {
    float correction, scale;
    bool direct;  // kWinograd: it has no scale
  };

  ModeRows() = default;
  ModeRows(ProductMode mode, Index rows, Index K);
  /// Row `row` from the segments `k` of a, which together have K values.
  void set(Index row, const float* a, const Segments& k);
  /// Instead: the rows [first, first + n) of A from the columns of P [K,...], whose rows are ldp apart: A's row
  /// first + i is column i. A then lies in blocks of W rows side by side but for AMX, and a tile's rows are of one
  /// block. K is at most that of the constructor.
  void set_columns(Index first, Index n, const float* p, Index ldp, Index K);

  ProductMode mode() const { return mode_; }
  bool by_columns() const { return by_columns_; }
  /// Whether some row had no scale.
  bool any_direct() const { return any_direct_; }
  const float* values(Index row) const {
    return values_.data() + (by_columns_ ? row / kLanes * block_ + row % kLanes : row * ld_);
  }
  /// From one row to the next, where they are not by columns.
  Index ld() const { return ld_; }
  /// Null where the mode is not kWinograd.
  const Row* info(Index row) const { return info_.size() > 0 ? info_.data() + row : nullptr; }

 private:
  void set_strip(Index first, Index n, const float* p, Index ldp, Index K);
  void set_tiles(Index first, Index n, const float* p, Index ldp, Index K);

  static constexpr Index kLanes = Vec<float>::kSize;
  ProductMode mode_ = ProductMode::kFma;
  bool by_columns_ = false, any_direct_ = false;
  Index rows_ = 0, K_ = 0, ld_ = 0, block_ = 0;
  Buffer<float> values_;
  Buffer<Row> info_;
};

/// Where the sums of some rows and registers are: those of row r and register i at to[r*row_stride + place[i]].
struct ModeSums {
  float* to;
  Index row_stride;
  const Index* place;

  ModeSums at(Index row, Index i) const { return {to + row * row_stride, row_stride, place + i}; }
};

namespace lanes {
struct Panel;
}

/// Columns of B as registers, `group` of them side by side: [groups][K steps][group][...].
class ModePanels {
 public:
  ModePanels() = default;
  ModePanels(ProductMode mode, Index K, Index registers, int group);
  /// Another K, at most that of the constructor, for all that is packed from now on.
  void set_depth(Index K);
  /// Register c, of which the first n lanes are columns: lane l of value k is from[k*stride + l].
  void pack(Index c, const float* from, Index stride, Index n);
  /// Register c without columns.
  void pack_zeros(Index c);
  ProductMode mode() const { return mode_; }

  /// Adds A[row + r,:] * register first + i to the sums of row r and register i, for `rows` rows and `count` registers.
  void multiply(const ModeSums& to, const ModeRows& a, Index row, Index rows, Index first, int count) const;

 private:
  /// The same for one tile: R rows and n registers of one group from register c.
  void multiply_tile(const ModeSums& to, const ModeRows& a, Index row, int R, Index c, int n) const;
  /// For a tile of which some row or register has no scale.
  void multiply_one_by_one(const ModeSums& to, const ModeRows& a, Index row, int R, Index c, int n) const;
  /// The whole of multiply, by the tiles of AMX.
  void multiply_tiles(const ModeSums& to, const ModeRows& a, Index row, Index rows, Index first, int count) const;
  lanes::Panel panel(Index c) const;
  float* block(Index c) { return data_.data() + (c / group_ * steps_ * per_step() * group_ + c % group_) * kLanes; }
  const float* block(Index c) const { return const_cast<ModePanels*>(this)->block(c); }
  Index per_step() const { return mode_ == ProductMode::kWinograd ? 3 : 1; }

  static constexpr Index kLanes = Vec<float>::kSize;
  ProductMode mode_ = ProductMode::kFma;
  Index K_ = 0, steps_ = 0, registers_ = 0;  // steps of three k (kWinograd) or two; for AMX a multiple of 16
  int group_ = 1;
  Buffer<float> data_;
  Buffer<float> correction_, scale_;  // of columns: [registers][W]
  Buffer<unsigned char> direct_;      // [registers]: some column has no scale
};

}  // namespace bptt
