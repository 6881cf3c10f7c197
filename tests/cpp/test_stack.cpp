// SPDX-License-Identifier: Apache-2.0
// A stack without Python: two layers in both directions, of an LSTM and of an sLSTM with heads and without. Its
// gradients against central differences, with rows of different lengths and without, and its training.
#include <cmath>
#include <memory>
#include <vector>

#include "sequence/instantiate.h"
#include "stack/flat.h"
#include "stack/stack.h"
#include "test.h"

namespace {

using namespace bptt;
using sequence::CellRecurrence;

constexpr Index I = 2, H = 3, T = 6, B = 3, kLayers = 2, kDirections = 2, kKernels = kLayers * kDirections;

bool never() { return false; }

/// Numbers of [-1, 1), the same ones each time.
std::vector<double> numbers(Index n, std::uint32_t seed) {
  std::vector<double> values;
  for (Index i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.push_back(double(seed) / 2147483648.0 - 1.0);
  }
  return values;
}

class Model {
 public:
  Model(const sequence::CellKernels<double>& cell, Index heads, std::vector<Index> lengths) : states(cell.cell.states) {
    for (Index k = 0; k < kKernels; ++k) {
      const Index input = k < kDirections ? I : kDirections * H;
      kernels.push_back(std::make_unique<CellRecurrence<double>>(cell, input, H, H, heads));
      const Index size = stack::flat_parts(*kernels.back(), input, true, static_cast<double*>(nullptr)).size;
      params.push_back(numbers(size, std::uint32_t(k + 1)));
      grads.emplace_back(std::size_t(size), 0.0);
    }
    for (const bool reverse : {false, true}) {
      stack::CallOptions each;
      if (reverse || !lengths.empty()) {
        const std::vector<Index> n = lengths.empty() ? std::vector<Index>(std::size_t(B), T) : lengths;
        each.order = std::make_shared<sequence::SequenceOrder>(sequence::SequenceOrder::padded(n, T, reverse));
      }
      options.push_back(each);
    }
  }

  /// The squared distance of y to `target`, halved; with `backward`, its gradients.
  double loss(bool backward) {
    std::vector<const sequence::Recurrence<double>*> all;
    for (Index k = 0; k < kKernels; ++k) {
      const auto i = std::size_t(k);
      test::check(kernels[i]->pack(stack::flat_parts(*kernels[i], inputs(k), true, (const double*)params[i].data()),
                                   true, &never),
                  "pack");
      all.push_back(kernels[i].get());
    }
    const stack::Stack<double> model(all, I, kDirections);
    const stack::OuterShape outer = stack::OuterShape::of(T, B);
    stack::StackTape<double> tape;
    std::vector<double> zeros(std::size_t(kKernels * B * H), 0.0);
    std::vector<std::vector<double>> final_states(std::size_t(states), zeros);
    for (Index k = 0; k < kKernels; ++k) {
      stack::DirectionArrays<double> arrays;
      for (int s = 0; s < states; ++s) {
        arrays.initial[s] = zeros.data();
        arrays.final[s] = final_states[std::size_t(s)].data() + k * B * H;
      }
      tape.all.push_back(std::make_unique<stack::DirectionPass<double>>());
      tape.all.back()->prepare(*kernels[std::size_t(k)], inputs(k), outer, arrays,
                               options[std::size_t(k % kDirections)], true);
    }
    std::vector<double> y(std::size_t(T * B * kDirections * H)), dy(y.size()), dx(std::size_t(T * B * I));
    test::check(model.forward(tape, outer, x.data(), y.data(), true, 0, &never), "forward");
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      dy[i] = y[i] - target[i];
      sum += 0.5 * dy[i] * dy[i];
    }
    if (!backward) return sum;
    std::vector<sequence::BackwardCall<double>> calls;
    std::vector<double> dinitial(zeros);
    for (Index k = 0; k < kKernels; ++k) {
      const auto i = std::size_t(k);
      sequence::BackwardCall<double> call{};
      call.d = stack::flat_parts(*kernels[i], inputs(k), true, grads[i].data());
      for (int s = 0; s < states; ++s) {
        call.dfinal[s] = zeros.data();
        call.dinitial[s] = dinitial.data() + k * B * H;
      }
      calls.push_back(call);
    }
    test::check(model.backward(tape, outer, calls, dy.data(), dx.data(), &never), "backward");
    return sum;
  }

  static Index inputs(Index k) { return k < kDirections ? I : kDirections * H; }

  int states;
  std::vector<std::unique_ptr<CellRecurrence<double>>> kernels;
  std::vector<std::vector<double>> params, grads;
  std::vector<stack::CallOptions> options;
  std::vector<double> x = numbers(T * B * I, 7), target = numbers(T * B * kDirections * H, 8);
};

void test_gradients(const sequence::CellKernels<double>& cell, Index heads, const std::vector<Index>& lengths) {
  Model model(cell, heads, lengths);
  model.loss(true);
  const auto grads = model.grads;
  constexpr double kStep = 1e-6;  // the error of a central difference is about its square, and 1e-16 / 1e-6
  for (std::size_t k = 0; k < model.params.size(); ++k) {
    for (std::size_t i = 0; i < model.params[k].size(); i += 5) {
      const double value = model.params[k][i];
      model.params[k][i] = value + kStep;
      const double above = model.loss(false);
      model.params[k][i] = value - kStep;
      const double below = model.loss(false);
      model.params[k][i] = value;
      test::check_near(grads[k][i], (above - below) / (2 * kStep), 1e-7,
                       "gradient " + std::to_string(i) + " of kernel " + std::to_string(k));
    }
  }
}

void test_training() {
  Model model(sequence::kCellKernels<cells::LSTM, double>, 1, {});
  const double first = model.loss(true);
  double last = first;
  for (int update = 0; update < 200; ++update) {
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      for (std::size_t i = 0; i < model.params[k].size(); ++i) model.params[k][i] -= 0.1 * model.grads[k][i];
    }
    last = model.loss(true);
  }
  test::check(last < 0.5 * first,
              "the loss falls to less than half: " + std::to_string(first) + " to " + std::to_string(last));
}

}  // namespace

int main() {
  for (const int threads : {1, 2}) {
    bptt::Pool::size() = threads;
    for (const std::vector<Index>& lengths : {std::vector<Index>(), {4, 6, 0}}) {
      test_gradients(sequence::kCellKernels<cells::LSTM, double>, 1, lengths);
      test_gradients(sequence::kCellKernels<cells::SLSTM, double>, 1, lengths);
      test_gradients(sequence::kCellKernels<cells::SLSTM, double>, H, lengths);
    }
    test_training();
  }
  return bptt::test::finish();
}
