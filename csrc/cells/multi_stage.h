// SPDX-License-Identifier: Apache-2.0
// Cells whose equations need a whole row of units: a mean over it, or a second product. Such a cell is several stages,
// each elementwise like a cell of cell.h, on the `lines` of one unit; between the stages the loop does what `kBefore`
// names, on the lines of all units. Lines 0..A-1 are what the products fill, as accumulators are elsewhere; all kLines
// are kept for backward, as they are after the last stage.
// clang-format off
//
//   struct MultiStageCell {                     // G, A, S, P, x_acc, h_acc, kVectorsAreBias and names as in cell.h
//     static constexpr int kLines, kStages;
//     static constexpr bool kBiasIsVectors;  // the bias is not in a, but the last G rows of p
//     static constexpr Link kBefore[kStages];
//     static constexpr unsigned kWrites[kStages], kWritesBack[kStages], kVectorsBack[kStages];  // bits, see below
//     template <int Stage, class V> static void forward(V* line, const V* p, V h, const V* s0, V* s1);
//     template <int Stage, class V> static void backward(const V* line, V* d, const V* p, V h, const V* s0, const V* s1,
//                                                        const V* ds1, V limit, V* dp, V* ds0, V* dh);
//   };
//
// forward:  line, and s0[S] -> line, and in one of the stages s1[S]; h is s0[0] as the product saw it.
// backward: stages from the last to the first. d[kLines] goes from the gradients of what a stage wrote to those of what
//           it read; dp is this step's share; ds0 and dh, the elementwise share of the gradient of h, are added to.
//           Gradients of pre-activations are clamped to [-limit, limit].
// Bits:     which lines forward writes, which d and which dp backward writes; the others are not stored.
// Links:    kNormalise  lines [from, from+count) of a row become (a - mean) / sqrt(variance + 1e-5), together
//           kProduct    line `to` += W_g line `from`, W_g the rows of weight_hh of the last gate, whose product with h
//                       is left out
// clang-format on
#pragma once

#include "cells/cell.h"
#include "cells/lstm.h"

namespace bptt::cells {

inline double clamp(double x, double limit) { return std::fmin(std::fmax(x, -limit), limit); }

enum class Job { kNothing, kNormalise, kProduct };
struct Link {
  Job job = Job::kNothing;
  int from = 0, count = 0, to = 0;  // of the first
  int from2 = 0, count2 = 0;        // a second group to normalise
};

constexpr double kEpsilon = 1e-5;

/// GRU with the reset gate before the product (Cho et al. 2014, first version): n = tanh(a_n + Wn (r h0)).
struct GRUBefore : PlainAccumulators {
  static constexpr const char* kName = "gru_before";
  static constexpr int G = 3, A = 3, S = 1, P = 0;
  static constexpr bool kVectorsAreBias = false, kBiasIsVectors = false;
  static constexpr const char *kGates = "r z n", *kStates = "h", *kKept = "r z n rh";
  static constexpr Vector kVectors[2] = {};
  static constexpr int kLines = 4, kStages = 2;  // r z n, r h
  static constexpr Link kBefore[] = {{}, {Job::kProduct, 3, 0, 2}};
  static constexpr unsigned kWrites[] = {0b1011, 0b100}, kWritesBack[] = {0b1, 0b110}, kVectorsBack[] = {0, 0};

  template <int Stage, class V>
  static void forward(V* line, const V*, V h, const V* s0, V* s1) {
    if constexpr (Stage == 0) {
      line[0] = sigmoid(line[0]), line[1] = sigmoid(line[1]);
      line[3] = line[0] * h;
    } else {
      const V n = tanh(line[2]);
      line[2] = n;
      s1[0] = fma(line[1], s0[0] - n, n);
    }
  }

