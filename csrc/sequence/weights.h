// SPDX-License-Identifier: Apache-2.0
// A cell's weights in the order in which the time loops read them; packed once and used until the weights change.
// In: Flat, whose row g*H + j belongs to gate g of unit j; R is the width of h, H but for a projected one.
//
// The last block, where H is no multiple of W: if its accumulators fit into fewer registers than there are gates, they
// lie side by side without gaps, [k][tail_width][W], accumulator i of its unit j at i*tail + j. With H = 50 and W = 16
// that is one register instead of four, and a step does 13 instead of 16 of them (LSTM B=20 T=30, inference: 208 -> 180
// us).
#pragma once

#include "cells/info.h"
#include "core/gemm/format.h"
#include "core/gemm/panels.h"
#include "core/gemm/product.h"
#include "core/gemm/transpose.h"
#include "core/threads/parallel.h"
#include "sequence/recurrence.h"

namespace bptt::sequence {

template <class T>
struct Weights {
  static constexpr int W = Vec<T>::kSize;
  using Stored = T;  // the format of what forward steps read (core/gemm/format.h)

  const cells::Info& cell;
  const int G, A;
  Index I, H, R, blocks;   // blocks of W hidden units; units beyond H have zero weights and stay zero
  Index Hp;                // blocks * W
  Index tail, tail_width;  // units and registers of a last block that is packed (see above); else 0
  Buffer<Stored> x, h;     // forward: [blocks][I][G][W], [blocks][R][hidden_gates][W]
  Buffer<Stored> second;   // [blocks][R][1][W], the last gate where its product is not one with h
  Buffer<T> bias;          // the accumulators' start: [blocks][A][W]
  Buffer<T> vectors;       // [P][Hp]
  Panels<T> project;       // H deep, R columns
  // Backward, empty without training: [G*H] and [hidden_gates*H] deep, I and R columns.
  Panels<T> x_back, h_back;
  Panels<T> second_back, project_back;  // H deep, R columns; R deep, H columns
  Buffer<T> x_narrow;                   // [I,G,Hp] in the place of x_back where I <= kNarrow

  /// Room for the weights; pack fills it.
  Weights(const cells::Info& cell, Index I, Index H, Index R)
      : cell(cell),
        G(cell.gates),
        A(cell.accumulators),
        I(I),
        H(H),
        R(R),
        blocks(ceil_div(H, W)),
        Hp(blocks * W),
        tail(H % W),
        tail_width(ceil_div(A * tail, W)),
        x(checked_mul(checked_mul(Hp, G), I)),
        h(checked_mul(checked_mul(Hp, cell.hidden_gates), R)),
        bias(checked_mul(Hp, A)),
        vectors(checked_mul(Hp, cell.vectors)) {
    if (cell.multi_stage || tail_width >= G) tail = tail_width = 0;
    if (cell.second) second = Buffer<Stored>(checked_mul(Hp, R));
  }

  /// False where it was called off.
  bool pack(const Flat<const T>& from, bool training, Poll::Interrupted interrupted) {
    const int kH = cell.hidden_gates;
    pack_vectors(from);
    if (training) {
      if (I > kNarrow)
        x_back = Panels<T>(G * H, I);
      else
        pack_narrow(from.weight_ih);
      h_back = Panels<T>(kH * H, R);
    }
    if (cell.multi_stage) pack_multi_stage(from, training);
    const int threads = threads_for(kPackNs * double(G * H) * double(I + R));
    // The blocks of the forward panels, then those of the backward panels.
    const Index to_x = blocks, to_h = to_x + (training ? x_back.blocks() : 0),
                end = to_h + (training ? h_back.blocks() : 0);
    const Index piece = grain_of(kPackNs * double(G * (I + R + H)) * W);
    Poll poll(interrupted);
    return parallel_for(end, piece, threads, poll, [&](int, Index first, Index last) {
      const auto part = [&](Index from, Index to) {
        return Share(std::max(first, from) - from, std::max(std::max(first, from), std::min(last, to)) - from);
      };
      const Share share = part(0, to_x);
      pack_gates(x.data(), from.weight_ih, I, G, share, cell.x_acc);
      pack_gates(h.data(), from.weight_hh, R, kH, share, cell.h_acc);
      if (cell.second) pack_gates(second.data(), from.weight_hh + kH * H * R, R, 1, share, cell.h_acc);
      x_back.pack(from.weight_ih, I, part(to_x, to_h));
      h_back.pack(from.weight_hh, R, part(to_h, end));
    });
  }

