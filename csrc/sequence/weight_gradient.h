// SPDX-License-Identifier: Apache-2.0
// The weight gradients dWx [G*H,I], dWh [G*H,H] and db [G*H], summed chunk by chunk of rows (b, t) in place. A register
// holds neighbours of a row of dW: columns are those of x and h, rows the gates' units. Where x is narrow that wastes
// the register, and dWx is summed transposed, with units in a register, and turned at the end; the sums are the same.
// Threads divide the elements of dW, never a sum.
#pragma once

#include <array>

#include "sequence/weights.h"

namespace bptt::sequence {

/// The map of one gate to a line.
template <int Line>
struct Only {
  static constexpr int at(int) { return Line; }
};

template <class Cell, class T>
class WeightGradient {
  static constexpr int W = Vec<T>::kSize, G = Cell::G;
  static constexpr int kWidth = 4;      // registers of columns in a tile
  static constexpr Index kRows = 128;   // rows that a panel of 4 registers holds in 32 KiB
  static constexpr Index kHeight = 24;  // rows of dW that are one piece of work: a multiple of a tile's

 public:
  WeightGradient(const Weights<Cell, T>& w, const BackwardCall<T>& call, int threads)
      : w_(w),
        call_(call),
        transposed_(is_transposed(w.I, w.H)),
        dwx_(sizes(w.I, w.H, threads)[0]),
        db_(sizes(w.I, w.H, threads)[1]),
        panels_(sizes(w.I, w.H, threads)[2]) {
    db_.clear();
  }

  /// Values in the buffers: dwx_, db_, panels_.
  static std::array<Index, 3> sizes(Index I, Index H, int threads) {
    const Index Hp = ceil_div(H, W) * W;
    return {is_transposed(I, H) ? checked_mul(I, G * Hp) : 0, G * Hp, threads * kRows * kWidth * W};
  }

  /// Where there is nothing to add.
  void set_zero() {
    dwx_.clear();
    std::fill_n(call_.d.weight_ih, G * w_.H * w_.I, T(0));
    std::fill_n(call_.d.weight_hh, G * w_.H * w_.R, T(0));
    if (call_.d.projection) std::fill_n(call_.d.projection, w_.R * w_.H, T(0));
  }

  /// Adds `rows` rows, the first ones of all where `fresh`: dg [rows,kRowValues,Hp], x [rows,I], and the hidden states
  /// before them, h [rows,H].
  void add(const T* dg, const T* x, const T* h, Index rows, bool fresh, int thread, int threads) {
    T* panel = panels_.data() + thread * kRows * kWidth * W;
    for (Index r = 0; r < rows; r += kRows, fresh = false) {
      const Index n = std::min(kRows, rows - r);
      const T* g = dg + r * kRow * w_.Hp;
      add_rows<HiddenMap<Cell>>(call_.d.weight_hh, w_.H, kHiddenGates<Cell>, w_.R, g, h + r * w_.R, w_.R, n, fresh,
                                panel, thread, threads);
      if constexpr (Traits<Cell>::kStaged) add_staged(g, n, fresh, panel, thread, threads);
      if (transposed_)
        add_transposed(g, x + r * w_.I, n, fresh, panel, thread, threads);
      else
        add_rows<InputMap<Cell>>(call_.d.weight_ih, w_.H, G, w_.I, g, x + r * w_.I, w_.I, n, fresh, panel, thread,
                                 threads);
      add_bias(g, n, thread, threads);
    }
  }

  /// What is not in its place yet.
  void write() const {
    for (int g = 0; g < G; ++g) {
      if (transposed_)
        transpose(call_.d.weight_ih + g * w_.H * w_.I, w_.I, dwx_.data() + g * w_.Hp, G * w_.Hp, w_.I, w_.H);
      if (call_.d.bias && !Traits<Cell>::kBiasIsVectors)
        std::copy_n(db_.data() + g * w_.Hp, w_.H, call_.d.bias + g * w_.H);
    }
  }

 private:
  static constexpr Index kRow = kRowValues<Cell>;

  /// Whether units make better use of registers than columns of x.
  static bool is_transposed(Index I, Index H) { return I * ceil_div(H, W) * W < ceil_div(I, W) * W * H; }

  /// dW[g*units + j, :] += sum over rows of dg[row, Map(g), j] * z[row,:] for `gates` gates, `columns` wide; rows of z
  /// are `ld` apart.
  template <class Map>
  void add_rows(T* dw, Index units, Index gates, Index columns, const T* dg, const T* z, Index ld, Index rows,
                bool fresh, T* panel, int thread, int threads) const {
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
          outer<width>(dw + g * units * columns + first * W, columns, last, fresh, dg + Map::at(int(g)) * w_.Hp,
                       kRow * w_.Hp, panel, rows, begin, stop);
          item = end;
        }
      });
    }
  }

  /// The products that only cells of several stages have.
  void add_staged(const T* dg, Index rows, bool fresh, T* panel, int thread, int threads) const {
    if constexpr (Traits<Cell>::kSecond) {
      constexpr cells::Link link = Cell::kBefore[Cell::kStages - 1];
      add_rows<Only<link.to>>(call_.d.weight_hh + kHiddenGates<Cell> * w_.H * w_.R, w_.H, 1, w_.R, dg,
                              dg + link.from * w_.Hp, kRow * w_.Hp, rows, fresh, panel, thread, threads);
    }
    if constexpr (Traits<Cell>::kProjects) {
      add_rows<Only<Cell::kM + 1>>(call_.d.projection, w_.R, 1, w_.H, dg, dg + Cell::kM * w_.Hp, kRow * w_.Hp, rows,
                                   fresh, panel, thread, threads);
    }
  }

  /// dWx^T[i, g*Hp + j] += sum over rows of x[row,i] * dg[row,g,j].
  void add_transposed(const T* dg, const T* x, Index rows, bool fresh, T* panel, int thread, int threads) {
    const Index groups = ceil_div(w_.blocks, kWidth);
    const Share share(G * groups, thread, threads);
    for (Index item = share.begin; item < share.end; ++item) {
      const Index g = item / groups, first = item % groups * kWidth;
      dispatch<kWidth>(int(std::min<Index>(kWidth, w_.blocks - first)), [&](auto width) {
        gather<width>(panel, dg + InputMap<Cell>::at(int(g)) * w_.Hp, kRow * w_.Hp, w_.Hp, rows, first);
        outer<width>(dwx_.data() + g * w_.Hp + first * W, G * w_.Hp, W, fresh, x, w_.I, panel, rows, 0, w_.I);
      });
    }
  }

  void add_bias(const T* dg, Index rows, int thread, int threads) {
    const Share share(G * w_.blocks, thread, threads);
    for (Index item = share.begin; item < share.end; ++item) {
      const Index g = item / w_.blocks, unit = item % w_.blocks * W;
      T* sum = db_.data() + g * w_.Hp + unit;
      Vec<T> total = Vec<T>::load(sum);
      const T* value = dg + InputMap<Cell>::at(int(g)) * w_.Hp + unit;
      for (Index r = 0; r < rows; ++r, value += kRow * w_.Hp) total = total + Vec<T>::load(value);
      total.store(sum);
    }
  }

  const Weights<Cell, T>& w_;
  const BackwardCall<T>& call_;
  const bool transposed_;
  Buffer<T> dwx_, db_, panels_;  // dwx_ [I,G,Hp]
};

}  // namespace bptt::sequence
