// SPDX-License-Identifier: Apache-2.0
// The weight gradients dWx [G*H,I], dWh [G*H,Q] and db [G*H], summed chunk by chunk of rows (b, t) as core/gemm/sums.h
// says. A register holds neighbours of a row of dW: columns are those of x and h, rows the gates' units. Where x is
// narrow that wastes the register, and dWx is summed transposed, with units in a register, and turned at the end; the
// same goes for the columns of h in a last register of few columns. The sums are the same. Of few rows, such as those
// of one time step, each row of dW is written from its begin to its end. Threads divide the elements of dW, never a
// sum.
#pragma once

#include <utility>
#include <vector>

#include "core/gemm/mode.h"
#include "core/gemm/outer.h"
#include "core/gemm/sums.h"
#include "core/gemm/transpose.h"
#include "core/threads/share.h"
#include "sequence/tape.h"
#include "sequence/weights.h"

namespace bptt::sequence {

template <class T>
class WeightGradient {
  static constexpr int W = Vec<T>::kSize;
  static constexpr int kWidth = 4;          // registers of columns in a tile
  static constexpr Index kRows = kSumRows;  // a panel of 4 registers and so many rows takes 32 KiB
  static constexpr Index kHeight = 24;      // rows of dW that are one piece of work: a multiple of a tile's

 public:
  /// The sums of `rows` rows.
  WeightGradient(const Weights<T>& w, const BackwardCall<T>& call, Index rows, int threads)
      : w_(w),
        call_(call),
        few_(rows <= kFewRows && w.mode == ProductMode::kFma ? rows : 0),
        db_(w.G * w.Hp),
        panels_(few_ > 0 ? Buffer<T>() : Buffer<T>(threads * kRows * kWidth * W)) {
    db_.clear();
    if (few_ > 0) return;
    const Index G = w.G, H = w.H;
    if (is_transposed(w.I, H)) dwx_ = Buffer<T>(checked_mul(w.I, G * w.Hp));
    if (w.mode == ProductMode::kFma && w.N == 1 && !cell_.second && is_narrow(w.Q % W, w.blocks, H)) narrow_ = w.Q % W;
    if (narrow_ > 0) dnarrow_ = Buffer<T>(narrow_ * G * w.Hp);
    if (w.mode != ProductMode::kFma) {
      operands_ = std::vector<Operands>(std::size_t(threads));
      for (Operands& each : operands_)
        each.dg = {w.mode, checked_mul(cell_.accumulators, w.Hp), kRows},
        each.z = {w.mode, kRows, ceil_div(std::max(w.I, w.Q), W), 2};
    }
    if (rows <= kLongSum) return;
    const Index dwx = dwx_.size() > 0 ? dwx_.size() : G * H * w.I;
    part_ = Buffer<T>(dwx + db_.size() + G * H * w.Q + dnarrow_.size() + (w.cell.projects ? w.R * H : 0));
    set_zero();
  }

  /// Where there is nothing to add, or totals are added to.
  void set_zero() {
    if (DryRun::on()) return;
    dwx_.clear();
    dnarrow_.clear();
    std::fill_n(call_.d.weight_ih, G * w_.H * w_.I, T(0));
    std::fill_n(call_.d.weight_hh, G * w_.H * w_.Q, T(0));
    if (call_.d.projection) std::fill_n(call_.d.projection, w_.R * w_.H, T(0));
  }

