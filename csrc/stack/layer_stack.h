// SPDX-License-Identifier: Apache-2.0
// A whole call: its arrays and weights go to one pass for each kernel, which the schedule runs. One kernel without
// options is called at once, on the caller's own arrays.
#pragma once

#include <atomic>
#include <memory>
#include <numeric>
#include <vector>

#include "core/threads/fork.h"
#include "stack/schedule.h"
#include "stack/stack.h"
#include "stack/stream.h"
#include "stack/tape.h"

namespace bptt::stack {

template <class T>
class LayerStack final : public Stack<T> {
 public:
  using Kernels = typename Schedule<T>::Kernels;

  /// The kernels are of this cell and these sizes.
  LayerStack(std::string cell, const StackSizes& sizes, Kernels kernels)
      : cell_(std::move(cell)), sizes_(sizes), kernels_(std::move(kernels)), schedule_(sizes, kernels_) {}

  const std::string& cell() const override { return cell_; }

  const StackSizes& sizes() const override { return sizes_; }
  ProductMode mode() const override { return kernels_[0]->mode(); }
  int states() const override { return kernels_[0]->states(); }
  Index width(int state) const override { return kernels_[0]->width(state); }

  /// Without bias a cell has no vectors but those that are no bias.
  KernelParameters parameters(Index k) const override {
    const sequence::Recurrence<T>& r = *kernels_[std::size_t(k)];
    const Index H = sizes_.hidden, rows = checked_mul(r.gates(), H);
    KernelParameters p;
    p.weight_ih = {rows, schedule_.input(k / sizes_.directions)};
    p.weight_hh = {rows, r.width(0) / sizes_.heads};
    if (sizes_.bias) p.bias = {rows, 1, true};
    if (sizes_.bias || !r.vectors_are_bias()) p.vectors = {r.vectors(), H};
    if (r.projects()) p.projection = {r.width(0), H};
    return p;
  }

  sequence::Plan plan(Index steps, Index batch, bool backward) const override {
    return kernels_[0]->plan(steps, batch, Pool::size(), backward);
  }

  bool runs_in_parallel(const OuterShape& outer, const std::vector<const CallOptions*>& options,
                        bool training) const override {
    const CallOptions& first = options.empty() ? no_options() : *options[0];
    const sequence::BatchSizes batch_sizes =
        first.order ? first.order->batch_sizes() : sequence::BatchSizes{outer.steps, outer.batch};
    return schedule_.in_parallel(batch_sizes,
                                 training && sequence::measure_cuts(batch_sizes, first.segment).segments > 1);
  }

  Index memory(const OuterShape& outer, const std::vector<const CallOptions*>& options, bool training) const override {
    DryRun run;
    const std::shared_ptr<const Packed> weights = pack_all({}, training, nullptr);
    // A caller that gives no states has one array of zeros for all of them; each returned state has its own array.
    const Widths width = widths(*kernels_[0]);
    const Index rows = checked_mul(this->kernels(), outer.batch), given = checked_mul(rows, sizes_.hidden);
    const Index returned = checked_mul(rows, std::accumulate(width.begin(), width.end(), Index(0)));
    const Buffer<T> initial(given), final(returned);
    StackForward<T> call{outer, nullptr, {}, nullptr, {}, {}};
    for (const CallOptions* each : options) call.options.push_back({each});
    std::unique_ptr<StackTape<T>> tape;
    forward(*weights, call, training ? &tape : nullptr, nullptr);
    if (training) {
      const Buffer<T> dfinal(given), dinitial(returned);
      StackBackward<T> back{};
      T wanted{};  // an address, to which nothing is written
      std::fill_n(back.dinitial, states(), &wanted);
      back.d.assign(kernels_.size(), {&wanted, &wanted, &wanted, &wanted, &wanted});
      backward(*tape, back, nullptr);
    }
    return run.peak();
  }

