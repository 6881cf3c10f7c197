// SPDX-License-Identifier: Apache-2.0
// A cell's weights in the order in which the time loops read them; packed once and used until the weights change.
// In: Flat, whose row g*H + j belongs to gate g of unit j. R is the width of h, H but for a projected one; N the number
// of heads; Q = R/N the values of h that one unit reads, the width of a row of weight_hh (bands.h).
//
// The last block, where H is no multiple of W: if its accumulators fit into fewer registers than there are gates, they
// lie side by side without gaps, [k][tail_width][W], accumulator i of its unit j at i*tail + j. With H = 50 and W = 16
// that is one register instead of four, and a step does 13 instead of 16 of them (LSTM B=20 T=30, inference: 208 -> 180
// us).
#pragma once

#include "cells/info.h"
#include "core/gemm/format.h"
#include "core/gemm/mode.h"
#include "core/gemm/panels.h"
#include "core/gemm/product.h"
#include "core/gemm/transpose.h"
#include "core/threads/parallel.h"
#include "sequence/bands.h"
#include "sequence/narrow_weights.h"
#include "sequence/recurrence.h"

namespace bptt::sequence {

template <class T>
struct Weights {
  static constexpr int W = Vec<T>::kSize;
  using Stored = T;  // the format of what forward steps read (core/gemm/format.h)

  /// For which ways there is room. The panels of x and h may be elsewhere, forward, and backward may have rows in their
  /// place (short_call.h).
  struct Ways {
    bool forward, backward, panels = true;
  };

  const cells::Info& cell;
  const int G, A;
  Index I, H, R, N, Q;
  Index blocks;            // of W hidden units; units beyond H have zero weights and stay zero
  Index Hp;                // blocks * W
  Index tail, tail_width;  // units and registers of a last block that is packed (see above); else 0
  Index band_room;         // values of h for which a panel has room: R without heads
  Buffer<Stored> x, h;     // forward: [blocks][I][G][W], [blocks][band_room][hidden_gates][W]
  Buffer<Stored> second;   // [blocks][R][1][W], the last gate where its product is not one with h
  Buffer<T> bias;          // the accumulators' start: [blocks][A][W]
  Buffer<T> vectors;       // [P][Hp]
  Panels<T> project;       // H deep, R columns
  // Backward, empty without training: [G*H] and [hidden_gates*band_room] deep, I and R columns.
  Panels<T> x_back, h_back;
  Panels<T> second_back, project_back;  // H deep, R columns; R deep, H columns
  Buffer<T> x_narrow;                   // [I,G,Hp] in the place of x_back where I <= kNarrow
  Buffer<T> rows;                       // [G*H,I], then [G*H,R], in the place of x_back and h_back without panels
  std::vector<Band> bands;              // of each block, where the cell has heads
  // In another mode than kFma, the same panels in its form, register by register: [blocks][G], [columns].
  const ProductMode mode;
  const Ways ways;
  ModePanels x_mode, h_mode, x_back_mode, h_back_mode;
  NarrowWeights narrow;  // instead of x and h, where they are stored in fewer bits

  /// Room for the weights; pack fills it.
  Weights(const cells::Info& cell, Index I, Index H, Index R, Index N, ProductMode wanted, const Ways& ways)
      : cell(cell),
        G(cell.gates),
        A(cell.accumulators),
        I(I),
        H(H),
        R(R),
        N(N),
        Q(R / N),
        blocks(ceil_div(H, W)),
        Hp(blocks * W),
        tail(H % W),
        tail_width(ceil_div(A * tail, W)),
        band_room(cell.heads ? longest_band(H, N, W) : R),
        bias(checked_mul(Hp, A)),
        vectors(checked_mul(Hp, cell.vectors)),
        mode(has_mode(wanted, cell, N) ? wanted : ProductMode::kFma),
        ways(ways) {
    if (ways.forward && !is_narrow(mode)) {
      x = Buffer<Stored>(checked_mul(checked_mul(Hp, G), I));
      h = Buffer<Stored>(checked_mul(checked_mul(Hp, cell.hidden_gates), band_room));
    }
    if (cell.multi_stage || tail_width >= G || is_narrow(mode)) tail = tail_width = 0;
    if (cell.second) second = Buffer<Stored>(checked_mul(Hp, R));
    if (cell.heads) bands = make_bands(H, N, W);
    if (cell.projects) project = Panels<T>(H, R);
    if (is_narrow(mode)) {
      narrow = {mode, G, I, H};
      return;
    }
    if (mode != ProductMode::kFma) {
      x_mode = ModePanels(mode, I, blocks * G, G == 3 ? 3 : 2);
      h_mode = ModePanels(mode, H, blocks * G, G == 3 ? 3 : 2);
    }
    if (!ways.backward) return;
    if (I <= kNarrow) x_narrow = Buffer<T>(checked_mul(I * G, Hp));
    if (!ways.panels) return;
    if (I > kNarrow) x_back = Panels<T>(checked_mul(G, H), I);
    h_back = Panels<T>(cell.hidden_gates * (cell.heads ? band_room : H), R);
    if (cell.projects) project_back = Panels<T>(R, H);
    if (cell.second) second_back = Panels<T>(H, R);
    if (mode == ProductMode::kFma) return;
    if (I > kNarrow) x_back_mode = ModePanels(mode, checked_mul(G, H), x_back.blocks(), 2);
    h_back_mode = ModePanels(mode, checked_mul(G, H), blocks, 2);
  }

