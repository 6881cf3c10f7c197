// SPDX-License-Identifier: Apache-2.0
// The cells' text with V = double against central differences, for every input of the backward function. With
// f(a, p, s0) the weighted sum of the new states, h = 6e-6 = cbrt(eps) makes the error of (f(x+h) - f(x-h)) / 2h about
// h^2 |f'''| / 6 + eps |f| / h < 1e-9 for values of order one; a wrong term is of order 0.1.
#include <algorithm>
#include <random>
#include <string>
#include <type_traits>

#include "cells/all.h"
#include "test.h"

using namespace bptt::test;

namespace {

constexpr double kStep = 6e-6, kTolerance = 1e-9;
std::mt19937 generator(20240607);

void fill(double* values, int n) {
  std::uniform_real_distribution<double> uniform(0.2, 1.0);  // away from ReLU's kink, either side
  for (int i = 0; i < n; ++i) values[i] = uniform(generator) * (generator() & 1 ? 1 : -1);
}

template <class Cell>
struct Case {
  double a[Cell::A], p[Cell::P + 1], s0[Cell::S], ds1[Cell::S];

  double objective() const {
    double s1[Cell::S], k[Cell::K + 1], sum = 0;
    Cell::forward(a, p, s0, s1, k);
    for (int i = 0; i < Cell::S; ++i) sum += ds1[i] * s1[i];
    return sum;
  }
};

/// The slope of a case's objective along one of its inputs.
template <class C>
double difference(C& c, double& x) {
  const double kept = x;
  x = kept + kStep;
  const double up = c.objective();
  x = kept - kStep;
  const double down = c.objective();
  x = kept;
  return (up - down) / (2 * kStep);
}

template <class Cell>
void check_case(Case<Cell>& c) {
  const std::string name = Cell::kName;
  double s1[Cell::S], k[Cell::K + 1], da[Cell::A], dp[Cell::P + 1], ds0[Cell::S];
  Cell::forward(c.a, c.p, c.s0, s1, k);
  Cell::backward(k, c.p, c.s0, s1, c.ds1, da, dp, ds0);
  for (int i = 0; i < Cell::A; ++i) check_near(da[i], difference(c, c.a[i]), kTolerance, name + " da");
  for (int i = 0; i < Cell::P; ++i) check_near(dp[i], difference(c, c.p[i]), kTolerance, name + " dp");
  for (int i = 0; i < Cell::S; ++i) check_near(ds0[i], difference(c, c.s0[i]), kTolerance, name + " ds0");
}

/// Moves a state to where the cell is smooth.
void to_domain(const void*, double*) {}
template <bool kExpForget>
void to_domain(const bptt::cells::SLSTMCell<kExpForget>*, double* s0) {
  s0[2] = 1 + std::abs(s0[2]);  // n: a sum of positive weights, at least 1 after the first step
}

template <class Cell>
void check_gradients() {
  for (int trial = 0; trial < 50; ++trial) {
    Case<Cell> c;
    fill(c.a, Cell::A), fill(c.p, Cell::P), fill(c.s0, Cell::S), fill(c.ds1, Cell::S);
    to_domain(static_cast<const Cell*>(nullptr), c.s0);
    check_case(c);
  }
}

/// An sLSTM where nothing is stored: m1 = a_i, i' = 1 and f' at most 1. Negative n is treated alike, so that there are
/// differences on both sides.
template <class Cell>
void check_nothing_stored() {
  const std::string name = Cell::kName;
  int held = 0;
  for (int trial = 0; trial < 50; ++trial) {
    Case<Cell> c;
    fill(c.a, Cell::A), fill(c.s0, Cell::S), fill(c.ds1, Cell::S);
    c.s0[2] = -0.25;
    check_case(c);
    c.s0[2] = 0;
    double s1[Cell::S], k[Cell::K];
    Cell::forward(c.a, c.p, c.s0, s1, k);
    held += k[1] == 1;
    check_equal(s1[3], c.a[0], name + " m1");
    check_equal(s1[2], 1.0, name + " n1");
    check_near(s1[0], k[3] * (k[1] * c.s0[1] + k[2]), 1e-15, name + " h1");
  }
  check(held > 0 && held < 50, name + ": f' is held at 1 in some trials");
}

/// Of two equal arguments of its maximum, an sLSTM takes the input gate's.
void check_tie() {
  const double a[] = {0.5, 0.5, 0.3, 0.2}, s0[] = {0.1, 0.2, 1, 0}, ds1[] = {0, 0, 0, 1};  // log f + m0 = a_i
  double s1[4], k[5], da[4], ds0[4];
  bptt::cells::SLSTMExp::forward(a, s0, s0, s1, k);
  bptt::cells::SLSTMExp::backward(k, s0, s0, s1, ds1, da, da, ds0);
  check_equal(da[0], 1.0, "a tie, input gate");
  check_equal(da[1], 0.0, "a tie, forget gate");
}

/// A cell of several stages on a single unit: a product is a factor there, and what is normalised is left as it is.
template <class Cell>
struct StagedCase {
  static constexpr int L = Cell::kLines, S = Cell::S, P = Cell::P, A = Cell::A, kStages = Cell::kStages;
  static constexpr double kWeight = 0.7;
  double a[A], p[P + 1], h, s0[S], ds1[S];
  double line[L], s1[S], d[L], dp[P + 1], ds0[S], dh;