  /// All kernels' weights change at once: no call sees some of the old ones and some of the new.
  bool pack(const std::vector<sequence::Flat<const T>>& weights, bool training,
            Poll::Interrupted interrupted) override {
    std::shared_ptr<const Packed> replaced = pack_all(weights, training, interrupted);
    if (!replaced) return false;
    {
      const ForkLock lock;
      weights_.swap(replaced);
    }
    packed_ = true;
    return true;  // the old weights go back to the arena, after the lock is free
  }
  bool packed() const override { return packed_; }

  bool forward(const StackForward<T>& call, std::unique_ptr<StackTape<T>>* tape,
               Poll::Interrupted interrupted) const override {
    return forward(*current(), call, tape, interrupted);
  }

  bool is_short(const OuterShape& outer) const override {
    return kernels_.size() == 1 && !outer.packed && kernels_[0]->is_short(outer.steps, outer.batch, Pool::size());
  }
  bool forward(const sequence::Flat<const T>& weights, const StackForward<T>& call, std::unique_ptr<StackTape<T>>* tape,
               Poll::Interrupted interrupted) const override {
    if (!tape) return kernels_[0]->forward(weights, plain_call(call), nullptr, interrupted);
    std::unique_ptr<LayerTape<T>> passes = plain_tape(call.outer);
    const bool complete = kernels_[0]->forward(weights, plain_call(call), &passes->all[0]->tape, interrupted);
    *tape = std::move(passes);
    return complete;
  }

  bool backward(StackTape<T>& tape, const StackBackward<T>& call, Poll::Interrupted interrupted) const override {
    auto& passes = static_cast<LayerTape<T>&>(tape);
    const Retain<T> retain(passes, call.retain);
    std::vector<Buffer<T>> sums;  // the gradients of this call alone, where they are added to others
    const std::vector<BackwardCall<T>> calls = backward_calls(call, passes.all[0]->batch_sizes().batch, sums);
    bool complete = false;
    if (passes.plain) {
      BackwardCall<T> own = calls[0];
      own.dy = call.dy;
      own.dx = call.dx;
      if (!passes.keeps_weights()) own.weights = call.weights.at(0);
      complete = kernels_[0]->backward(passes.all[0]->tape, own, Pool::size(), interrupted);
    } else {
      complete = schedule_.backward(passes, call, calls, interrupted);
    }
    if (complete) add_sums(call, sums);
    return complete;
  }

  std::unique_ptr<StackStream<T>> stream(Index batch, const CallOptions& options) const override {
    return std::make_unique<LayerStream<T>>(kernels_, *current(), sizes_.input, batch, options);
  }

 private:
  using Packed = typename Schedule<T>::Packed;

  /// Null when called off.
  std::shared_ptr<const Packed> pack_all(const std::vector<sequence::Flat<const T>>& weights, bool training,
                                         Poll::Interrupted interrupted) const {
    auto made = std::make_shared<Packed>();
    for (std::size_t k = 0; k < kernels_.size(); ++k) {
      made->push_back(
          kernels_[k]->pack(weights.empty() ? sequence::Flat<const T>{} : weights[k], training, interrupted));
      if (!made->back()) return nullptr;
    }
    return made;
  }

  bool forward(const Packed& weights, const StackForward<T>& call, std::unique_ptr<StackTape<T>>* tape,
               Poll::Interrupted interrupted) const {
    const bool plain = call.options.empty() && kernels_.size() == 1;
    if (plain && !tape)
      return kernels_[0]->forward(weights[0], plain_call(call), nullptr, 0, Pool::size(), interrupted);
    std::unique_ptr<LayerTape<T>> passes;
    bool complete = false;
    if (plain) {
      passes = plain_tape(call.outer);
      complete =
          kernels_[0]->forward(weights[0], plain_call(call), &passes->all[0]->tape, 0, Pool::size(), interrupted);
    } else {
      passes = std::make_unique<LayerTape<T>>();
      for (std::size_t k = 0; k < kernels_.size(); ++k) passes->all.push_back(std::make_unique<DirectionPass<T>>());
      prepare(*passes, call, tape != nullptr);
      complete = schedule_.forward(*passes, weights, call, tape != nullptr, interrupted);
    }
    if (tape) *tape = std::move(passes);
    return complete;
  }