  /// Adds `rows` rows: dg [rows,L,Hp], x [rows,I], and the hidden states before them, h [rows,R]. `last`: they
  /// are the last ones. `poll(rows)` is true where the call is called off. `since`: the rows in the parts so far, 0 at
  /// first, which each thread counts for itself: all threads add the same rows.
  template <class Poll>
  void add(const T* dg, const T* x, const T* h, Index rows, bool last, const Poll& poll, Index& since, int thread,
           int threads) {
    T* panel = panels_.data() + thread * kRows * kWidth * W;
    for (Index r = 0; r < rows; r += kRows) {
      const Index n = std::min(kRows, rows - r);
      const bool full = since + n >= kLongSum || (last && r + n == rows);
      const Sums to = sums(since == 0, full);
      const T* g = dg + r * row_;
      if (!operands_.empty()) {
        add_in_mode(to, g, x + r * w_.I, h + r * w_.R, n, operands_[std::size_t(thread)],
                    Share(w_.blocks, thread, threads));
      }
      for (Index head = 0, units = w_.H / w_.N; head < w_.N && operands_.empty(); ++head) {
        add_rows(to.hidden.at(head * units * w_.Q), units, cell_.h_acc, cell_.hidden_gates, w_.Q - narrow_,
                 g + head * units, h + r * w_.R + head * w_.Q, w_.R, n, panel, thread, threads);
      }
      if (narrow_ > 0)
        add_transposed(to.narrow, cell_.h_acc, g, {h + r * w_.R + w_.Q - narrow_, w_.R}, narrow_, n,
                       Share(G * groups(), thread, threads));
      if (cell_.multi_stage) add_multi_stage(to, g, n, panel, thread, threads);
      if (transposed())
        add_transposed(to.input, cell_.x_acc, g, {x + r * w_.I, w_.I}, w_.I, n, Share(G * groups(), thread, threads));
      else if (operands_.empty())
        add_rows(to.input, w_.H, cell_.x_acc, G, w_.I, g, x + r * w_.I, w_.I, n, panel, thread, threads);
      add_bias(to.bias, g, n, thread, threads);
      since = full && is_long() ? 0 : since + n;
      if (poll(n)) return;
    }
  }

  /// The sums that are not in their place yet.
  void write() const {
    for (int g = 0; g < G; ++g) {
      if (transposed())
        transpose(call_.d.weight_ih + g * w_.H * w_.I, w_.I, dwx_.data() + g * w_.Hp, G * w_.Hp, w_.I, w_.H);
      if (narrow_ > 0) {
        T* to = call_.d.weight_hh + g * w_.H * w_.Q + w_.Q - narrow_;
        transpose(to, w_.Q, dnarrow_.data() + g * w_.Hp, G * w_.Hp, narrow_, w_.H);
      }
      if (call_.d.bias && !cell_.bias_is_vectors) std::copy_n(db_.data() + g * w_.Hp, w_.H, call_.d.bias + g * w_.H);
    }
  }

 private:
  /// What a thread's products in another mode than kFma read: dG by columns, and registers of columns of x or h.
  struct Operands {
    ModeRows dg;
    ModePanels z;
  };

  struct Sums {
    SumTarget<T> input, bias, hidden, narrow, projection;
  };

  /// Where rows go: `fresh` where they are the first ones of their sums, `full` where they are the last ones. Long sums
  /// have parts, which are added to the totals.
  Sums sums(bool fresh, bool full) {
    T* part = part_.data();
    const auto next = [&](T* sum, Index ld, Index size) {
      if (!is_long()) return SumTarget<T>{sum, ld, fresh};
      return SumTarget<T>{std::exchange(part, part + size), ld, fresh, full ? sum : nullptr};
    };
    Sums s;
    s.input = transposed() ? next(dwx_.data(), G * w_.Hp, dwx_.size()) : next(call_.d.weight_ih, w_.I, G * w_.H * w_.I);
    s.bias = next(db_.data(), w_.Hp, db_.size());
    s.hidden = next(call_.d.weight_hh, w_.Q, G * w_.H * w_.Q);
    s.narrow = next(dnarrow_.data(), G * w_.Hp, dnarrow_.size());
    s.projection = next(call_.d.projection, w_.H, cell_.projects ? w_.R * w_.H : 0);
    return s;
  }

  bool is_long() const { return part_.size() > 0; }
  bool transposed() const { return dwx_.size() > 0; }

  /// Whether units make better use of registers than columns of x.
  static bool is_transposed(Index I, Index H) { return I * ceil_div(H, W) * W < ceil_div(I, W) * W * H; }

  /// Whether that goes for `columns` of h, too. A single column is no faster than two: its sums wait for each other.
  static bool is_narrow(Index columns, Index blocks, Index H) {
    return columns > 0 && 4 * std::max<Index>(2, columns) * blocks < 3 * H;
  }
  Index groups() const { return ceil_div(w_.blocks, kWidth); }

