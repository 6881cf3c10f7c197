// SPDX-License-Identifier: Apache-2.0
// A cell's weights in the order in which the time loops read them; packed once and used until the weights change.
// In: weight_ih [G*H,I], weight_hh [G*H,H], bias [G*H], vectors [P,H], the last two null for zeros;
// row g*H + j belongs to gate g of unit j.
// The last block, where H is no multiple of W: if its accumulators fit into fewer registers than there are gates, they
// lie side by side without gaps, [k][tail_width][W], accumulator i of its unit j at i*tail + j. With H = 50 and W = 16
// that is one register instead of four, and a step does 13 instead of 16 of them (LSTM B=20 T=30, inference: 208 -> 180
// us).
#pragma once

#include "core/gemm.h"
#include "core/threads.h"

namespace bptt::sequence {

template <class Cell, class T>
struct Weights {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, P = Cell::P;

  Index I, H, blocks;        // blocks of W hidden units; units beyond H have zero weights and stay zero
  Index Hp;                  // blocks * W
  Index tail, tail_width;    // units and registers of a last block that is packed (see below); else 0
  Buffer<T> x, h;            // forward: [blocks][I][G][W], [blocks][H][G][W]
  Buffer<T> bias;            // the accumulators' start: [blocks][A][W]
  Buffer<T> vectors;         // [P][Hp]
  Panels<T> x_back, h_back;  // backward: [G*H] deep, I and H columns; empty without training
  Buffer<T> x_narrow;        // [I,G,Hp] in the place of x_back where I <= kNarrow

  Weights(Index I, Index H, const T* weight_ih, const T* weight_hh, const T* b, const T* p, bool training)
      : I(I),
        H(H),
        blocks(ceil_div(H, W)),
        Hp(blocks * W),
        tail(H % W),
        tail_width(ceil_div(A * tail, W)),
        x(checked_mul(checked_mul(Hp, G), I)),
        h(checked_mul(checked_mul(Hp, G), H)),
        bias(checked_mul(Hp, A)),
        vectors(checked_mul(Hp, P)) {
    if (tail_width >= G) tail = tail_width = 0;
    pack_bias(b);
    vectors.clear();
    for (int i = 0; p && i < P; ++i) std::copy_n(p + i * H, H, vectors.data() + i * Hp);
    if (training) {
      if (I > kNarrow)
        x_back = Panels<T>(G * H, I);
      else
        pack_narrow(weight_ih);
      h_back = Panels<T>(G * H, H);
    }
    // One thread below about 50 us: 64 Ki weights.
    const int threads = G * H * (I + H) < 65536 ? 1 : Pool::size().load();
    Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
      const Share share(blocks, thread, barrier.size());
      pack_gates(x.data(), weight_ih, I, share, &Cell::x_acc);
      pack_gates(h.data(), weight_hh, H, share, &Cell::h_acc);
      if (!training) return;
      x_back.pack(weight_ih, I, Share(x_back.blocks(), thread, barrier.size()));
      h_back.pack(weight_hh, H, Share(h_back.blocks(), thread, barrier.size()));
    });
  }

  bool trainable() const { return h_back.depth > 0; }

 private:
  void pack_gates(T* out, const T* weight, Index K, const Share& share, int (*map)(int)) {
    for (Index j = share.begin; j < share.end; ++j) {
      T* panel = out + j * K * G * W;
      const Index lanes = std::min<Index>(W, H - j * W);
      if (lanes < W) std::fill_n(panel, K * G * W, T(0));
      for (int g = 0; g < G; ++g) {
        const T* from = weight + (g * H + j * W) * K;
        if (lanes == tail) {
          for (Index i = 0; i < lanes; ++i) {
            for (Index k = 0; k < K; ++k) panel[k * tail_width * W + map(g) * tail + i] = from[i * K + k];
          }
        } else {
          transpose(panel + g * W, G * W, from, K, lanes, K);
        }
      }
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

  void pack_bias(const T* b) {
    bias.clear();
    for (Index j = 0; b && j < H; ++j) {
      const Index block = j / W, lane = j % W, stride = tail > 0 && block + 1 == blocks ? tail : W;
      for (int g = 0; g < G; ++g) bias[block * A * W + Cell::x_acc(g) * stride + lane] = b[g * H + j];
    }
  }
};

}  // namespace bptt::sequence
