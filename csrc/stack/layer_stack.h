// SPDX-License-Identifier: Apache-2.0
// The schedule of a whole call: layers of one direction or two, with what CallOptions ask for. One kernel without
// options is called at once, on the caller's own arrays.
//
// Both cores, where one layer alone does not use them well: two directions run in parallel; so do layers of one
// direction, piece by piece (sequence/wavefront.h). Those hand on rows in the kernels' order; with two directions each
// layer has its outputs as the caller sees rows, since the next layer reads them in both orders.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/threads/fork.h"
#include "sequence/planner.h"
#include "sequence/wavefront.h"
#include "stack/memory.h"
#include "stack/stack.h"
#include "stack/stream.h"
#include "stack/tape.h"

namespace bptt::stack {

template <class T>
class LayerStack final : public Stack<T> {
 public:
  using Kernels = std::vector<std::unique_ptr<sequence::Recurrence<T>>>;

  /// The kernels are of this cell and these sizes.
  LayerStack(std::string cell, const StackSizes& sizes, Kernels kernels)
      : cell_(std::move(cell)), sizes_(sizes), D_(sizes.directions), kernels_(std::move(kernels)) {}

  const std::string& cell() const override { return cell_; }

  const StackSizes& sizes() const override { return sizes_; }
  int states() const override { return kernels_[0]->states(); }
  Index width(int state) const override { return kernels_[0]->width(state); }

  /// Without bias a cell has no vectors but those that are no bias.
  KernelParameters parameters(Index k) const override {
    const sequence::Recurrence<T>& r = *kernels_[std::size_t(k)];
    const Index H = sizes_.hidden, rows = checked_mul(r.gates(), H);
    KernelParameters p;
    p.weight_ih = {rows, input(k / D_)};
    p.weight_hh = {rows, r.width(0) / sizes_.heads};
    if (sizes_.bias) p.bias = {rows, 1, true};
    if (sizes_.bias || !r.vectors_are_bias()) p.vectors = {r.vectors(), H};
    if (r.projects()) p.projection = {r.width(0), H};
    return p;
  }

  sequence::Plan plan(Index steps, Index batch) const override { return kernels_[0]->plan(steps, batch, Pool::size()); }

  bool runs_in_parallel(const OuterShape& outer, const std::vector<const CallOptions*>& options,
                        bool training) const override {
    const CallOptions& first = options.empty() ? no_options() : *options[0];
    const sequence::BatchSizes batch_sizes =
        first.order ? first.order->batch_sizes() : sequence::BatchSizes{outer.steps, outer.batch};
    return in_parallel(batch_sizes, training && sequence::measure_cuts(batch_sizes, first.segment).segments > 1);
  }

  Index memory(const OuterShape& outer, const std::vector<const CallOptions*>& options, bool training) const override {
    return MemoryEstimate<T>(sizes_, kernels_, outer, options, training, runs_in_parallel(outer, options, training))
        .bytes();
  }

  /// All kernels' weights change at once: no call sees some of the old ones and some of the new.
  bool pack(const std::vector<sequence::Flat<const T>>& weights, bool training,
            Poll::Interrupted interrupted) override {
    auto made = std::make_shared<Packed>();
    for (std::size_t k = 0; k < kernels_.size(); ++k) {
      made->push_back(kernels_[k]->pack(weights[k], training, interrupted));
      if (!made->back()) return false;
    }
    std::shared_ptr<const Packed> replaced = std::move(made);
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
    const std::shared_ptr<const Packed> weights = current();
    const bool plain = call.options.empty() && kernels_.size() == 1;
    if (plain && !tape)
      return kernels_[0]->forward((*weights)[0], plain_call(call), nullptr, 0, Pool::size(), interrupted);
    auto passes = std::make_unique<LayerTape<T>>();
    passes->plain = plain;
    for (std::size_t k = 0; k < kernels_.size(); ++k) passes->all.push_back(std::make_unique<DirectionPass<T>>());
    bool complete = false;
    if (plain) {
      passes->all[0]->prepare(*kernels_[0], call.outer);
      complete =
          kernels_[0]->forward((*weights)[0], plain_call(call), &passes->all[0]->tape, 0, Pool::size(), interrupted);
    } else {
      prepare(*passes, call, tape != nullptr);
      complete = run_forward(*passes, *weights, call, tape != nullptr, interrupted);
    }
    if (tape) *tape = std::move(passes);
    return complete;
  }

