// SPDX-License-Identifier: Apache-2.0
// Recurrence, once for all cells, and the kernels of each. Included by one translation unit per dtype, which is most of
// the build's time.
#pragma once

#include <stdexcept>

#include "core/gemm/product.h"
#include "core/gemm/sums.h"
#include "sequence/backward.h"
#include "sequence/forward.h"
#include "sequence/kernels.h"
#include "sequence/planner.h"
#include "sequence/recurrence.h"
#include "sequence/stream.h"

namespace bptt::sequence {

template <class T>
class CellRecurrence final : public Recurrence<T> {
 public:
  CellRecurrence(const CellKernels<T>& kernels, Index input, Index hidden, Index projection, Index heads)
      : kernels_(kernels),
        input_(input),
        hidden_(hidden),
        recurrent_(cell_.projects ? projection : hidden),
        heads_(cell_.heads ? heads : 1) {}

  int gates() const override { return cell_.gates; }
  int states() const override { return cell_.states; }
  int vectors() const override { return cell_.vectors - (cell_.bias_is_vectors ? cell_.gates : 0); }
  bool vectors_are_bias() const override { return cell_.vectors_are_bias; }
  bool projects() const override { return cell_.projects; }
  Index heads() const override { return heads_; }
  Index width(int state) const override { return state == 0 ? recurrent_ : hidden_; }
  Plan plan(Index steps, Index batch, int threads) const override {
    return make_plan<T>({steps, batch, input_, hidden_, cell_.gates, cell_.multi_stage, heads_}, threads);
  }

  PackedWeights<T> pack(const Flat<const T>& from, bool training, Poll::Interrupted interrupted) const override {
    auto packed = std::make_shared<Weights<T>>(cell_, input_, hidden_, recurrent_, heads_);
    if (!packed->pack(from, training, interrupted)) return nullptr;
    return packed;
  }

  bool forward(PackedWeights<T> weights, const ForwardCall<T>& call, Tape<T>* tape, Index segment, int threads,
               Poll::Interrupted interrupted) const override {
    const ForwardCall<T> own = prepared(call, tape, segment, weights);
    return Forward<T>(kernels_, std::move(weights), own, tape, plan(own.batch_sizes, threads), interrupted).run();
  }

  bool backward(Tape<T>& tape, const BackwardCall<T>& call, int threads, Poll::Interrupted interrupted) const override {
    return Backward<T>(kernels_, tape, call, plan(tape.call.batch_sizes, threads), interrupted).run();
  }

  std::unique_ptr<ResumableCall> start(PackedWeights<T> weights, const ForwardCall<T>& call, Tape<T>* tape,
                                       Poll::Interrupted interrupted) const override {
    const ForwardCall<T> own = prepared(call, tape, 0, weights);
    auto run =
        std::make_unique<Forward<T>>(kernels_, std::move(weights), own, tape, plan(own.batch_sizes, 1), interrupted);
    run->begin();
    return run;
  }

  std::unique_ptr<ResumableCall> start(Tape<T>& tape, const BackwardCall<T>& call,
                                       Poll::Interrupted interrupted) const override {
    return std::make_unique<Backward<T>>(kernels_, tape, call, plan(tape.call.batch_sizes, 1), interrupted);
  }

  typename Recurrence<T>::Memory memory(const BatchSizes& batch_sizes, Index segment, const StateOptions<T>* options,
                                        bool training, int threads) const override {
    if (cell_.multi_stage && !options) options = &none();
    const Index Hp = padded(hidden_), B = batch_sizes.batch, L = Index(cell_.lines), G = cell_.gates;
    Index bytes[3] = {};
    const auto add = [&](int to, Index values, std::size_t size = sizeof(T)) {
      if (values > 0) bytes[to] += Index(Arena::size_class(std::size_t(checked_mul(values, Index(size)))));
    };
    const Index depth = Weights<T>::hidden_depth(cell_, hidden_, recurrent_, heads_);
    add(0, Hp * G * input_), add(0, Hp * cell_.hidden_gates * depth), add(0, Hp * cell_.accumulators),
        add(0, Hp * cell_.vectors);
    if (cell_.second) add(0, Hp * recurrent_);
    if (cell_.projects) add(0, hidden_ * padded(recurrent_));
    const Cuts cuts = measure_cuts(batch_sizes, training ? segment : 0);
    if (!training || cuts.segments > 1) {  // a forward pass without a tape, or with one of another segment
      const Plan p = plan(batch_sizes, threads);
      if (p.hoisted || cell_.multi_stage) add(2, (p.hoisted ? p.chunk : 1) * checked_mul(B, L * Hp));
      add(2, checked_mul(cell_.states - 1, checked_mul(B, Hp)));
      if (options) add(2, checked_mul(2 * B, recurrent_));
      if (cell_.multi_stage) add(2, checked_mul(B, (cell_.states + 1) * Hp)), add(2, checked_mul(B, kScales));
    }
    if (!training) return {bytes[0], bytes[1], bytes[2]};
    const Index forward = std::exchange(bytes[2], 0);
    add(0, input_ > kNarrow ? G * hidden_ * padded(input_) : input_ * G * Hp);
    add(0, cell_.hidden_gates * (cell_.heads ? depth : hidden_) * padded(recurrent_));
    if (cell_.second) add(0, hidden_ * padded(recurrent_));
    if (cell_.projects) add(0, recurrent_ * Hp);
    const Sizes s = sizes(batch_sizes, cuts, options);
    for (const Index n : {s.gates, s.others, s.operand, s.entering_h, s.entering_others, s.left_h, s.scales, s.saved})
      add(1, n);
    add(2, checked_mul(B, cell_.states * Hp)), add(2, checked_mul(B, Hp));
    const auto vectors = SumsByRow<T>::sizes(B, cell_.vectors * Hp, batch_sizes.steps);
    add(2, vectors.first), add(2, vectors.second, sizeof(double));
    if (options && options->dropout > 0) add(1, checked_mul(B, Hp));
    if (!options) add(2, std::min(batch_sizes.steps, chunk_steps(batch_sizes)) * B * hidden_);
    if (cuts.segments > 1) add(2, checked_mul(B, L * Hp)), add(2, checked_mul(B, cell_.states * hidden_));
    if (cell_.multi_stage) add(2, checked_mul(B, L * Hp)), add(2, checked_mul(B, 2 * (cell_.states + 1) * Hp));
    const typename WeightGradient<T>::Sizes sums(cell_, input_, hidden_, recurrent_, recurrent_ / heads_,
                                                 batch_sizes.total(), threads);
    for (const Index n : {sums.dwx, sums.db, sums.panels, sums.part}) add(2, n);
    return {bytes[0], bytes[1], std::max(forward, bytes[2])};
  }