  bool trainable() const { return h_back.depth > 0; }

  /// The way back: every value that was packed, to the same place in a flat buffer.
  void unpack(const Flat<T>& to) const {
    unpack_gates(to.weight_ih, x.data(), I, G, cell.x_acc);
    unpack_gates(to.weight_hh, h.data(), R, cell.hidden_gates, cell.h_acc);
    if (cell.second) unpack_gates(to.weight_hh + cell.hidden_gates * H * R, second.data(), R, 1, cell.h_acc);
    if (cell.projects) project.unpack_transposed(to.projection, H);
    for (int i = 0; to.vectors && i < own_vectors(); ++i) std::copy_n(vectors.data() + i * Hp, H, to.vectors + i * H);
    for (Index g = 0; to.bias && g < G; ++g) {
      for (Index j = 0; j < H; ++j) {
        to.bias[g * H + j] = cell.bias_is_vectors ? vectors[(own_vectors() + g) * Hp + j] : bias[bias_place(int(g), j)];
      }
    }
  }

 private:
  /// Vectors, the bias not counted.
  int own_vectors() const { return cell.vectors - (cell.bias_is_vectors ? G : 0); }

  void pack_gates(Stored* out, const T* weight, Index K, int gates, const Share& share,
                  const int (&map)[cells::kMaxGates]) {
    for (Index j = share.begin; j < share.end; ++j) {
      Stored* panel = out + j * K * gates * W;
      const Index lanes = std::min<Index>(W, H - j * W);
      if (lanes < W) std::fill_n(panel, K * gates * W, Stored());
      for (int g = 0; g < gates; ++g) {
        const T* from = weight + (g * H + j * W) * K;
        if (lanes == tail) {
          for (Index i = 0; i < lanes; ++i) {
            for (Index k = 0; k < K; ++k)
              panel[k * tail_width * W + map[g] * tail + i] = Format<Stored>::narrow(from[i * K + k]);
          }
        } else {
          transpose(panel + g * W, gates * W, from, K, lanes, K);
        }
      }
    }
  }

  void unpack_gates(T* weight, const Stored* packed, Index K, int gates, const int (&map)[cells::kMaxGates]) const {
    for (Index j = 0; j < H; ++j) {
      const Index lane = j % W;
      const Stored* panel = packed + j / W * K * gates * W;
      const bool in_tail = tail > 0 && j / W + 1 == blocks;
      for (int g = 0; g < gates; ++g) {
        T* to = weight + (g * H + j) * K;
        const Index first = in_tail ? map[g] * tail + lane : g * W + lane;
        const Index stride = in_tail ? tail_width * W : gates * W;
        for (Index k = 0; k < K; ++k) to[k] = Format<Stored>::widen(panel[k * stride + first]);
      }
    }
  }

  /// Where the bias of unit j's gate g lies.
  Index bias_place(int g, Index j) const {
    const Index block = j / W, lane = j % W, stride = tail > 0 && block + 1 == blocks ? tail : W;
    return block * A * W + cell.x_acc[g] * stride + lane;
  }

  /// What only cells of several stages have.
  void pack_multi_stage(const Flat<const T>& from, bool training) {
    if (cell.projects) {
      project = Panels<T>(H, R);
      project.pack_transposed(from.projection, H, project.all());
    }
    if (training && cell.projects) {
      project_back = Panels<T>(R, H);
      project_back.pack(from.projection, H, project_back.all());
    }
    if (training && cell.second) {
      second_back = Panels<T>(H, R);
      second_back.pack(from.weight_hh + cell.hidden_gates * H * R, R, second_back.all());
    }
  }

  void pack_narrow(const T* weight) {
    x_narrow = Buffer<T>(I * G * Hp);
    x_narrow.clear();
    for (int g = 0; g < G; ++g) {
      for (Index j = 0; j < H; ++j) {
        for (Index i = 0; i < I; ++i) x_narrow[(i * G + g) * Hp + j] = weight[(g * H + j) * I + i];
      }
    }
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
        for (Index j = 0; j < H; ++j) bias[bias_place(g, j)] = from.bias[g * H + j];
      }
    }
  }
};

}  // namespace bptt::sequence