  /// Whether products of this cell's steps can be of this mode: float32, one stage, one head.
  static bool has_mode(ProductMode mode, const cells::Info& cell, Index N) {
    return (kHasModes || is_narrow(mode)) && std::is_same_v<T, float> && !cell.multi_stage && N == 1;
  }

  /// What the units of a block read of h.
  template <bool kHeads>
  Band band(Index block) const {
    if constexpr (kHeads)
      return bands[std::size_t(block)];
    else
      return {0, blocks, 0, H};
  }
  /// From one block's panel of hidden weights to the next, for each gate and register.
  template <bool kHeads>
  Index band_depth() const {
    return kHeads ? band_room : H;
  }
  /// f(begin, end) for the runs of blocks among [begin, end) that read the same, in order or in reverse.
  template <bool kHeads, class F>
  BPTT_INLINE void for_bands(Index begin, Index end, bool reverse, const F& f) const {
    if constexpr (!kHeads) {
      f(begin, end);
    } else if (reverse) {
      for (Index first; end > begin; end = first) {
        first = std::max(begin, bands[std::size_t(end - 1)].first);
        f(first, end);
      }
    } else {
      for (Index next; begin < end; begin = next) {
        next = std::min(end, bands[std::size_t(begin)].end);
        f(begin, next);
      }
    }
  }
  /// f(band) for the runs of blocks of h that the same units' gradients reach.
  template <class F>
  void for_bands_back(const F& f) const {
    if (bands.empty()) return f(Band{0, ceil_div(R, W), 0, H});
    for (Index block = 0; block < blocks; block = bands[std::size_t(block)].end) f(bands[std::size_t(block)]);
  }

  /// False where it was called off.
  bool pack(const Flat<const T>& from, Poll::Interrupted interrupted) {
    pack_small(from);
    const int threads = threads_for(kPackNs * double(G * H) * double(I + R));
    const Index piece = grain_of(kPackNs * double(G * (I + R)) * W);
    Poll poll(interrupted);
    if constexpr (std::is_same_v<T, float>) {
      if (is_narrow(mode)) return narrow.pack(from.weight_ih, from.weight_hh, threads, poll);
    }
    const bool complete = parallel_for(blocks, piece, threads, poll, [&](int, Index first, Index last) {
      const Share share(first, last);
      pack_blocks(from, x.data() + first * x_panel(), h.data() + first * h_panel(), share);
      if (cell.second)
        pack_gates(second.data() + first * R * W, from.weight_hh + cell.hidden_gates * H * R, second_rows(), share);
    });
    return complete && pack_modes(threads, poll);
  }

  /// All but the products of x and h.
  void pack_small(const Flat<const T>& from) {
    pack_vectors(from);
    if (x_narrow.size() > 0) pack_narrow(from.weight_ih);
    pack_multi_stage(from);
  }
  /// The products of x and h, for some blocks of units: the forward panels of these to x_to and h_to, their rows to
  /// the panels of backward. Each weight is read from far away once.
  void pack_blocks(const Flat<const T>& from, Stored* x_to, Stored* h_to, const Share& share) {
    pack_gates(x_to, from.weight_ih, x_rows(), share, x_back.depth > 0 ? &x_back : nullptr);
    pack_gates(h_to, from.weight_hh, h_rows(), share, N == 1 && h_back.depth > 0 ? &h_back : nullptr);
    if (N > 1 && h_back.depth > 0) pack_heads_back(from.weight_hh, share);
  }
  /// Stored values of one block's forward panel.
  Index x_panel() const { return I * G * W; }
  Index h_panel() const { return band_room * cell.hidden_gates * W; }

  /// Where the rows of x and h lie in a buffer of these.
  template <class U>
  Flat<U> rows_at(U* rows) const {
    return {rows, rows + G * H * I, nullptr, nullptr, nullptr};
  }

  bool trainable() const { return ways.backward; }