  std::shared_ptr<const Packed> current() const {
    const ForkLock lock;
    return weights_;
  }

  /// The tape of a call of one kernel on the caller's own arrays.
  std::unique_ptr<LayerTape<T>> plain_tape(const OuterShape& outer) const {
    auto passes = std::make_unique<LayerTape<T>>();
    passes->plain = true;
    passes->all.push_back(std::make_unique<DirectionPass<T>>());
    passes->all[0]->prepare(*kernels_[0], outer);
    return passes;
  }

  static ForwardCall<T> plain_call(const StackForward<T>& call) {
    ForwardCall<T> own{{call.outer.steps, call.outer.batch}, call.x, {}, call.y, {}};
    std::copy_n(call.initial, kMaxStates, own.initial);
    std::copy_n(call.final, kMaxStates, own.final);
    own.keep_weights = call.keep_weights;
    return own;
  }

  /// Hands the call's arrays and options to the passes.
  void prepare(LayerTape<T>& passes, const StackForward<T>& call, bool training) const {
    const T* initial[kMaxStates];
    T* final[kMaxStates];
    std::copy_n(call.initial, kMaxStates, initial);
    std::copy_n(call.final, kMaxStates, final);
    const Widths width = widths(*kernels_[0]);
    for (std::size_t k = 0; k < kernels_.size(); ++k) {
      const DirectionOptions<T> options = call.options.empty() ? DirectionOptions<T>{&no_options()} : call.options[k];
      passes.all[k]->prepare(*kernels_[k], schedule_.input(Index(k) / sizes_.directions), call.outer, initial, final,
                             options, training);
      next_states(initial, width, call.outer.batch);
      next_states(final, width, call.outer.batch);
    }
  }

  /// A call for each kernel, less dy and dx. `sums`: room for gradients that are added to others.
  std::vector<BackwardCall<T>> backward_calls(const StackBackward<T>& call, Index batch,
                                              std::vector<Buffer<T>>& sums) const {
    const T* dfinal[kMaxStates];
    T* dinitial[kMaxStates];
    std::copy_n(call.dfinal, kMaxStates, dfinal);
    std::copy_n(call.dinitial, kMaxStates, dinitial);
    const Widths width = widths(*kernels_[0]);
    std::vector<BackwardCall<T>> calls;
    for (std::size_t k = 0; k < kernels_.size(); ++k) {
      BackwardCall<T> own{};
      if (!call.d.empty()) own.d = call.d[k];
      if (!call.d.empty() && call.accumulate) {
        sums.emplace_back(parameters(Index(k)).size());
        own.d = parameters(Index(k)).at(sums.back().data());
      }
      std::copy_n(dfinal, kMaxStates, own.dfinal);
      if (call.dinitial[0]) std::copy_n(dinitial, kMaxStates, own.dinitial);
      if (!call.dreset_state.empty()) std::copy_n(call.dreset_state[k].data(), kMaxStates, own.dreset_state);
      if (!call.dsteps.empty()) std::copy_n(call.dsteps[k].data(), kMaxStates, own.dsteps);
      calls.push_back(own);
      next_states(dfinal, width, batch);
      if (dinitial[0]) next_states(dinitial, width, batch);
    }
    return calls;
  }

  /// Adds the gradients of an accumulating call to those of the caller.
  void add_sums(const StackBackward<T>& call, std::vector<Buffer<T>>& sums) const {
    for (std::size_t k = 0; k < sums.size(); ++k) {
      const std::array<ParameterShape, 5> shapes = parameters(Index(k)).all();
      const std::array<T*, 5> target = call.d[k].all();
      const T* from = sums[k].data();
      for (std::size_t i = 0; i < shapes.size(); ++i) {
        for (Index n = 0; n < shapes[i].size(); ++n) target[i][n] += *from++;
      }
    }
  }

  const std::string cell_;
  const StackSizes sizes_;
  const Kernels kernels_;
  const Schedule<T> schedule_;
  std::shared_ptr<const Packed> weights_;
  std::atomic<bool> packed_{false};
};

}  // namespace bptt::stack
