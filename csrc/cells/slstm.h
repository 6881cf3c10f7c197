// SPDX-License-Identifier: Apache-2.0
// sLSTM, the LSTM with exponential gates of xLSTM (Beck et al. 2024), in the stabilised form and with the gate order of
// its authors' code, i f z o:
//   z = tanh(a_z)   o = sigmoid(a_o)   log f = log sigmoid(a_f), or a_f   m1 = max(log f + m0, a_i)
//   i' = exp(a_i - m1)   f' = exp(log f + m0 - m1)
//   c1 = f' c0 + i' z    n1 = f' n0 + i'    h1 = o c1 / n1
// c and n are sums weighted by the gates, in units of exp(m), and m, the largest exponent so far, keeps them in range.
// Where nothing is stored, n0 = 0, the first exponent is the largest: m1 = a_i and f' is at most 1. A maximum with m0 =
// 0 would let i' and n1 underflow where a_i is far below 0; with this rule zeros are a good initial state.
// n is a sum of positive terms: one below 0, which only a caller or an optimizer can give, counts as 0, as h = o c1 /
// n1 would have a pole else.
#pragma once

#include "cells/cell.h"

namespace bptt::cells {

template <bool kExpForget>
struct SLSTMCell : PlainAccumulators {
  static constexpr int G = 4, A = 4, S = 4, K = 5, P = 0;  // states h c n m; k: i' f' z o a_f
  static constexpr bool kVectorsAreBias = false, kHeads = true;
  static constexpr const char *kGates = "i f z o", *kStates = "h c n m", *kKept = "i f z o";
  static constexpr Vector kVectors[2] = {};

  template <class V>
  static void forward(const V* a, const V*, const V* s0, V* s1, V* k) {
    const V c0 = s0[1], n0 = select_less(V(0), s0[2], s0[2], V(0)), m0 = s0[3], z = tanh(a[2]), o = sigmoid(a[3]);
    V log_f = a[1];
    if constexpr (!kExpForget) log_f = logsigmoid(a[1]);
    const V stored = log_f + m0;
    const V m1 = select_less(V(0), n0, select_less(stored, a[0], a[0], stored), a[0]);
    const V i = exp(a[0] - m1), f = exp(at_most(stored - m1, V(0)));
    const V c1 = fma(f, c0, i * z), n1 = fma(f, n0, i);
    s1[0] = o * c1 / n1;
    s1[1] = c1, s1[2] = n1, s1[3] = m1;
    k[0] = i, k[1] = f, k[2] = z, k[3] = o, k[4] = a[1];
  }

  // Gradients of m are those of the function above, m given and asked for like any state. Of the maximum, the larger
  // argument has the gradient; a_i where both are equal, so that i' is 1 to the last bit.
  template <class V>
  static void backward(const V* k, const V*, const V* s0, const V* s1, const V* ds1, V* da, V*, V* ds0) {
    const V i = k[0], f = k[1], z = k[2], o = k[3], c0 = s0[1], h1 = s1[0], n1 = s1[2];
    const V n0 = select_less(V(0), s0[2], s0[2], V(0));
    const V dratio = ds1[0] / n1;
    const V dc1 = fma(dratio, o, ds1[1]), dn1 = ds1[2] - dratio * h1;
    const V dlog_i = i * fma(dc1, z, dn1);
    V dlog_f = f * fma(dc1, c0, dn1 * n0);
    dlog_f = select_less(V(0), n0, dlog_f, select_less(f, V(1), dlog_f, V(0)));  // of an f' that was held at 1
    const V dm1 = ds1[3] - dlog_i - dlog_f, dm1_stored = select_less(i, V(1), dm1, V(0));
    const V dstored = dlog_f + dm1_stored;
    da[0] = dlog_i + (dm1 - dm1_stored);
    da[1] = dstored;
    if constexpr (!kExpForget) da[1] = dstored * sigmoid(V(0) - k[4]);
    da[2] = dc1 * i * (1 - z * z);
    da[3] = ds1[0] * h1 * (1 - o);
    ds0[0] = V(0), ds0[1] = dc1 * f, ds0[2] = select_less(s0[2], V(0), V(0), dn1 * f), ds0[3] = dstored;
  }
};

struct SLSTM : SLSTMCell<false> {
  static constexpr const char* kName = "slstm";
};
struct SLSTMExp : SLSTMCell<true> {
  static constexpr const char* kName = "slstm_exp";
};

}  // namespace bptt::cells
