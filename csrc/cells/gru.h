// SPDX-License-Identifier: Apache-2.0
// Gated recurrent unit (Cho et al. 2014), the reset gate applied after the product as in PyTorch and cuDNN:
//   r = sigmoid(a_r)   z = sigmoid(a_z)   n = tanh(a_nx + r (a_nh + b_hn))   h1 = n + z (h0 - n)
// The candidate needs its input part and its hidden part apart: four accumulators r z n_x n_h for three gates r z n.
#pragma once

#include "cells/cell.h"

namespace bptt::cells {

struct GRU {
  static constexpr const char* kName = "gru";
  static constexpr int G = 3, A = 4, S = 1, K = 4, P = 1;  // k: r z n (a_nh + b_hn); p: b_hn
  static constexpr bool kVectorsAreBias = true;
  static constexpr const char *kGates = "r z n", *kStates = "h", *kKept = "r z n m";
  static constexpr Vector kVectors[2] = {{"bias_hn", 1}};
  static constexpr int x_acc(int g) { return g; }
  static constexpr int h_acc(int g) { return g < 2 ? g : 3; }

  template <class V>
  static void forward(const V* a, const V* p, const V* s0, V* s1, V* k) {
    const V r = sigmoid(a[0]), z = sigmoid(a[1]), n_h = a[3] + p[0];
    const V n = tanh(fma(r, n_h, a[2]));
    s1[0] = fma(z, s0[0] - n, n);
    k[0] = r, k[1] = z, k[2] = n, k[3] = n_h;
  }

  template <class V>
  static void backward(const V* k, const V*, const V* s0, const V*, const V* ds1, V* da, V* dp, V* ds0) {
    const V r = k[0], z = k[1], n = k[2], n_h = k[3], h0 = s0[0], dh1 = ds1[0];
    const V da_n = dh1 * (1 - z) * (1 - n * n);
    da[0] = da_n * n_h * r * (1 - r);
    da[1] = dh1 * (h0 - n) * z * (1 - z);
    da[2] = da_n;
    da[3] = da_n * r;
    dp[0] = da[3];
    ds0[0] = dh1 * z;
  }
};

}  // namespace bptt::cells
