// SPDX-License-Identifier: Apache-2.0
// The weight gradients dWx [G*H,I], dWh [G*H,H] and db [G*H], summed chunk by chunk of rows (b, t) in the transposed
// layout [I or H][G][Hp] that the product writes, and turned into PyTorch's at the end. A thread owns whole elements:
// work is cut into (group of unit blocks) x (rows of the transposed gradient), never along the sum.
#pragma once

#include "sequence/forward.h"

namespace bptt::sequence {

template <class Cell, class T>
class WeightGradient {
  static constexpr int W = Vec<T>::kSize, G = Cell::G;
  static constexpr int kWidth = G == 1 ? 4 : 1;  // unit blocks side by side, so that a tile is 3 or 4 registers wide
  static constexpr Index kRows = 128;            // rows whose gradients, a panel of 4 registers, fill 32 KiB

 public:
  WeightGradient(const Weights<Cell, T>& w, int threads)
      : w_(w),
        dx_(checked_mul(checked_mul(w.I, G), w.Hp)),
        dh_(checked_mul(checked_mul(w.H, G), w.Hp)),
        db_(G * w.Hp),
        panels_(threads * kRows * G * kWidth * W) {
    dx_.clear();
    dh_.clear();
    db_.clear();
  }

  /// Adds `rows` rows: dg [rows,kRowValues,Hp], x [rows,I], and the hidden states before them: h_first [first,H] for
  /// the first `first` rows where it is given, h for the rest.
  void add(const T* dg, const T* x, const T* h_first, Index first, const T* h, Index rows, int thread, int threads) {
    constexpr Index M = outer_rows(G * kWidth);
    const Index groups = ceil_div(w_.blocks, kWidth), x_items = ceil_div(w_.I, M), h_items = ceil_div(w_.H, M);
    const Index items = x_items + h_items;
    const Share share(groups * items, thread, threads);
    const Index row = kRowValues<Cell> * w_.Hp;
    T* panel = panels_.data() + thread * kRows * G * kWidth * W;
    for (Index group = share.begin / items; group * items < share.end; ++group) {
      const Index from = std::max<Index>(0, share.begin - group * items),
                  to = std::min(items, share.end - group * items);
      const Index x_from = from * M, x_to = std::min(w_.I, to * M);
      const Index h_from = std::max<Index>(0, from - x_items) * M, h_to = std::min(w_.H, (to - x_items) * M);
      for_block_runs<kWidth>(group * kWidth, std::min(w_.blocks, (group + 1) * kWidth), [&](auto width, Index block) {
        if (x_from < x_to) {
          add_product<width, InputMap<Cell>>(dx_.data(), x, w_.I, dg, rows, block, x_from, x_to, panel, from == 0);
        }
        if (h_from >= h_to) return;
        const Index head = h_first ? std::min(first, rows) : 0;
        if (head)
          add_product<width, HiddenMap<Cell>>(dh_.data(), h_first, w_.H, dg, head, block, h_from, h_to, panel, false);
        add_product<width, HiddenMap<Cell>>(dh_.data(), h, w_.H, dg + head * row, rows - head, block, h_from, h_to,
                                            panel, false);
      });
    }
  }

  /// Into PyTorch's layout.
  void write(const BackwardCall<T>& call) const {
    for (int g = 0; g < G; ++g) {
      transpose(call.dweight_ih + g * w_.H * w_.I, w_.I, dx_.data() + g * w_.Hp, G * w_.Hp, w_.I, w_.H);
      transpose(call.dweight_hh + g * w_.H * w_.H, w_.H, dh_.data() + g * w_.Hp, G * w_.Hp, w_.H, w_.H);
      if (call.dbias) std::copy_n(db_.data() + g * w_.Hp, w_.H, call.dbias + g * w_.H);
    }
  }

 private:
  /// dw[m,:] += sum over rows of z[row,m] * dg[row,:] for m in [begin, end) and the units of U blocks.
  template <int U, class Map>
  void add_product(T* dw, const T* z, Index ldz, const T* dg, Index rows, Index block, Index begin, Index end, T* panel,
                   bool with_bias) {
    for (Index r0 = 0; r0 < rows; r0 += kRows) {
      const Index n = std::min(kRows, rows - r0);
      gather<U, Map>(panel, dg + r0 * kRowValues<Cell> * w_.Hp, n, block);
      if (with_bias) add_bias<U>(panel, n, block);
      outer<G * U>(dw + block * W, G * w_.Hp, G == 1 ? W : w_.Hp, z + r0 * ldz, ldz, panel, n, begin, end);
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
  Buffer<T> dx_, dh_, db_, panels_;
};

}  // namespace bptt::sequence