  /// dW[g*H + j, :] += sum over rows of dg[row, lines[g], j] * z[row,:] for `gates` gates of `units` units and the
  /// first `columns`; rows of z are `ld` apart.
  void add_rows(const SumTarget<T>& dw, Index units, const int* lines, Index gates, Index columns, const T* dg,
                const T* z, Index ld, Index rows, T* panel, int thread, int threads) const {
    if (few_ > 0) return add_few_rows(dw, units, lines, columns, dg, {z, ld}, Share(gates * units, thread, threads));
    const Index pieces = ceil_div(units, kHeight), blocks = ceil_div(columns, W), groups = ceil_div(blocks, kWidth);
    const Share share(groups * gates * pieces, thread, threads);
    for (Index group = share.begin / (gates * pieces); group * gates * pieces < share.end; ++group) {
      const Index from = std::max<Index>(0, share.begin - group * gates * pieces);
      const Index to = std::min(gates * pieces, share.end - group * gates * pieces);
      const Index first = group * kWidth;
      dispatch<kWidth>(int(std::min<Index>(kWidth, blocks - first)), [&](auto width) {
        gather<width>(panel, z, ld, columns, rows, first);
        const Index last = std::min<Index>(W, columns - (first + width - 1) * W);
        for (Index item = from; item < to;) {  // the pieces of one gate at once
          const Index g = item / pieces, end = std::min(to, (g + 1) * pieces);
          const Index begin = (item - g * pieces) * kHeight, stop = std::min(units, (end - g * pieces) * kHeight);
          outer<width>(dw.at(g * w_.H * dw.ld + first * W), last, StridedRows<const T>{dg + lines[g] * w_.Hp, row_},
                       StridedRows<const T>{panel, width * W}, rows, begin, stop);
          item = end;
        }
      });
    }
  }

  /// The same of few rows, for some rows of dW.
  void add_few_rows(const SumTarget<T>& dw, Index units, const int* lines, Index columns, const T* dg,
                    const StridedRows<const T>& z, const Share& share) const {
    assert(dw.fresh && !dw.total);  // so few are one chunk
    for (Index g = share.begin / units; g * units < share.end; ++g) {
      const Share own(std::max<Index>(0, share.begin - g * units), std::min(units, share.end - g * units));
      dispatch<kFewRows>(int(few_), [&](auto count) {
        outer_of_few<count>(StridedRows<T>{dw.sum + g * w_.H * dw.ld, dw.ld}, {dg + lines[g] * w_.Hp, row_}, z, columns,
                            own);
      });
    }
  }

  /// The sums of `rows` rows for some blocks of units, in another mode.
  void add_in_mode([[maybe_unused]] const Sums& to, [[maybe_unused]] const T* dg, [[maybe_unused]] const T* x,
                   [[maybe_unused]] const T* h, [[maybe_unused]] Index rows, [[maybe_unused]] Operands& operands,
                   [[maybe_unused]] const Share& blocks) const {
    if constexpr (std::is_same_v<T, float>) {
      const Index begin = blocks.begin * W, end = std::min(blocks.end * W, w_.H);
      if (begin >= end) return;
      for (int line = 0; line < cell_.accumulators; ++line) {
        const Index first = line * w_.Hp + begin;
        operands.dg.set_columns(first, end - begin, dg + first, row_, rows);
      }
      operands.z.set_depth(rows);
      add_columns(to.hidden, cell_.h_acc, {h, w_.R}, w_.Q, operands, Share(begin, end));
      if (!transposed()) add_columns(to.input, cell_.x_acc, {x, w_.I}, w_.I, operands, Share(begin, end));
    }
  }

  /// dW[g*H + j, :] += sum over rows of dg[row, lines[g], j] * z[row,:] for some units of all gates, `columns` wide.
  /// All columns are packed first, and each block of units meets them while it is in the nearest cache.
  void add_columns(const SumTarget<T>& dw, const int* lines, const StridedRows<const T>& z, Index columns,
                   Operands& operands, const Share& units) const {
    const Index registers = ceil_div(columns, W);
    const ModeScope scope(w_.mode);
    const auto lanes = [&](Index n) { return std::min<Index>(W, columns - n * W); };
    for (Index n = 0; n < registers; ++n) operands.z.pack(n, z.data + n * W, z.ld, lanes(n));
    for (Index g = 0; g < G; ++g) {
      for (Index block = units.begin; block < units.end; block += W) {
        const Index rows = std::min<Index>(W, units.end - block);
        for (Index first = 0; first < registers; first += kWidth) {
          const Share part(first, std::min(registers, first + kWidth));
          const SumTarget<T> to = dw.at((g * w_.H + block) * columns + first * W);
          add_tile(to, operands, lines[g] * w_.Hp + block, rows, part, lanes(part.end - 1));
        }
      }
    }
  }

