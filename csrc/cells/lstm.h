// SPDX-License-Identifier: Apache-2.0
// Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000):
//   i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
//   c1 = f c0 + i g    h1 = o tanh(c1)
// and its peephole variant (Gers et al. 2002), whose i and f see c0 and whose o sees c1:
//   i = sigmoid(a_i + p_i c0)   f = sigmoid(a_f + p_f c0)   o = sigmoid(a_o + p_o c1)
// and the one with coupled gates (Greff et al. 2017): i = 1 - f.
#pragma once

#include "cells/cell.h"

namespace bptt::cells {

struct LSTM : PlainAccumulators {
  static constexpr const char* kName = "lstm";
  static constexpr int G = 4, A = 4, S = 2, K = 4, P = 0;
  static constexpr bool kVectorsAreBias = false;
  static constexpr const char *kGates = "i f g o", *kStates = "h c", *kKept = "i f g o";
  static constexpr Vector kVectors[2] = {};

  template <class V>
  static void forward(const V* a, const V*, const V* s0, V* s1, V* k) {
    const V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]), o = sigmoid(a[3]);
    const V c1 = fma(f, s0[1], i * g);
    s1[0] = o * tanh(c1);
    s1[1] = c1;
    k[0] = i, k[1] = f, k[2] = g, k[3] = o;
  }

  template <class V>
  static void backward(const V* k, const V*, const V* s0, const V* s1, const V* ds1, V* da, V*, V* ds0) {
    const V i = k[0], f = k[1], g = k[2], o = k[3];
    const V c0 = s0[1], tanh_c1 = tanh(s1[1]), dh1 = ds1[0];
    const V dc1 = fma(dh1 * o, 1 - tanh_c1 * tanh_c1, ds1[1]);
    da[0] = dc1 * g * i * (1 - i);
    da[1] = dc1 * c0 * f * (1 - f);
    da[2] = dc1 * i * (1 - g * g);
    da[3] = dh1 * tanh_c1 * o * (1 - o);
    ds0[0] = V(0);
    ds0[1] = dc1 * f;
  }
};

struct PeepholeLSTM : PlainAccumulators {
  static constexpr const char* kName = "lstm_peephole";
  static constexpr int G = 4, A = 4, S = 2, K = 4, P = 3;  // p: i f o
  static constexpr bool kVectorsAreBias = false;
  static constexpr const char *kGates = "i f g o", *kStates = "h c", *kKept = "i f g o";
  static constexpr Vector kVectors[2] = {{"weight_peephole", 3}};

  template <class V>
  static void forward(const V* a, const V* p, const V* s0, V* s1, V* k) {
    const V c0 = s0[1];
    const V i = sigmoid(fma(p[0], c0, a[0])), f = sigmoid(fma(p[1], c0, a[1])), g = tanh(a[2]);
    const V c1 = fma(f, c0, i * g);
    const V o = sigmoid(fma(p[2], c1, a[3]));
    s1[0] = o * tanh(c1);
    s1[1] = c1;
    k[0] = i, k[1] = f, k[2] = g, k[3] = o;
  }

  template <class V>
  static void backward(const V* k, const V* p, const V* s0, const V* s1, const V* ds1, V* da, V* dp, V* ds0) {
    const V i = k[0], f = k[1], g = k[2], o = k[3];
    const V c0 = s0[1], c1 = s1[1], tanh_c1 = tanh(c1), dh1 = ds1[0];
    const V da_o = dh1 * tanh_c1 * o * (1 - o);
    const V dc1 = fma(da_o, p[2], fma(dh1 * o, 1 - tanh_c1 * tanh_c1, ds1[1]));
    const V da_i = dc1 * g * i * (1 - i), da_f = dc1 * c0 * f * (1 - f);
    da[0] = da_i, da[1] = da_f, da[2] = dc1 * i * (1 - g * g), da[3] = da_o;
    dp[0] = da_i * c0, dp[1] = da_f * c0, dp[2] = da_o * c1;
    ds0[0] = V(0);
    ds0[1] = fma(da_i, p[0], fma(da_f, p[1], dc1 * f));
  }
};

struct CoupledLSTM : PlainAccumulators {
  static constexpr const char* kName = "lstm_coupled";
  static constexpr int G = 3, A = 3, S = 2, K = 3, P = 0;  // f g o
  static constexpr bool kVectorsAreBias = false;
  static constexpr const char *kGates = "f g o", *kStates = "h c", *kKept = "f g o";
  static constexpr Vector kVectors[2] = {};

  template <class V>
  static void forward(const V* a, const V*, const V* s0, V* s1, V* k) {
    const V f = sigmoid(a[0]), g = tanh(a[1]), o = sigmoid(a[2]);
    const V c1 = fma(f, s0[1] - g, g);
    s1[0] = o * tanh(c1);
    s1[1] = c1;
    k[0] = f, k[1] = g, k[2] = o;
  }

  template <class V>
  static void backward(const V* k, const V*, const V* s0, const V* s1, const V* ds1, V* da, V*, V* ds0) {
    const V f = k[0], g = k[1], o = k[2];
    const V tanh_c1 = tanh(s1[1]), dh1 = ds1[0];
    const V dc1 = fma(dh1 * o, 1 - tanh_c1 * tanh_c1, ds1[1]);
    da[0] = dc1 * (s0[1] - g) * f * (1 - f);
    da[1] = dc1 * (1 - f) * (1 - g * g);
    da[2] = dh1 * tanh_c1 * o * (1 - o);
    ds0[0] = V(0);
    ds0[1] = dc1 * f;
  }
};

}  // namespace bptt::cells