  template <int Stage, class V>
  static void backward(const V* line, V* d, const V*, V h, const V* s0, const V*, const V* ds1, V limit, V*, V* ds0,
                       V* dh) {
    const V r = line[0], z = line[1], n = line[2];
    if constexpr (Stage == 1) {
      d[2] = clamp(ds1[0] * (1 - z) * (1 - n * n), limit);
      d[1] = clamp(ds1[0] * (s0[0] - n) * z * (1 - z), limit);
      ds0[0] = ds0[0] + ds1[0] * z;
    } else {
      d[0] = clamp(d[3] * h * r * (1 - r), limit);
      *dh = *dh + d[3] * r;
    }
  }
};

/// LSTM with layer normalisation (Ba et al. 2016): a = N(Wx x) v_x + N(Wh h0) v_h + b,  h1 = o tanh(N(c1) v_c + b_c).
/// p: v_x i f g o, v_h i f g o, v_c, b_c, b i f g o.
struct LSTMNorm {
  static constexpr const char* kName = "lstm_norm";
  static constexpr int G = 4, A = 8, S = 2, P = 14;
  static constexpr bool kVectorsAreBias = false, kBiasIsVectors = true;
  static constexpr const char *kGates = "i f g o", *kStates = "h c",
                              *kKept = "x_i x_f x_g x_o h_i h_f h_g h_o c_norm i f g o";
  static constexpr Vector kVectors[2] = {{"weight_norm", 9}, {"bias_norm", 1}};
  static constexpr int kLines = 13, kStages = 2;  // N(Wx x), N(Wh h), N(c1), i f g o
  static constexpr Link kBefore[] = {{Job::kNormalise, 0, 4, 0, 4, 4}, {Job::kNormalise, 8, 1}};
  static constexpr unsigned kWrites[] = {0x1F00, 0}, kWritesBack[] = {0xFF, 0x1100}, kVectorsBack[] = {0x3CFF, 0x300};
  static constexpr int x_acc(int g) { return g; }
  static constexpr int h_acc(int g) { return 4 + g; }

  template <int Stage, class V>
  static void forward(V* line, const V* p, V, const V* s0, V* s1) {
    if constexpr (Stage == 0) {
      V a[4];
      for (int g = 0; g < 4; ++g) a[g] = fma(line[g], p[g], fma(line[4 + g], p[4 + g], p[10 + g]));
      const V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]), o = sigmoid(a[3]);
      s1[1] = fma(f, s0[1], i * g);
      line[8] = s1[1], line[9] = i, line[10] = f, line[11] = g, line[12] = o;
    } else {
      s1[0] = line[12] * tanh(fma(line[8], p[8], p[9]));
    }
  }

  template <int Stage, class V>
  static void backward(const V* line, V* d, const V* p, V, const V* s0, const V*, const V* ds1, V limit, V* dp, V* ds0,
                       V*) {
    const V i = line[9], f = line[10], g = line[11], o = line[12];
    if constexpr (Stage == 1) {
      const V u = tanh(fma(line[8], p[8], p[9])), dm = ds1[0] * o * (1 - u * u);
      d[12] = ds1[0] * u * o * (1 - o);
      d[8] = dm * p[8];
      dp[8] = dm * line[8], dp[9] = dm;
    } else {
      const V dc1 = ds1[1] + d[8];
      const V da[4] = {dc1 * g * i * (1 - i), dc1 * s0[1] * f * (1 - f), dc1 * i * (1 - g * g), d[12]};
      for (int n = 0; n < 4; ++n) {
        const V x = clamp(da[n], limit);
        d[n] = x * p[n], d[4 + n] = x * p[4 + n];
        dp[n] = x * line[n], dp[4 + n] = x * line[4 + n], dp[10 + n] = x;
      }
      ds0[1] = ds0[1] + dc1 * f;
    }
  }
};