  /// R rows of dW, of one block of units, from row `row` of the operand, and some registers of columns.
  void add_tile(const SumTarget<T>& to, const Operands& operands, Index row, Index R, const Share& part,
                Index last) const {
    constexpr Index place[kWidth] = {0, W, 2 * W, 3 * W};
    const int count = int(part.end - part.begin);
    if (!to.total && last == W) {  // in its place; the rounding is the same
      for (Index r = 0; r < R && to.fresh; ++r) std::fill_n(to.sum + r * to.ld, count * W, T(0));
      return operands.z.multiply({to.sum, to.ld, place}, operands.dg, row, R, part.begin, count);
    }
    alignas(64) T sum[W * kWidth * W];
    std::fill_n(sum, R * count * W, T(0));
    operands.z.multiply({sum, count * W, place}, operands.dg, row, R, part.begin, count);
    to.add_tile(sum, int(R), count, 0, last);
  }

  /// The products that only cells of several stages have.
  void add_multi_stage(const Sums& to, const T* dg, Index rows, T* panel, int thread, int threads) const {
    if (cell_.second) {
      add_rows(to.hidden.at(cell_.hidden_gates * w_.H * w_.R), w_.H, &cell_.second_to, 1, w_.R, dg,
               dg + cell_.second_from * w_.Hp, row_, rows, panel, thread, threads);
    }
    if (cell_.projects) {
      const int line = cell_.projected + 1;
      add_rows(to.projection, w_.R, &line, 1, w_.H, dg, dg + cell_.projected * w_.Hp, row_, rows, panel, thread,
               threads);
    }
  }

  /// dW^T[i, g*Hp + j] += sum over rows of z[row,i] * dg[row, lines[g], j], for a share of the gates' groups of blocks.
  void add_transposed(const SumTarget<T>& dw, const int* lines, const T* dg, const StridedRows<const T>& z,
                      Index columns, Index rows, const Share& share) const {
    for (Index item = share.begin; item < share.end; ++item) {
      const Index g = item / groups(), first = item % groups() * kWidth;
      dispatch<kWidth>(int(std::min<Index>(kWidth, w_.blocks - first)), [&](auto width) {
        const StridedRows<const T> units{dg + lines[g] * w_.Hp + first * W, row_};
        outer<width>(dw.at(g * w_.Hp + first * W), W, z, units, rows, 0, columns);
      });
    }
  }

  /// Some registers at once: a sum by itself waits for each of its additions.
  void add_bias(const SumTarget<T>& db, const T* dg, Index rows, int thread, int threads) const {
    const Share share(G * w_.blocks, thread, threads);
    for (Index g = 0; g < G; ++g) {
      const auto of_gate = [&](Index item) { return std::clamp<Index>(item - g * w_.blocks, 0, w_.blocks); };
      for_block_runs<kWidth>(of_gate(share.begin), of_gate(share.end), [&](auto width, Index block) {
        constexpr int N = width;
        Vec<T> sum[N];
        for (int n = 0; n < N; ++n) sum[n] = Vec<T>(T(0));
        const T* value = dg + cell_.x_acc[g] * w_.Hp + block * W;
        for (Index r = 0; r < rows; ++r, value += row_) {
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) sum[n] = sum[n] + Vec<T>::load(value + n * W);
        }
        for (int n = 0; n < N; ++n) db.add(sum[n], g * w_.Hp + (block + n) * W, W);
      });
    }
  }

  const Weights<T>& w_;
  const cells::Info& cell_ = w_.cell;
  const Index G = cell_.gates, row_ = cell_.lines * w_.Hp;  // values of a row of dg
  const BackwardCall<T>& call_;
  const Index few_;                 // rows in all, where they are at most kFewRows; else 0
  Index narrow_ = 0;                // columns of h that are summed transposed
  Buffer<T> dwx_, dnarrow_;         // [I,G,Hp] and [narrow_,G,Hp], where units make better use of registers
  Buffer<T> db_, panels_;           // db_ [G,Hp]
  std::vector<Operands> operands_;  // of each thread; none where products are chains of FMAs
  Buffer<T> part_;                  // of long sums: of dWx, db, dWh, and of a projection
};

}  // namespace bptt::sequence