  bool backward(StackTape<T>& tape, const StackBackward<T>& call, Poll::Interrupted interrupted) const override {
    auto& passes = static_cast<LayerTape<T>&>(tape);
    const Retain retain(passes, call.retain);
    std::vector<Buffer<T>> sums;  // the gradients of this call alone, where they are added to others
    const std::vector<BackwardCall<T>> calls = backward_calls(call, passes.all[0]->batch_sizes().batch, sums);
    bool complete = false;
    if (passes.plain) {
      BackwardCall<T> own = calls[0];
      own.dy = call.dy;
      own.dx = call.dx;
      complete = kernels_[0]->backward(passes.all[0]->tape, own, Pool::size(), interrupted);
    } else {
      complete = run_backward(passes, call, calls, interrupted);
    }
    if (complete) add_sums(call, sums);
    return complete;
  }

  std::unique_ptr<StackStream<T>> stream(Index batch, const CallOptions& options) const override {
    return std::make_unique<LayerStream<T>>(kernels_, *current(), sizes_.input, batch, options);
  }

 private:
  using Packed = std::vector<sequence::PackedWeights<T>>;  // of each kernel
  using Runs = std::vector<std::unique_ptr<sequence::ResumableCall>>;

  /// While it lives a backward pass uses the tape: after it the tape is as before, or its memory is free.
  class Retain {
   public:
    Retain(LayerTape<T>& tape, bool retain) : tape_(tape), retain_(retain) {
      for (const auto& pass : tape.all) {
        if (retain) pass->save_kept();
      }
    }
    Retain(const Retain&) = delete;
    ~Retain() {
      if (!retain_) tape_.release();
      for (const auto& pass : tape_.all) pass->restore_kept();
    }

   private:
    LayerTape<T>& tape_;
    const bool retain_;
  };

  /// Tapes of several segments hold one at a time.
  bool in_parallel(const sequence::BatchSizes& batch_sizes, bool segmented) const {
    const int threads = Pool::size();
    if (D_ > 1 || sizes_.layers == 1 || segmented || threads == 1 || batch_sizes.total() == 0) return false;
    std::vector<double> each;
    double serial = 0;
    for (Index k = 0; k < sizes_.layers; ++k) {
      each.push_back(seconds(k, batch_sizes, 1));
      serial += seconds(k, batch_sizes, threads);
    }
    return sequence::parallel_time(each, threads, sequence::count_pieces(batch_sizes)) < serial;
  }

  std::shared_ptr<const Packed> current() const {
    const ForkLock lock;
    return weights_;
  }

  /// Of y: D*R.
  Index output() const { return D_ * kernels_[0]->width(0); }
  Index input(Index layer) const { return layer == 0 ? sizes_.input : output(); }

  static ForwardCall<T> plain_call(const StackForward<T>& call) {
    ForwardCall<T> own{{call.outer.steps, call.outer.batch}, call.x, {}, call.y, {}};
    std::copy_n(call.initial, kMaxStates, own.initial);
    std::copy_n(call.final, kMaxStates, own.final);
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
      passes.all[k]->prepare(*kernels_[k], input(Index(k) / D_), call.outer, initial, final, options, training);
      next_states(initial, width, call.outer.batch);
      next_states(final, width, call.outer.batch);
    }
  }

  DirectionPass<T>& pass(LayerTape<T>& passes, Index layer, Index direction) const {
    return *passes.all[std::size_t(layer * D_ + direction)];
  }

  /// x -> y of the prepared passes; false when called off.
  bool run_forward(LayerTape<T>& passes, const Packed& weights, const StackForward<T>& call, bool training,
                   Poll::Interrupted interrupted) const {
    const Index segment = call.options.empty() ? 0 : call.options[0].options->segment;
    const sequence::BatchSizes& batch_sizes = passes.all[0]->batch_sizes();
    const bool segmented = training && sequence::measure_cuts(batch_sizes, segment).segments > 1;
    const Index L = sizes_.layers;
    passes.outputs.resize(std::size_t(L - 1));
    if (in_parallel(batch_sizes, segmented)) return forward_in_parallel(passes, weights, call, training, interrupted);
    std::atomic<bool> stop{false};
    StridedRows<const T> in{call.x, sizes_.input, false};
    for (Index k = 0; k < L; ++k) {
      const StridedRows<T> out = output_of(k, passes, call);
      const bool complete = run_directions(k, batch_sizes, [&](int d, int threads) {
        DirectionPass<T>& own = pass(passes, k, d);
        const StridedRows<T> part{out.data + d * (out.ld / D_), out.ld, out.ordered};
        own.open(in, part, &stop);
        if (!own.forward(kernel(k, d), weights[std::size_t(k * D_ + d)], training, segment, threads, interrupted))
          return false;
        own.close(part);
        return true;
      });
      if (!complete) return false;
      in = {out.data, out.ld, out.ordered};
      bool kept = training && D_ == 1;  // the layer's input: also the y that the tape of the layer before reads again
      for (Index d = 0; d < D_; ++d) {
        kept = kept || (training && !pass(passes, k, d).has_copied_x());
        if (!training) pass(passes, k, d).release();
      }
      if (k > 0 && !kept) passes.outputs[std::size_t(k - 1)] = {};
    }
    return true;
  }

