// SPDX-License-Identifier: Apache-2.0
// The weight gradients dWx [G*H,I], dWh [G*H,H] and db [G*H], summed chunk by chunk of rows (b, t) in the order in
// which the product writes them, [group of unit blocks][I + H][registers][W], and turned into PyTorch's at the end. A
// thread owns whole elements: work is cut into (group) x (rows of the transposed gradient), never along the sum.
#pragma once

#include "sequence/forward.h"

namespace bptt::sequence {

template <class Cell, class T>
class WeightGradient {
  static constexpr int W = Vec<T>::kSize, G = Cell::G;
  static constexpr int kWidth = G == 1 ? 4 : 1;  // unit blocks in a group, so that a tile is 3 or 4 registers wide
  static constexpr int kRegisters = G * kWidth;
  static constexpr Index kRows = 128;  // rows whose gradients, a panel of 4 registers, fill 32 KiB

 public:
  WeightGradient(const Weights<Cell, T>& w, int threads)
      : w_(w),
        depth_(w.I + w.H),
        dw_(checked_mul(ceil_div(w.blocks, kWidth) * kRegisters * W, depth_)),
        db_(G * w.Hp),
        panels_(threads * kRows * kRegisters * W) {
    dw_.clear();
    db_.clear();
  }

  /// Adds `rows` rows: dg [rows,kRowValues,Hp], x [rows,I], and the hidden states before them, h [rows,H].
  void add(const T* dg, const T* x, const T* h, Index rows, int thread, int threads) {
    constexpr Index M = outer_rows(kRegisters);
    const Index groups = ceil_div(w_.blocks, kWidth), x_items = ceil_div(w_.I, M);
    const Index items = x_items + ceil_div(w_.H, M);
    const Share share(groups * items, thread, threads);
    Part part{dg, x, h, rows, panels_.data() + thread * kRows * kRegisters * W, 0, 0, 0, 0};
    for (Index group = share.begin / items; group * items < share.end; ++group) {
      const Index from = std::max<Index>(0, share.begin - group * items);
      const Index to = std::min(items, share.end - group * items);
      part.x_begin = from * M, part.x_end = std::min(w_.I, to * M);
      part.h_begin = std::max<Index>(0, from - x_items) * M, part.h_end = std::min(w_.H, (to - x_items) * M);
      for_block_runs<kWidth>(group * kWidth, std::min(w_.blocks, (group + 1) * kWidth),
                             [&](auto width, Index block) { add_blocks<width>(part, block); });
    }
  }

  /// Into PyTorch's layout.
  void write(const BackwardCall<T>& call) const {
    for (Index j = 0; j < w_.blocks; ++j) {
      const Index lanes = std::min<Index>(W, w_.H - j * W);
      for (int g = 0; g < G; ++g) {
        const T* from = dw_.data() + place(j) + g * W;
        const Index unit = g * w_.H + j * W;
        transpose(call.dweight_ih + unit * w_.I, w_.I, from, kRegisters * W, w_.I, lanes);
        transpose(call.dweight_hh + unit * w_.H, w_.H, from + w_.I * kRegisters * W, kRegisters * W, w_.H, lanes);
      }
    }
    for (int g = 0; call.dbias && g < G; ++g) std::copy_n(db_.data() + g * w_.Hp, w_.H, call.dbias + g * w_.H);
  }

 private:
  /// What one thread adds: rows, a panel of its own, and its rows of the transposed gradients.
  struct Part {
    const T *dg, *x, *h;
    Index rows;
    T* panel;
    Index x_begin, x_end, h_begin, h_end;
  };

  static constexpr bool same_maps() {
    for (int g = 0; g < G; ++g) {
      if (Cell::x_acc(g) != Cell::h_acc(g)) return false;
    }
    return true;
  }

  /// Where the gradients of a block of units begin in dw_.
  Index place(Index block) const { return (block / kWidth * depth_ * kRegisters + block % kWidth) * W; }

  /// dw[m,:] += sum over rows of z[row,m] * dg[row,:] for z = x, h and the units of U blocks.
  template <int U>
  void add_blocks(const Part& part, Index block) {
    T* dw = dw_.data() + place(block);
    for (Index r = 0; r < part.rows; r += kRows) {
      const Index n = std::min(kRows, part.rows - r);
      const T* dg = part.dg + r * kRowValues<Cell> * w_.Hp;
      if (part.x_begin < part.x_end || same_maps()) gather<U, InputMap<Cell>>(part.panel, dg, n, block);
      if (part.x_begin == 0) add_bias<U>(part.panel, n, block);
      outer<G * U>(dw, kRegisters * W, part.x + r * w_.I, w_.I, part.panel, n, part.x_begin, part.x_end);
      if (part.h_begin >= part.h_end) continue;
      if (!same_maps()) gather<U, HiddenMap<Cell>>(part.panel, dg, n, block);
      outer<G * U>(dw + w_.I * kRegisters * W, kRegisters * W, part.h + r * w_.H, w_.H, part.panel, n, part.h_begin,
                   part.h_end);
    }
  }

  /// The gates of U unit blocks, row after row: [rows][G*U][W].
  template <int U, class Map>
  void gather(T* panel, const T* dg, Index rows, Index block) const {
    for (Index r = 0; r < rows; ++r, dg += kRowValues<Cell> * w_.Hp) {
      for (int g = 0; g < G; ++g) {
        for (int u = 0; u < U; ++u, panel += W) Vec<T>::load(dg + Map::at(g) * w_.Hp + (block + u) * W).store(panel);
      }
    }
  }

  template <int U>
  void add_bias(const T* panel, Index rows, Index block) {
    for (int g = 0; g < G; ++g) {
      for (int u = 0; u < U; ++u) {
        T* sum = db_.data() + g * w_.Hp + (block + u) * W;
        Vec<T> total = Vec<T>::load(sum);
        for (Index r = 0; r < rows; ++r) total = total + Vec<T>::load(panel + ((r * G + g) * U + u) * W);
        total.store(sum);
      }
    }
  }

  const Weights<Cell, T>& w_;
  const Index depth_;
  Buffer<T> dw_, db_, panels_;
};

}  // namespace bptt::sequence
