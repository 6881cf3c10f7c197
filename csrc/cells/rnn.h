// SPDX-License-Identifier: Apache-2.0
// The simple recurrent network (Elman 1990): h1 = f(Wx x + b + Wh h0), f = tanh, ReLU or the identity.
#pragma once

#include "cells/cell.h"

namespace bptt::cells {

struct RNNTanh : PlainAccumulators {
  static constexpr const char* kName = "rnn_tanh";
  static constexpr int G = 1, A = 1, S = 1, K = 0, P = 0;
  static constexpr bool kVectorsAreBias = false;
  static constexpr const char *kGates = "h", *kStates = "h", *kKept = "";
  static constexpr Vector kVectors[2] = {};

  template <class V>
  static void forward(const V* a, const V*, const V*, V* s1, V*) {
    s1[0] = tanh(a[0]);
  }

  template <class V>
  static void backward(const V*, const V*, const V*, const V* s1, const V* ds1, V* da, V*, V* ds0) {
    const V h1 = s1[0];
    da[0] = ds1[0] * (1 - h1 * h1);
    ds0[0] = V(0);
  }
};

struct RNNReLU : PlainAccumulators {
  static constexpr const char* kName = "rnn_relu";
  static constexpr int G = 1, A = 1, S = 1, K = 0, P = 0;
  static constexpr bool kVectorsAreBias = false;
  static constexpr const char *kGates = "h", *kStates = "h", *kKept = "";
  static constexpr Vector kVectors[2] = {};

  template <class V>
  static void forward(const V* a, const V*, const V*, V* s1, V*) {
    s1[0] = relu(a[0]);
  }

  template <class V>
  static void backward(const V*, const V*, const V*, const V* s1, const V* ds1, V* da, V*, V* ds0) {
    da[0] = ds1[0] * heaviside(s1[0]);
    ds0[0] = V(0);
  }
};

struct RNNLinear : PlainAccumulators {
  static constexpr const char* kName = "rnn_linear";
  static constexpr int G = 1, A = 1, S = 1, K = 0, P = 0;
  static constexpr bool kVectorsAreBias = false;
  static constexpr const char *kGates = "h", *kStates = "h", *kKept = "";
  static constexpr Vector kVectors[2] = {};

  template <class V>
  static void forward(const V* a, const V*, const V*, V* s1, V*) {
    s1[0] = a[0];
  }

  template <class V>
  static void backward(const V*, const V*, const V*, const V*, const V* ds1, V* da, V*, V* ds0) {
    da[0] = ds1[0];
    ds0[0] = V(0);
  }
};

}  // namespace bptt::cells
