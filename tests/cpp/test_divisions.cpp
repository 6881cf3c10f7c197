// SPDX-License-Identifier: Apache-2.0
// One layer whose rows, units or both are divided among threads: the same bits as on one, forward and back, with rows
// of different lengths and without. Under a thread sanitizer: no thread reads what another may still write.
#include <numeric>
#include <vector>

#include "sequence/instantiate.h"
#include "sequence/sequence_order.h"
#include "test.h"

namespace {

using namespace bptt;
using namespace bptt::test;
using namespace bptt::sequence;

bool never() { return false; }

std::vector<float> numbers(Index n, std::uint32_t seed) {
  std::vector<float> values;
  for (Index i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.push_back(float(double(seed) / 2147483648.0 - 1.0) * 0.5f);
  }
  return values;
}

struct Sizes {
  Index T, B, I, H;
};

/// Every result of a forward and a backward call, one after the other.
std::vector<float> results(const CellKernels<float>& cell, const Sizes& s, const BatchSizes& batch_sizes,
                           const StateOptions<float>* options, int threads) {
  const CellRecurrence<float> layer(cell, s.I, s.H, s.H, 1, ProductMode::kFma);
  const Index rows = batch_sizes.total(), G = layer.gates(), S = layer.states(), P = layer.vectors();
  const Index sizes[] = {G * s.H * s.I, G * s.H * s.H, G * s.H, P * s.H};
  const auto at = [&](auto* flat) {
    return Flat<std::remove_pointer_t<decltype(flat)>>{flat, flat + sizes[0], flat + sizes[0] + sizes[1],
                                                       flat + sizes[0] + sizes[1] + sizes[2], nullptr};
  };
  const Index parameters = std::accumulate(std::begin(sizes), std::end(sizes), Index(0));
  const std::vector<float> weights = numbers(parameters, 1), x = numbers(rows * s.I, 2), dy = numbers(rows * s.H, 3);
  const std::vector<float> state = numbers(s.B * s.H, 4);
  std::vector<float> y(std::size_t(rows * s.H)), dx(x.size()), grads(weights.size());
  std::vector<float> final(std::size_t(S * s.B * s.H)), dinitial(final.size());
  ForwardCall<float> call{batch_sizes, x.data(), {}, y.data(), {}, options};
  BackwardCall<float> back{dy.data(), {}, dx.data(), {}, at(grads.data())};
  for (int i = 0; i < S; ++i) {
    call.initial[i] = back.dfinal[i] = state.data();
    call.final[i] = final.data() + i * s.B * s.H;
    back.dinitial[i] = dinitial.data() + i * s.B * s.H;
  }
  Tape<float> tape;
  check(layer.forward(layer.pack(at(weights.data()), true, &never), call, &tape, 0, threads, &never), "forward");
  check(layer.backward(tape, back, threads, &never), "backward");
  std::vector<float> all;
  for (const auto* each : {&y, &final, &dx, &dinitial, &grads}) all.insert(all.end(), each->begin(), each->end());
  return all;
}

void check_divisions(const CellKernels<float>& cell, const Sizes& s, const std::vector<Index>& lengths) {
  SequenceOrder order = SequenceOrder::padded(lengths, s.T, false);
  StateOptions<float> none;
  const bool ragged = !lengths.empty();
  const BatchSizes batch_sizes = ragged ? order.batch_sizes() : BatchSizes{s.T, s.B};
  const auto run = [&](int threads) { return results(cell, s, batch_sizes, ragged ? &none : nullptr, threads); };
  forced_division = Division{0, 0};
  const std::vector<float> one = run(1);
  for (const Division division : {Division{2, 1}, {1, 2}, {1, 3}, {2, 2}, {5, 1}, {2, 4}, {4, 4}, {4, 8}}) {
    forced_division = division;
    check(run(division.threads()) == one, "the same bits by " + std::to_string(division.groups) + " x " +
                                              std::to_string(division.members) + " threads");
  }
  forced_division = Division{0, 0};
  for (const int threads : {2, 8, 32}) check(run(threads) == one, "the same bits as planned");
}

}  // namespace

int main() {
  for (const CellKernels<float>* cell : {&kCellKernels<cells::LSTM, float>, &kCellKernels<cells::GRU, float>}) {
    check_divisions(*cell, {5, 33, 20, 70}, {});
    check_divisions(*cell, {40, 2, 3, 40}, {});
    check_divisions(*cell, {7, 6, 9, 33}, {7, 7, 5, 3, 1, 0});
  }
  return finish();
}