/// GRU with layer normalisation: r, z = sigmoid(N(Wx x) v_x + b + N(Wh h0) v_h),  n = tanh(N(Wx x) v_x + b + r N(Wh h0)
/// v_h). p: v_x r z n, v_h r z n, b r z n.
struct GRUNorm {
  static constexpr const char* kName = "gru_norm";
  static constexpr int G = 3, A = 6, S = 1, P = 9;
  static constexpr bool kVectorsAreBias = false, kBiasIsVectors = true;
  static constexpr const char *kGates = "r z n", *kStates = "h", *kKept = "x_r x_z x_n h_r h_z h_n r z n";
  static constexpr Vector kVectors[2] = {{"weight_norm", 6}};
  static constexpr int kLines = 9, kStages = 1;  // N(Wx x), N(Wh h), r z n
  static constexpr Link kBefore[] = {{Job::kNormalise, 0, 3, 0, 3, 3}};
  static constexpr unsigned kWrites[] = {0x1C0}, kWritesBack[] = {0x3F}, kVectorsBack[] = {0x1FF};
  static constexpr int x_acc(int g) { return g; }
  static constexpr int h_acc(int g) { return 3 + g; }

  template <int Stage, class V>
  static void forward(V* line, const V* p, V, const V* s0, V* s1) {
    const V r = sigmoid(fma(line[0], p[0], fma(line[3], p[3], p[6])));
    const V z = sigmoid(fma(line[1], p[1], fma(line[4], p[4], p[7])));
    const V n = tanh(fma(line[2], p[2], fma(r, line[5] * p[5], p[8])));
    s1[0] = fma(z, s0[0] - n, n);
    line[6] = r, line[7] = z, line[8] = n;
  }

  template <int Stage, class V>
  static void backward(const V* line, V* d, const V* p, V, const V* s0, const V*, const V* ds1, V limit, V* dp, V* ds0,
                       V*) {
    const V r = line[6], z = line[7], n = line[8], da_n = ds1[0] * (1 - z) * (1 - n * n);
    const V x[3] = {clamp(da_n * line[5] * p[5] * r * (1 - r), limit), clamp(ds1[0] * (s0[0] - n) * z * (1 - z), limit),
                    clamp(da_n, limit)};
    const V h[3] = {x[0], x[1], clamp(da_n * r, limit)};
    for (int g = 0; g < 3; ++g) {
      d[g] = x[g] * p[g], d[3 + g] = h[g] * p[3 + g];
      dp[g] = x[g] * line[g], dp[3 + g] = h[g] * line[3 + g], dp[6 + g] = x[g];
    }
    ds0[0] = ds0[0] + ds1[0] * z;
  }
};

/// A cell whose h1 is projected, h1' = W_hr h1 (Sak et al. 2014): this is its output and its input at the next step.
/// For cells that read no h0 but through the product. Line kM holds h1, then line kM + 1 the gradient of h1'.
template <class Cell>
struct Projected : Cell {
  static constexpr bool kBiasIsVectors = false, kProjects = true;
  static constexpr int kM = Cell::K, kLines = Cell::K + 2, kStages = 1;
  static constexpr Link kBefore[] = {{}};
  static constexpr unsigned kWrites[] = {(2u << kM) - 1}, kWritesBack[] = {(1u << Cell::A) - 1};
  static constexpr unsigned kVectorsBack[] = {(1u << Cell::P) - 1};
  static_assert(Cell::K >= Cell::A, "lines hold accumulators, then what is kept");

  template <int Stage, class V>
  static void forward(V* line, const V* p, V, const V* s0, V* s1) {
    V a[Cell::A];
    for (int i = 0; i < Cell::A; ++i) a[i] = line[i];
    Cell::forward(a, p, s0, s1, line);
    line[kM] = s1[0];
  }

  template <int Stage, class V>
  static void backward(const V* line, V* d, const V* p, V, const V* s0, const V* s1, const V* ds1, V limit, V* dp,
                       V* ds0, V*) {
    V da[Cell::A], d0[Cell::S];
    Cell::backward(line, p, s0, s1, ds1, da, dp, d0);
    for (int i = 0; i < Cell::A; ++i) d[i] = clamp(da[i], limit);
    for (int i = 0; i < Cell::S; ++i) ds0[i] = ds0[i] + d0[i];
  }
};

struct ProjectedLSTM : Projected<LSTM> {
  static constexpr const char* kName = "lstm_projected";
};
struct ProjectedPeepholeLSTM : Projected<PeepholeLSTM> {
  static constexpr const char* kName = "lstm_peephole_projected";
};

}  // namespace bptt::cells