  std::unique_ptr<Stream<T>> stream(PackedWeights<T> weights, Index batch,
                                    const StateOptions<T>* options) const override {
    return std::make_unique<CellStream<T>>(kernels_, std::move(weights), batch, options ? *options : none());
  }

 private:
  static const StateOptions<T>& none() {
    static constexpr StateOptions<T> none = StateOptions<T>();
    return none;
  }

  /// The call as this cell takes it, and the tape made ready for it.
  ForwardCall<T> prepared(ForwardCall<T> call, Tape<T>* tape, Index segment, const PackedWeights<T>& weights) const {
    if (cell_.multi_stage && !call.options) call.options = &none();
    if (!tape) return call;
    if (!weights->trainable()) throw std::logic_error("Recurrence.forward: the weights were packed for inference only");
    tape->call = call;
    tape->call.stop = nullptr;  // this call's alone
    tape->weights = weights;
    allocate(*tape, segment, weights->Hp);
    return call;
  }

  /// As for a batch of the rows that there are on average.
  Plan plan(const BatchSizes& batch_sizes, int threads) const {
    return plan(batch_sizes.steps,
                batch_sizes.steps > 0 ? ceil_div(batch_sizes.total(), batch_sizes.steps) : batch_sizes.batch, threads);
  }

  /// Values in each buffer of a tape.
  struct Sizes {
    Index gates = 0, others = 0, operand = 0, entering_h = 0, entering_others = 0, left_h = 0, scales = 0, saved = 0;
  };

  static Index padded(Index n) { return ceil_div(n, Vec<T>::kSize) * Vec<T>::kSize; }

  Sizes sizes(const BatchSizes& batch_sizes, const Cuts& cuts, const StateOptions<T>* options) const {
    const Index Hp = padded(hidden_), segments = cuts.segments, rows = cuts.longest;
    const Index more = rows + batch_sizes.batch;  // and what enters the step after it
    Sizes s;
    s.gates = checked_mul(rows, Index(cell_.lines) * Hp);
    const Index others = checked_mul(cell_.states - 1, Hp);  // of a row
    s.others = checked_mul(options ? rows : more, others);
    if (segments > 1) s.saved = checked_mul(checked_mul(segments, batch_sizes.batch), others);
    if (!options) return s;
    s.operand = checked_mul(more, recurrent_);
    if (cell_.multi_stage) s.scales = checked_mul(rows, kScales);
    s.entering_others = checked_mul(more, others);
    if (options->dropout > 0) s.entering_h = checked_mul(more, Hp);
    if (options->mixes()) s.left_h = checked_mul(rows, Hp);
    return s;
  }

  void allocate(Tape<T>& tape, Index segment, Index Hp) const {
    tape.cuts = cut(tape.call.batch_sizes, segment);
    tape.gates_width = Index(cell_.lines) * Hp, tape.Hp = Hp, tape.S = cell_.states;
    tape.named = cells::words(cell_.kept_names);
    const Sizes s = sizes(tape.call.batch_sizes, measure_cuts(tape.call.batch_sizes, segment), tape.call.options);
    const auto make = [](Buffer<T>& buffer, Index size) {
      if (size > 0) buffer = Buffer<T>(size);
    };
    make(tape.gates, s.gates), make(tape.others, s.others), make(tape.operand, s.operand);
    make(tape.entering_h, s.entering_h), make(tape.entering_others, s.entering_others), make(tape.left_h, s.left_h);
    make(tape.scales, s.scales), make(tape.saved, s.saved);
  }

  const CellKernels<T>& kernels_;
  const cells::Info& cell_ = kernels_.cell;
  const Index input_, hidden_, recurrent_, heads_;
};

template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden, Index projection,
                                               Index heads) {
  const CellKernels<T>* kernels = find_kernels<T>(name);
  if (!kernels) return nullptr;
  return std::make_unique<CellRecurrence<T>>(*kernels, input, hidden, projection, heads);
}

}  // namespace bptt::sequence
