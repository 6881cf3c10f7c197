// SPDX-License-Identifier: Apache-2.0
// A cell's weights in the order in which the time loops read them; packed once and used until the weights change.
// In: weight_ih [G*H,I], weight_hh [G*H,H], bias [G*H], vectors [P,H], the last two null for zeros;
// row g*H + j belongs to gate g of unit j.
#pragma once

#include "core/gemm.h"
#include "core/threads.h"

namespace bptt::sequence {

template <class Cell, class T>
struct Weights {
  static constexpr int W = Vec<T>::kSize, G = Cell::G, A = Cell::A, P = Cell::P;

  Index I, H, blocks;        // blocks of W hidden units; units beyond H have zero weights and stay zero
  Index Hp;                  // blocks * W
  Buffer<T> x, h;            // forward: [blocks][I][G][W], [blocks][H][G][W]
  Buffer<T> bias;            // the accumulators' start: [blocks][A][W]
  Buffer<T> vectors;         // [P][Hp]
  Panels<T> x_back, h_back;  // backward: [G*H] deep, I and H columns; empty without training

  Weights(Index I, Index H, const T* weight_ih, const T* weight_hh, const T* b, const T* p, bool training)
      : I(I),
        H(H),
        blocks(ceil_div(H, W)),
        Hp(blocks * W),
        x(checked_mul(checked_mul(Hp, G), I)),
        h(checked_mul(checked_mul(Hp, G), H)),
        bias(checked_mul(Hp, A)),
        vectors(checked_mul(Hp, P)) {
    pack_bias(b);
    vectors.clear();
    for (int i = 0; p && i < P; ++i) std::copy_n(p + i * H, H, vectors.data() + i * Hp);
    if (training) {
      x_back = Panels<T>(G * H, I);
      h_back = Panels<T>(G * H, H);
    }
    // One thread below about 50 us: 64 Ki weights.
    const int threads = G * H * (I + H) < 65536 ? 1 : Pool::size().load();
    Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
      const Share share(blocks, thread, barrier.size());
      pack_gates(x.data(), weight_ih, I, share);
      pack_gates(h.data(), weight_hh, H, share);
      if (!training) return;
      x_back.pack(weight_ih, I, Share(x_back.blocks(), thread, barrier.size()));
      h_back.pack(weight_hh, H, Share(h_back.blocks(), thread, barrier.size()));
    });
  }

  bool trainable() const { return h_back.depth > 0; }

 private:
  void pack_gates(T* out, const T* weight, Index K, const Share& share) {
    for (Index j = share.begin; j < share.end; ++j) {
      const Index lanes = std::min<Index>(W, H - j * W);
      if (lanes < W) std::fill_n(out + j * K * G * W, K * G * W, T(0));
      for (int g = 0; g < G; ++g)
        transpose(out + (j * K * G + g) * W, G * W, weight + (g * H + j * W) * K, K, lanes, K);
    }
  }

  void pack_bias(const T* b) {
    bias.clear();
    for (Index j = 0; b && j < H; ++j) {
      for (int g = 0; g < G; ++g) bias[(j / W * A + Cell::x_acc(g)) * W + j % W] = b[g * H + j];
    }
  }
};

}  // namespace bptt::sequence