  /// The way back: every value that was packed, to the same place in a flat buffer.
  void unpack(const Flat<T>& to) const {
    if constexpr (std::is_same_v<T, float>) {
      if (is_narrow(mode)) narrow.unpack(to.weight_ih, to.weight_hh);
    }
    if (!is_narrow(mode)) {
      unpack_gates(to.weight_ih, x.data(), x_rows());
      unpack_gates(to.weight_hh, h.data(), h_rows());
    }
    if (cell.second) unpack_gates(to.weight_hh + cell.hidden_gates * H * R, second.data(), second_rows());
    if (cell.projects) project.unpack_transposed(to.projection, H);
    for (int i = 0; to.vectors && i < own_vectors(); ++i) std::copy_n(vectors.data() + i * Hp, H, to.vectors + i * H);
    for (Index g = 0; to.bias && g < G; ++g) {
      for (Index j = 0; j < H; ++j) {
        to.bias[g * H + j] = cell.bias_is_vectors ? vectors[(own_vectors() + g) * Hp + j] : bias[bias_place(int(g), j)];
      }
    }
  }

 private:
  /// The panels of another mode, from those of FMAs. False where it was called off.
  bool pack_modes([[maybe_unused]] int threads, [[maybe_unused]] Poll& poll) {
    if constexpr (std::is_same_v<T, float>) {
      if (mode == ProductMode::kFma) return true;
      const Index forward = blocks * G, to_back = 2 * forward, to_h = to_back + x_back.blocks();
      const Index end = to_h + h_back.blocks(), piece = grain_of(kPackNs * double(I + H) * W);
      const auto pack_forward = [&](ModePanels& to, const T* panels, Index depth, Index c) {
        const Index block = c / G, g = c % G;
        const bool in_tail = tail > 0 && block + 1 == blocks;
        if (!in_tail || g < tail_width)
          to.pack(c, panels + (block * depth * G + g) * W, (in_tail ? tail_width : G) * W, W);
        else
          to.pack_zeros(c);
      };
      const bool complete = parallel_for(end, piece, threads, poll, [&](int, Index first, Index last) {
        for (Index c = first; c < last; ++c) {
          if (c < forward)
            pack_forward(x_mode, x.data(), I, c);
          else if (c < to_back)
            pack_forward(h_mode, h.data(), H, c - forward);
          else if (c < to_h)
            x_back_mode.pack(c - to_back, x_back.block(c - to_back), W, W);
          else
            h_back_mode.pack(c - to_h, h_back.block(c - to_h), W, W);
        }
      });
      return complete;
    }
    return true;
  }

  /// Vectors, the bias not counted.
  int own_vectors() const { return cell.vectors - (cell.bias_is_vectors ? G : 0); }

  /// A weight of `gates` gates whose rows have K values, and the panels that it goes to, `depth` deep. Of several
  /// heads, each has its own values.
  struct Rows {
    Index K, depth, heads;
    int gates;
    const int (&map)[cells::kMaxGates];
  };
  Rows x_rows() const { return {I, I, 1, G, cell.x_acc}; }
  Rows h_rows() const { return {Q, band_room, N, cell.hidden_gates, cell.h_acc}; }
  Rows second_rows() const { return {R, R, 1, 1, cell.h_acc}; }
  /// Where the values of unit j's head begin in the panel of its block.
  Index place(const Rows& rows, Index j) const {
    return rows.heads == 1 ? 0 : j / rows.K * rows.K - bands[std::size_t(j / W)].begin;
  }

  /// `out`: the panel of the first block. `back`: where the rows go as well.
  void pack_gates(Stored* out, const T* weight, const Rows& rows, const Share& share, Panels<T>* back = nullptr) {
    for (Index j = share.begin; j < share.end; ++j) {
      Stored* panel = out + (j - share.begin) * rows.depth * rows.gates * W;
      const Index end = std::min<Index>(W, H - j * W), units = H / rows.heads;
      if (rows.heads == 1) {
        pack_block(panel, weight, rows, j * W, end, back);
        continue;
      }
      std::fill_n(panel, rows.depth * rows.gates * W, Stored());
      for (Index lane = 0, next; lane < end; lane = next) {  // the units of one head at once
        next = std::min(end, ((j * W + lane) / units + 1) * units - j * W);
        pack_units(panel, weight, rows, j * W + lane, next - lane, end == tail);
      }
    }
  }

