// SPDX-License-Identifier: Apache-2.0
// A stack without Python: two layers in both directions, of an LSTM and of an sLSTM with heads and without. Its
// gradients against central differences, with rows of different lengths and without, and its training.
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "sequence/instantiate.h"
#include "stack/layer_stack.h"
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
  Model(const sequence::CellKernels<double>& cell, Index heads, const std::vector<Index>& lengths)
      : stack_(cell.cell.name, {I, H, 0, kLayers, kDirections, true, heads}, kernels(cell, heads)) {
    for (Index k = 0; k < kKernels; ++k) {
      params.push_back(numbers(stack_.parameters(k).size(), std::uint32_t(k + 1)));
      grads.emplace_back(params.back().size(), 0.0);
    }
    for (const bool reverse : {false, true}) {
      stack::CallOptions& each = options_[std::size_t(reverse)];
      if (reverse || !lengths.empty()) {
        const std::vector<Index> n = lengths.empty() ? std::vector<Index>(std::size_t(B), T) : lengths;
        each.order = std::make_shared<sequence::SequenceOrder>(sequence::SequenceOrder::padded(n, T, reverse));
      }
    }
  }

  /// The squared distance of y to the target, halved; with `backward`, its gradients.
  double loss(bool backward) {
    std::vector<sequence::Flat<const double>> weights;
    for (Index k = 0; k < kKernels; ++k) {
      weights.push_back(stack_.parameters(k).at(static_cast<const double*>(params[std::size_t(k)].data())));
    }
    test::check(stack_.pack(weights, true, &never), "pack");
    std::vector<double> zeros(std::size_t(kKernels * B * H), 0.0);
    std::vector<std::vector<double>> others(std::size_t(stack_.states()), zeros);
    std::vector<double> y(std::size_t(T * B * kDirections * H)), dy(y.size()), dx(std::size_t(T * B * I));
    stack::StackForward<double> call{stack::OuterShape::of(T, B), x.data(), {}, y.data(), {}, {}};
    for (int s = 0; s < stack_.states(); ++s) {
      call.initial[s] = zeros.data();
      call.final[s] = others[std::size_t(s)].data();
    }
    for (Index k = 0; k < kKernels; ++k) call.options.push_back({&options_[std::size_t(k % kDirections)]});
    std::unique_ptr<stack::StackTape<double>> tape;
    test::check(stack_.forward(call, &tape, &never), "forward");
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      dy[i] = y[i] - target[i];
      sum += 0.5 * dy[i] * dy[i];
    }
    if (!backward) return sum;
    stack::StackBackward<double> back{};
    back.dy = with_dy ? dy.data() : nullptr;
    back.dx = dx.data();
    for (int s = 0; s < stack_.states(); ++s) {
      back.dfinal[s] = zeros.data();
      back.dinitial[s] = others[std::size_t(s)].data();
    }
    for (Index k = 0; k < kKernels; ++k) back.d.push_back(stack_.parameters(k).at(grads[std::size_t(k)].data()));
    test::check(stack_.backward(*tape, back, &never), "backward");
    return sum;
  }

  bool with_dy = true;
  std::vector<std::vector<double>> params, grads;
  std::vector<double> x = numbers(T * B * I, 7), target = numbers(T * B * kDirections * H, 8);

 private:
  static stack::LayerStack<double>::Kernels kernels(const sequence::CellKernels<double>& cell, Index heads) {
    stack::LayerStack<double>::Kernels all;
    for (Index k = 0; k < kKernels; ++k) {
      const Index input = k < kDirections ? I : kDirections * H;
      all.push_back(std::make_unique<CellRecurrence<double>>(cell, input, H, H, heads, ProductMode::kFma));
    }
    return all;
  }

  stack::LayerStack<double> stack_;
  std::array<stack::CallOptions, kDirections> options_;
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
  model.with_dy = false;  // zeros, which nobody made
  model.loss(true);
  for (const std::vector<double>& each : model.grads) {
    for (const double value : each) test::check(value == 0, "a gradient without dy");
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
