// SPDX-License-Identifier: Apache-2.0
// What a cell is: the equations of one time step for one hidden unit, as two pure functions on values of type V, which
// is a SIMD register in the kernels and double in the test against finite differences. No loop, no memory, no thread.
//
//   struct Cell {
//     static constexpr int G;  // gates: blocks of rows in weight_ih [G*H,I], weight_hh [G*H,Q], bias [G*H]
//     static constexpr int A;  // accumulators: pre-activations that the products fill (G, or more: see GRU)
//     static constexpr int S;  // states, h first; at most 4
//     static constexpr int K;  // values kept from forward for backward
//     static constexpr int P;  // per-unit vectors (peephole weights, GRU's b_hn)
//     static constexpr bool kVectorsAreBias;  // whether they are part of the bias, as GRU's
//     static constexpr const char* kGates;    // names of the gates in order, separated by spaces
//     static constexpr const char* kStates;   // of the states
//     static constexpr const char* kKept;     // of the values kept, as far as users can ask for them
//     static constexpr Vector kVectors[2];    // the parameters that the vectors are, in order; a bias is not named
//     static constexpr bool kHeads;  // whether units may be grouped in heads; may be left out, which says no
//     static constexpr int x_acc(int g), h_acc(int g);  // the accumulator that gate g's input / hidden product feeds
//     template <class V> static void forward(const V* a, const V* p, const V* s0, V* s1, V* k);
//     template <class V> static void backward(const V* k, const V* p, const V* s0, const V* s1, const V* ds1,
//                                             V* da, V* dp, V* ds0);
//   };
//
// forward:  a[A] = Wx x + b + Wh h0 (bias in the input's accumulator), p[P], s0[S] -> s1[S], k[K].
// backward: k, p, s0, s1 and ds1[S] -> da[A], dp[P] (this step's share), ds0[S] without the share through Wh.
// Gate order is PyTorch's: LSTM i f g o, GRU r z n.
#pragma once

#include <cmath>

namespace bptt::cells {

// The functions of the equations for V = double; those for a register are declared with its type.
inline double exp(double x) { return std::exp(x); }
inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double logsigmoid(double x) { return std::fmin(x, 0) - std::log1p(std::exp(-std::fabs(x))); }
inline double tanh(double x) { return std::tanh(x); }
inline double relu(double x) { return x > 0 ? x : 0; }
inline double heaviside(double x) { return x > 0 ? 1 : 0; }
inline double fma(double a, double b, double c) { return std::fma(a, b, c); }
inline double at_most(double x, double limit) { return std::fmin(x, limit); }
inline double select_less(double x, double y, double a, double b) { return x < y ? a : b; }

/// A parameter of `rows` vectors: [rows,H], or [H] for one row.
struct Vector {
  const char* name = nullptr;
  int rows = 0;
};

/// Gate g of both products feeds accumulator g.
struct PlainAccumulators {
  static constexpr int x_acc(int g) { return g; }
  static constexpr int h_acc(int g) { return g; }
};

}  // namespace bptt::cells