  /// The same with the layers in parallel.
  bool forward_in_parallel(LayerTape<T>& passes, const Packed& weights, const StackForward<T>& call, bool training,
                           Poll::Interrupted interrupted) const {
    std::atomic<bool> stop{false};
    const std::vector<Index> cuts = sequence::pieces(passes.all[0]->batch_sizes());
    Runs runs;
    StridedRows<const T> in{call.x, sizes_.input, false};
    StridedRows<T> out{};
    for (Index k = 0; k < sizes_.layers; ++k) {
      out = output_of(k, passes, call);
      pass(passes, k, 0).open(in, out, &stop);
      runs.push_back(pass(passes, k, 0).start(kernel(k, 0), weights[std::size_t(k)], training, interrupted));
      in = {out.data, out.ld, out.ordered};
    }
    const bool complete = run_layers(runs, cuts, false, stop, interrupted,
                                     [&](std::size_t k, sequence::ResumableCall& run, Index begin, Index end) {
                                       passes.all[k]->feed(begin, end);
                                       return run.advance(begin, end);
                                     });
    for (std::size_t k = 0; complete && k < runs.size(); ++k) passes.all[k]->close(out);
    return complete;
  }

  /// Where a layer writes y: the caller's array, or one of the tape's.
  StridedRows<T> output_of(Index layer, LayerTape<T>& passes, const StackForward<T>& call) const {
    if (layer + 1 == sizes_.layers) return {call.y, output(), false};
    Buffer<T>& own = passes.outputs[std::size_t(layer)];
    own = Buffer<T>(checked_mul(D_ == 1 ? passes.all[0]->batch_sizes().total() : call.outer.rows, output()));
    return {own.data(), output(), D_ == 1};
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

  /// dy -> dx, and what `calls` name; false when called off. In one direction a step's dx takes the place of its dy,
  /// which nobody needs any more.
  bool run_backward(LayerTape<T>& passes, const StackBackward<T>& call, const std::vector<BackwardCall<T>>& calls,
                    Poll::Interrupted interrupted) const {
    const sequence::BatchSizes& batch_sizes = passes.all[0]->batch_sizes();
    if (in_parallel(batch_sizes, passes.all[0]->tape.segmented()))
      return backward_in_parallel(passes, call, calls, interrupted);
    std::atomic<bool> stop{false};
    const Index L = sizes_.layers;
    Buffer<T> handed;
    StridedRows<const T> in{call.dy, output(), false};
    for (Index k = L - 1; k >= 0; --k) {
      Buffer<T> read;
      const StridedRows<T> out = gradient_of(k, passes, call, handed, read);
      const bool complete = run_directions(k, batch_sizes, [&](int d, int threads) {
        const StridedRows<const T> part{in.data + d * (output() / D_), output(), in.ordered};
        DirectionPass<T>& own = pass(passes, k, d);
        own.open_back(calls[std::size_t(k * D_ + d)], part, out, d > 0, &stop);
        return own.backward(kernel(k, d), threads, interrupted);
      });
      if (!complete) return false;
      in = {out.data, out.ld, out.ordered};
      for (Index d = 0; d < D_; ++d) {
        pass(passes, k, d).close_back(out, d > 0);
        if (!call.retain) pass(passes, k, d).release();
      }
      const Index unread = D_ == 1 ? k : k - 1;  // in one direction the tape of the layer that wrote it reads it, too
      if (!call.retain && unread >= 0 && unread + 1 < L) passes.outputs[std::size_t(unread)] = {};
    }
    return true;
  }

  /// The same with the layers in parallel.
  bool backward_in_parallel(LayerTape<T>& passes, const StackBackward<T>& call,
                            const std::vector<BackwardCall<T>>& calls, Poll::Interrupted interrupted) const {
    std::atomic<bool> stop{false};
    const std::vector<Index> cuts = sequence::pieces(passes.all[0]->batch_sizes());
    Runs runs;
    Buffer<T> handed, unused;
    StridedRows<const T> in{call.dy, output(), false};
    StridedRows<T> out{};
    for (Index k = sizes_.layers - 1; k >= 0; --k) {
      out = gradient_of(k, passes, call, handed, unused);
      pass(passes, k, 0).open_back(calls[std::size_t(k)], in, out, false, &stop);
      runs.insert(runs.begin(), pass(passes, k, 0).start_back(kernel(k, 0), interrupted));
      in = {out.data, out.ld, out.ordered};
    }
    const bool complete = run_layers(runs, cuts, true, stop, interrupted,
                                     [&](std::size_t k, sequence::ResumableCall& run, Index begin, Index end) {
                                       const bool done = run.advance(begin, end);
                                       if (done) passes.all[k]->feed_back(begin, end);
                                       return done;
                                     });
    for (std::size_t k = 0; complete && k < runs.size(); ++k) passes.all[k]->close_back(out, false);
    return complete;
  }

  /// Where a layer writes the gradient of its input: the caller's dx, or `handed`, made here. With two directions the
  /// layer still reads what `handed` had, which goes to `read`.
  StridedRows<T> gradient_of(Index layer, const LayerTape<T>& passes, const StackBackward<T>& call, Buffer<T>& handed,
                             Buffer<T>& read) const {
    if (layer == 0) return {call.dx, sizes_.input, false};
    if (D_ > 1 || handed.size() == 0) {
      read = std::move(handed);
      const DirectionPass<T>& any = *passes.all[0];
      handed = Buffer<T>(checked_mul(D_ == 1 ? any.batch_sizes().total() : any.outer().rows, output()));
    }
    return {handed.data(), output(), D_ == 1};
  }

  double seconds(Index layer, const sequence::BatchSizes& batch_sizes, int threads) const {
    const Index rows = batch_sizes.steps > 0 ? ceil_div(batch_sizes.total(), batch_sizes.steps) : batch_sizes.batch;
    return double(batch_sizes.steps) * kernel(layer, 0).plan(batch_sizes.steps, rows, threads).step_time_s;
  }
  const sequence::Recurrence<T>& kernel(Index layer, Index direction) const {
    return *kernels_[std::size_t(layer * D_ + direction)];
  }

  /// job(direction, threads) for the directions of a layer: in parallel on a core each where that is estimated to be
  /// no slower than one after the other on all of them. False where one was called off.
  template <class Job>
  bool run_directions(Index layer, const sequence::BatchSizes& batch_sizes, const Job& job) const {
    const int threads = Pool::size(), D = int(D_);
    bool complete = true;
    if (D == 1 || threads < D || seconds(layer, batch_sizes, 1) > D * seconds(layer, batch_sizes, threads)) {
      for (int d = 0; d < D; ++d) complete = complete && job(d, threads);
      return complete;
    }
    std::atomic<bool> all{true};
    Pool::instance().run(D, [&](int thread, Barrier& barrier) {
      for (int d = thread; d < D && all; d += barrier.size()) {
        if (!job(d, 1)) all = false;
      }
    });
    return all;
  }

  /// The layers of one direction in parallel: job(layer, run, first step, end) for all pieces. Going back, the last
  /// layer and the last steps are the first.
  template <class Job>
  static bool run_layers(const Runs& runs, const std::vector<Index>& cuts, bool back, std::atomic<bool>& stop,
                         Poll::Interrupted interrupted, const Job& job) {
    const int L = int(runs.size()), pieces = int(cuts.size()) - 1;
    const auto layer_at = [&](int place) { return std::size_t(back ? L - 1 - place : place); };
    return sequence::run_wavefront(
        L, pieces, Pool::size(), interrupted, stop,
        [&](int place, int n) {
          const std::size_t layer = layer_at(place), piece = std::size_t(back ? pieces - 1 - n : n);
          return job(layer, *runs[layer], cuts[piece], cuts[piece + 1]);
        },
        [&](int place, int n) { runs[layer_at(place)]->settle(n + 1 == pieces); });
  }

  const std::string cell_;
  const StackSizes sizes_;
  const Index D_;
  const Kernels kernels_;
  std::shared_ptr<const Packed> weights_;
  std::atomic<bool> packed_{false};
};

}  // namespace bptt::stack
