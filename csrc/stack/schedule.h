// SPDX-License-Identifier: Apache-2.0
// The order in which layers and directions of a call run, and which of them run in parallel.
//
// Both cores, where one layer alone does not use them well: two directions run in parallel; so do layers of one
// direction, piece by piece (sequence/wavefront.h). Those hand on rows in the kernels' order; with two directions each
// layer has its outputs as the caller sees rows, since the next layer reads them in both orders.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "sequence/planner.h"
#include "sequence/wavefront.h"
#include "stack/stack.h"
#include "stack/tape.h"

namespace bptt::stack {

template <class T>
class Schedule {
 public:
  using Packed = std::vector<sequence::PackedWeights<T>>;  // of each kernel
  using Kernels = std::vector<std::unique_ptr<sequence::Recurrence<T>>>;

  Schedule(const StackSizes& sizes, const Kernels& kernels) : sizes_(sizes), D_(sizes.directions), kernels_(kernels) {}

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

  /// Of y: D*R.
  Index output() const { return D_ * kernels_[0]->width(0); }
  Index input(Index layer) const { return layer == 0 ? sizes_.input : output(); }

  /// x -> y of the prepared passes; false when called off.
  bool forward(LayerTape<T>& passes, const Packed& weights, const StackForward<T>& call, bool training,
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
        const StridedRows<T> part = out.from(d * kernels_[0]->width(0));
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
      if (k > 0 && !kept) passes.outputs[std::size_t(k - 1)].reset();
    }
    return true;
  }

  /// dy -> dx, and what `calls` name; false when called off. In one direction a step's dx takes the place of its dy,
  /// which nobody needs any more.
  bool backward(LayerTape<T>& passes, const StackBackward<T>& call, const std::vector<BackwardCall<T>>& calls,
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
        const StridedRows<const T> part = in.from(d * kernels_[0]->width(0));
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
      if (!call.retain && unread >= 0 && unread + 1 < L) passes.outputs[std::size_t(unread)].reset();
    }
    return true;
  }

 private:
  using Runs = std::vector<std::unique_ptr<sequence::ResumableCall>>;

  /// forward, with the layers in parallel.
  bool forward_in_parallel(LayerTape<T>& passes, const Packed& weights, const StackForward<T>& call, bool training,
                           Poll::Interrupted interrupted) const {
    std::atomic<bool> stop{false};
    Runs runs;
    StridedRows<const T> in{call.x, sizes_.input, false};
    StridedRows<T> out{};
    for (Index k = 0; k < sizes_.layers; ++k) {
      out = output_of(k, passes, call);
      pass(passes, k, 0).open(in, out, &stop);
      runs.push_back(pass(passes, k, 0).start(kernel(k, 0), weights[std::size_t(k)], training, interrupted));
      in = {out.data, out.ld, out.ordered};
    }
    const bool complete = run_layers(runs, passes, false, stop, interrupted,
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

  /// backward, with the layers in parallel.
  bool backward_in_parallel(LayerTape<T>& passes, const StackBackward<T>& call,
                            const std::vector<BackwardCall<T>>& calls, Poll::Interrupted interrupted) const {
    std::atomic<bool> stop{false};
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
    const bool complete = run_layers(runs, passes, true, stop, interrupted,
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

  DirectionPass<T>& pass(LayerTape<T>& passes, Index layer, Index direction) const {
    return *passes.all[std::size_t(layer * D_ + direction)];
  }

  double seconds(Index layer, const sequence::BatchSizes& batch_sizes, int threads) const {
    const Index rows = batch_sizes.steps > 0 ? ceil_div(batch_sizes.total(), batch_sizes.steps) : batch_sizes.batch;
    return double(batch_sizes.steps) * kernel(layer, 0).plan(batch_sizes.steps, rows, threads, false).step_time_s;
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
    if (DryRun* run = DryRun::current()) {
      run->parallel(D, [&](int d) { job(d, 1); });
      return true;
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
  static bool run_layers(const Runs& runs, const LayerTape<T>& passes, bool back, std::atomic<bool>& stop,
                         Poll::Interrupted interrupted, const Job& job) {
    if (DryRun::on()) {
      for (const auto& each : runs) each->settle(true);
      return true;
    }
    const std::vector<Index> cuts = sequence::pieces(passes.all[0]->batch_sizes());
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

  const StackSizes sizes_;
  const Index D_;
  const Kernels& kernels_;
};

}  // namespace bptt::stack