  template <int Stage = 0>
  void forward() {
    constexpr bptt::cells::Link link = Cell::kBefore[Stage];
    if constexpr (link.job == bptt::cells::Job::kProduct) line[link.to] += kWeight * line[link.from];
    Cell::template forward<Stage>(line, p, h, s0, s1);
    if constexpr (Stage + 1 < kStages) forward<Stage + 1>();
  }

  template <int Stage = kStages - 1>
  void backward() {
    constexpr bptt::cells::Link link = Cell::kBefore[Stage];
    double step[P + 1] = {};
    Cell::template backward<Stage>(line, d, p, h, s0, s1, ds1, 1e300, step, ds0, &dh);
    for (int i = 0; i < P; ++i) dp[i] += step[i];
    if constexpr (link.job == bptt::cells::Job::kProduct) d[link.from] = kWeight * d[link.to];
    if constexpr (Stage > 0) backward<Stage - 1>();
  }

  double objective() {
    std::fill_n(line, L, 0.0);
    std::copy_n(a, A, line);
    forward();
    double sum = 0;
    for (int i = 0; i < S; ++i) sum += ds1[i] * s1[i];
    return sum;
  }
};

/// Of a projected cell, ds1[0] is the gradient of the unprojected h, as its stage has it.
template <class Cell>
void check_multi_stage() {
  const std::string name = Cell::kName;
  for (int trial = 0; trial < 50; ++trial) {
    StagedCase<Cell> c;
    fill(c.a, Cell::A), fill(c.p, Cell::P), fill(&c.h, 1), fill(c.s0, Cell::S), fill(c.ds1, Cell::S);
    c.objective();
    std::fill_n(c.d, Cell::kLines, 0.0), std::fill_n(c.dp, Cell::P + 1, 0.0), std::fill_n(c.ds0, Cell::S, 0.0);
    c.dh = 0;
    c.backward();
    for (int i = 0; i < Cell::A; ++i) check_near(c.d[i], difference(c, c.a[i]), kTolerance, name + " da");
    for (int i = 0; i < Cell::P; ++i) check_near(c.dp[i], difference(c, c.p[i]), kTolerance, name + " dp");
    for (int i = 0; i < Cell::S; ++i) check_near(c.ds0[i], difference(c, c.s0[i]), kTolerance, name + " ds0");
    check_near(c.dh, difference(c, c.h), kTolerance, name + " dh");
  }
}

template <class Cell, class = void>
struct IsStaged : std::false_type {};
template <class Cell>
struct IsStaged<Cell, std::void_t<decltype(Cell::kStages)>> : std::true_type {};

template <class Cell>
void check() {
  if constexpr (IsStaged<Cell>::value)
    check_multi_stage<Cell>();
  else
    check_gradients<Cell>();
}

template <class... Cells>
void check_all(bptt::cells::List<Cells...>) {
  (check<Cells>(), ...);
}

}  // namespace

int main() {
  check_all(bptt::cells::All{});
  check_nothing_stored<bptt::cells::SLSTM>();
  check_nothing_stored<bptt::cells::SLSTMExp>();
  check_tie();
  return finish();
}
