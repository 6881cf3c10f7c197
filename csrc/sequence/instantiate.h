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

constexpr double kShortStep = 20e-3;  // seconds

template <class T>
class CellRecurrence final : public Recurrence<T> {
 public:
  CellRecurrence(const CellKernels<T>& kernels, Index input, Index hidden, Index projection, Index heads,
                 ProductMode mode)
      : kernels_(kernels),
        input_(input),
        hidden_(hidden),
        recurrent_(cell_.projects ? projection : hidden),
        heads_(cell_.heads ? heads : 1),
        mode_(Weights<T>::has_mode(mode, cell_, heads_) ? mode : ProductMode::kFma) {}

  int gates() const override { return cell_.gates; }
  int states() const override { return cell_.states; }
  int vectors() const override { return cell_.vectors - (cell_.bias_is_vectors ? cell_.gates : 0); }
  bool vectors_are_bias() const override { return cell_.vectors_are_bias; }
  bool projects() const override { return cell_.projects; }
  Index heads() const override { return heads_; }
  ProductMode mode() const override { return mode_; }
  Index width(int state) const override { return state == 0 ? recurrent_ : hidden_; }
  Plan plan(Index steps, Index batch, int threads, bool backward) const override {
    return make_plan<T>({steps, batch, input_, hidden_, cell_.gates, cell_.multi_stage, heads_, backward}, threads);
  }

  PackedWeights<T> pack(const Flat<const T>& from, bool training, Poll::Interrupted interrupted) const override {
    auto packed = make_weights({true, training});
    if (!DryRun::on() && !packed->pack(from, interrupted)) return nullptr;
    return packed;
  }

  bool forward(PackedWeights<T> weights, const ForwardCall<T>& call, Tape<T>* tape, Index segment, int threads,
               Poll::Interrupted interrupted) const override {
    const ForwardCall<T> own = prepared(call, tape, segment, weights);
    return Forward<T>(kernels_, std::move(weights), own, tape, plan(own.batch_sizes, threads, false), interrupted)
        .run();
  }

  /// One step on one thread, of cells whose units read all of h by FMAs in one stage; too short to be interrupted.
  bool is_short(Index steps, Index batch, int threads) const override {
    if (steps != 1 || cell_.multi_stage || heads_ > 1 || mode_ != ProductMode::kFma) return false;
    const Plan own = plan(steps, batch, threads, false);
    return own.division.threads() == 1 && own.step_time_s < kShortStep;
  }

  bool forward(const Flat<const T>& from, const ForwardCall<T>& call, Tape<T>* tape,
               Poll::Interrupted interrupted) const override {
    const Index batch = call.batch_sizes.batch;
    const bool panels = call.keep_weights && ceil_div(batch, kTileRows) > kFewBlocks;  // as fast as rows to copy
    const auto weights = make_weights({false, tape != nullptr, panels});
    const FreshWeights<T> fresh(*weights, from, batch, tape && call.keep_weights && !panels);
    const ForwardCall<T> own = prepared(call, tape, 0, weights);
    return Forward<T>(kernels_, weights, own, tape, plan(own.batch_sizes, 1, false), interrupted, &fresh).run();
  }

  bool backward(Tape<T>& tape, const BackwardCall<T>& call, int threads, Poll::Interrupted interrupted) const override {
    return Backward<T>(kernels_, tape, call, plan(tape.call.batch_sizes, threads, true), interrupted).run();
  }

  std::unique_ptr<ResumableCall> start(PackedWeights<T> weights, const ForwardCall<T>& call, Tape<T>* tape,
                                       Poll::Interrupted interrupted) const override {
    const ForwardCall<T> own = prepared(call, tape, 0, weights);
    auto run = std::make_unique<Forward<T>>(kernels_, std::move(weights), own, tape, plan(own.batch_sizes, 1, false),
                                            interrupted);
    run->begin();
    return run;
  }

  std::unique_ptr<ResumableCall> start(Tape<T>& tape, const BackwardCall<T>& call,
                                       Poll::Interrupted interrupted) const override {
    return std::make_unique<Backward<T>>(kernels_, tape, call, plan(tape.call.batch_sizes, 1, true), interrupted);
  }

  std::unique_ptr<Stream<T>> stream(PackedWeights<T> weights, Index batch,
                                    const StateOptions<T>* options) const override {
    return std::make_unique<CellStream<T>>(kernels_, std::move(weights), batch, options ? *options : none());
  }

 private:
  static const StateOptions<T>& none() {
    static const StateOptions<T> none;
    return none;
  }

  std::shared_ptr<Weights<T>> make_weights(const typename Weights<T>::Ways& ways) const {
    return std::make_shared<Weights<T>>(cell_, input_, hidden_, recurrent_, heads_, mode_, ways);
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
  Plan plan(const BatchSizes& batch_sizes, int threads, bool backward) const {
    const Index steps = batch_sizes.steps;
    return plan(steps, steps > 0 ? ceil_div(batch_sizes.total(), steps) : batch_sizes.batch, threads, backward);
  }

  /// Makes the buffers of a tape, as its call needs them.
  void allocate(Tape<T>& tape, Index segment, Index Hp) const {
    const StateOptions<T>* const options = tape.call.options;
    const Cuts cuts = measure_cuts(tape.call.batch_sizes, segment);
    const Index batch = tape.call.batch_sizes.batch, rows = cuts.longest;
    const Index more = rows + batch;                         // and what enters the step after it
    const Index others = checked_mul(cell_.states - 1, Hp);  // of a row
    tape.gates_width = Index(cell_.lines) * Hp, tape.Hp = Hp, tape.S = cell_.states;
    tape.named = cells::words(cell_.kept_names);
    const auto make = [](bool needed, Buffer<T>& buffer, Index count, Index width) {
      if (needed && count > 0 && width > 0) buffer = Buffer<T>(checked_mul(count, width));
    };
    make(true, tape.gates, rows, tape.gates_width);
    make(true, tape.others, options ? rows : more, others);
    make(cuts.segments > 1, tape.saved, checked_mul(cuts.segments, batch), others);
    if (options) {
      make(true, tape.operand, more, recurrent_);
      make(cell_.multi_stage, tape.scales, rows, kScales);
      make(true, tape.entering_others, more, others);
      make(options->rules.dropout > 0, tape.entering_h, more, Hp);
      make(options->rules.mixes(), tape.left_h, rows, Hp);
    }
    // In a dry run, in which there may be more steps than memory has room for their cuts, two segments are as many.
    const std::vector<Index> counted(cuts.segments > 1 ? 3 : 2);
    tape.cuts = DryRun::on() ? counted : cut(tape.call.batch_sizes, segment);
  }

  const CellKernels<T>& kernels_;
  const cells::Info& cell_ = kernels_.cell;
  const Index input_, hidden_, recurrent_, heads_;
  const ProductMode mode_;
};

template <class T>
std::unique_ptr<Recurrence<T>> make_recurrence(const std::string& name, Index input, Index hidden, Index projection,
                                               Index heads, ProductMode mode) {
  const CellKernels<T>* kernels = find_kernels<T>(name);
  if (!kernels) return nullptr;
  return std::make_unique<CellRecurrence<T>>(*kernels, input, hidden, projection, heads, mode);
}

}  // namespace bptt::sequence