  /// The `count` units from unit j of one head and one block.
  void pack_block(Stored* panel, const T* weight, const Rows& rows, Index j, Index count, Panels<T>* back) {
    const Index K = rows.K;
    for (Index n = 0; count == tail && n < tail_width; ++n) {
      const T* row[W] = {};
      for (int g = 0; g < rows.gates; ++g) {
        for (Index i = 0; i < tail; ++i) {
          const Index at = rows.map[g] * tail + i;
          if (at / W == n) row[at % W] = weight + (g * H + j + i) * K;
        }
      }
      transpose(panel + n * W, tail_width * W, row, K);
    }
    for (int g = 0; g < rows.gates; ++g) {
      const T* from = weight + (g * H + j) * K;
      if (count == W) {
        transpose(panel + g * W, rows.gates * W, from, K, count, K);
      } else if (count != tail) {
        const T* row[W] = {};
        for (Index i = 0; i < count; ++i) row[i] = from + i * K;
        transpose(panel + g * W, rows.gates * W, row, K);
      }
      if (back) back->pack_rows(weight, K, g * H + j, g * H + j + count);
    }
  }

  /// The same of several heads, for the units of one of them.
  void pack_units(Stored* panel, const T* weight, const Rows& rows, Index j, Index count, bool in_tail) {
    const Index K = rows.K, first = place(rows, j), lane = j % W;
    for (int g = 0; g < rows.gates; ++g) {
      const T* from = weight + (g * H + j) * K;
      if (in_tail) {
        Stored* to = panel + first * tail_width * W + rows.map[g] * tail + lane;
        for (Index i = 0; i < count; ++i) {
          for (Index k = 0; k < K; ++k) to[k * tail_width * W + i] = Format<Stored>::narrow(from[i * K + k]);
        }
      } else {
        transpose(panel + (first * rows.gates + g) * W + lane, rows.gates * W, from, K, count, K);
      }
    }
  }

  void unpack_gates(T* weight, const Stored* packed, const Rows& rows) const {
    const Index K = rows.K;
    for (Index j = 0; j < H; ++j) {
      const Index lane = j % W;
      const bool in_tail = tail > 0 && j / W + 1 == blocks;
      const Index stride = in_tail ? tail_width * W : rows.gates * W;
      const Stored* panel = packed + j / W * rows.depth * rows.gates * W + place(rows, j) * stride;
      for (int g = 0; g < rows.gates; ++g) {
        T* to = weight + (g * H + j) * K;
        const Index first = in_tail ? rows.map[g] * tail + lane : g * W + lane;
        for (Index k = 0; k < K; ++k) to[k] = Format<Stored>::widen(panel[k * stride + first]);
      }
    }
  }

  /// weight_hh of several heads for the way back: a panel has the rows of its band, gate by gate.
  void pack_heads_back(const T* weight, const Share& share) {
    for (Index j = share.begin; j < share.end; ++j) {
      const Band& band = bands[std::size_t(j)];
      T* to = h_back.block(j);
      std::fill_n(to, h_back.panel(), T(0));
      for (int g = 0; g < cell.hidden_gates; ++g) {
        for (Index unit = band.begin; unit < band.begin + band.length; ++unit, to += W) {
          const Index head = unit / Q * Q;  // its first unit, and the first value of h that it reads
          const Index first = std::max(j * W, head), last = std::min((j + 1) * W, head + Q);
          if (first < last) std::copy_n(weight + (g * H + unit) * Q + first - head, last - first, to + first - j * W);
        }
      }
    }
  }

  /// Where the bias of unit j's gate g lies.
  Index bias_place(int g, Index j) const {
    const Index block = j / W, lane = j % W, stride = tail > 0 && block + 1 == blocks ? tail : W;
    return block * A * W + cell.x_acc[g] * stride + lane;
  }

  /// What only cells of several stages have.
  void pack_multi_stage(const Flat<const T>& from) {
    if (cell.projects) project.pack_transposed(from.projection, H, project.all());
    if (cell.projects) project_back.pack(from.projection, H, project_back.all());
    if (cell.second) second_back.pack(from.weight_hh + cell.hidden_gates * H * R, R, second_back.all());
  }

  void pack_narrow(const T* weight) {
    x_narrow.clear();
    for (int g = 0; g < G; ++g) transpose(x_narrow.data() + g * Hp, G * Hp, weight + g * H * I, I, H, I);
  }

  void pack_vectors(const Flat<const T>& from) {
    bias.clear();
    vectors.clear();
    for (int i = 0; from.vectors && i < own_vectors(); ++i)
      std::copy_n(from.vectors + i * H, H, vectors.data() + i * Hp);
    for (int g = 0; from.bias && g < G; ++g) {
      if (cell.bias_is_vectors) {
        std::copy_n(from.bias + g * H, H, vectors.data() + (own_vectors() + g) * Hp);
      } else {
        for (Index j = 0; j < H; j += W)
          std::copy_n(from.bias + g * H + j, std::min<Index>(W, H - j), bias.data() + bias_place(g, j));
      }
    }
  }
};

}  // namespace bptt::sequence
