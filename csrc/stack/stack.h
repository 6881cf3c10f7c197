// SPDX-License-Identifier: Apache-2.0
// A whole call: layers of one direction or two, with what CallOptions ask for.
//
// Both cores, where one layer alone does not use them well: two directions run side by side; so do layers of one
// direction, piece by piece (sequence/wavefront.h). Those hand on rows in the kernels' order; with two directions each
// layer has its outputs as the caller sees rows, since the one behind reads them in both orders.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "sequence/wavefront.h"
#include "stack/tape.h"

namespace bptt::stack {

template <class T>
class Stack {
 public:
  /// The kernels layer by layer, one for each direction; they must outlive the stack. Their sizes fit: the caller has
  /// checked.
  Stack(std::vector<const sequence::Recurrence<T>*> kernels, Index input, Index directions)
      : kernels_(std::move(kernels)), input_(input), D_(directions) {}

  Index layers() const { return Index(kernels_.size()) / D_; }
  /// Of y: D*R.
  Index width() const { return D_ * kernels_[0]->width(0); }

  /// Whether the layers of a call, of one direction, run side by side. Tapes of several segments hold one at a time.
  bool beside(const sequence::BatchSizes& batch_sizes, bool segmented) const {
    const int threads = Pool::size();
    if (D_ > 1 || layers() == 1 || segmented || threads == 1 || batch_sizes.total() == 0) return false;
    std::vector<double> each;
    double serial = 0;
    for (Index k = 0; k < layers(); ++k) {
      each.push_back(seconds(k, batch_sizes, 1));
      serial += seconds(k, batch_sizes, threads);
    }
    return sequence::beside_time(each, threads, sequence::count_pieces(batch_sizes)) < serial;
  }

  /// x -> y of the prepared passes; false when called off.
  bool forward(StackTape<T>& passes, const OuterShape& outer, const T* x, T* y, bool training, Index segment,
               Poll::Interrupted interrupted) const {
    std::atomic<bool> stop{false};
    const sequence::BatchSizes& batch_sizes = passes.all[0]->batch_sizes();
    const bool segmented = training && sequence::measure_cuts(batch_sizes, segment).segments > 1;
    const std::vector<Index> cuts =
        beside(batch_sizes, segmented) ? sequence::pieces(batch_sizes) : std::vector<Index>();
    const Index L = layers(), W = width();
    passes.outputs.resize(std::size_t(L - 1));
    std::vector<std::unique_ptr<sequence::ResumableCall>> runs;
    StridedRows<const T> in{x, input_, false};
    StridedRows<T> out{};
    for (Index k = 0; k < L; ++k) {
      const auto pass = [&](Index d) -> DirectionPass<T>& { return *passes.all[std::size_t(k * D_ + d)]; };
      out = {y, W, false};
      if (k + 1 < L) {
        Buffer<T>& own = passes.outputs[std::size_t(k)];
        own = Buffer<T>(checked_mul(D_ == 1 ? batch_sizes.total() : outer.rows, W));
        out = {own.data(), W, D_ == 1};
      }
      if (!cuts.empty()) {
        pass(0).open(in, out, &stop);
        runs.push_back(pass(0).start(kernel(k, 0), training, interrupted));
        in = {out.data, out.ld, out.ordered};
        continue;
      }
      const bool complete = run_directions(k, batch_sizes, [&](int d, int threads) {
        const StridedRows<T> part{out.data + d * (W / D_), W, out.ordered};
        pass(d).open(in, part, &stop);
        if (!pass(d).forward(kernel(k, d), training, segment, threads, interrupted)) return false;
        pass(d).close(part);
        return true;
      });
      if (!complete) return false;
      in = {out.data, out.ld, out.ordered};
      bool kept = training && D_ == 1;  // the layer's input: also the y that the tape of the layer before reads again
      for (Index d = 0; d < D_; ++d) {
        kept = kept || (training && !pass(d).has_copied_x());
        if (!training) pass(d).release();
      }
      if (k > 0 && !kept) passes.outputs[std::size_t(k - 1)] = {};
    }
    if (cuts.empty()) return true;
    const bool complete = run_layers(runs, cuts, false, stop, interrupted,
                                     [&](std::size_t k, sequence::ResumableCall& run, Index begin, Index end) {
                                       passes.all[k]->feed(begin, end);
                                       return run.advance(begin, end);
                                     });
    for (std::size_t k = 0; complete && k < runs.size(); ++k) passes.all[k]->close(out);
    return complete;
  }

  /// dy -> dx, and what `calls` name; false when called off.
  bool backward(StackTape<T>& passes, const OuterShape& outer, const std::vector<BackwardCall<T>>& calls, const T* dy,
                T* dx, Poll::Interrupted interrupted) const {
    std::atomic<bool> stop{false};
    const sequence::BatchSizes& batch_sizes = passes.all[0]->batch_sizes();
    const bool together = beside(batch_sizes, passes.all[0]->tape.segmented());
    const std::vector<Index> cuts = together ? sequence::pieces(batch_sizes) : std::vector<Index>();
    const Index L = layers(), W = width();
    std::vector<std::unique_ptr<sequence::ResumableCall>> runs;
    // From layer to layer. In one direction a step's dx takes the place of its dy, which nobody needs any more.
    Buffer<T> handed;
    StridedRows<const T> in{dy, W, false};
    StridedRows<T> out{};
    for (Index k = L - 1; k >= 0; --k) {
      const auto pass = [&](Index d) -> DirectionPass<T>& { return *passes.all[std::size_t(k * D_ + d)]; };
      Buffer<T> read;
      out = {dx, input_, false};
      if (k > 0) {
        if (D_ > 1 || handed.size() == 0) {
          read = std::move(handed);
          handed = Buffer<T>(checked_mul(D_ == 1 ? batch_sizes.total() : outer.rows, W));
        }
        out = {handed.data(), W, D_ == 1};
      }
      const auto open = [&](Index d) {
        const StridedRows<const T> part{in.data + d * (W / D_), W, in.ordered};
        pass(d).open_back(calls[std::size_t(k * D_ + d)], part, out, d > 0, &stop);
      };
      if (!cuts.empty()) {
        open(0);
        runs.insert(runs.begin(), pass(0).start_back(kernel(k, 0), interrupted));
        in = {out.data, out.ld, out.ordered};
        continue;
      }
      const bool complete = run_directions(k, batch_sizes, [&](int d, int threads) {
        open(d);
        return pass(d).backward(kernel(k, d), threads, interrupted);
      });
      if (!complete) return false;
      in = {out.data, out.ld, out.ordered};
      for (Index d = 0; d < D_; ++d) {
        pass(d).close_back(out, d > 0);
        pass(d).release();
      }
      const Index unread = D_ == 1 ? k : k - 1;  // in one direction the tape of the layer that wrote it reads it, too
      if (unread >= 0 && unread + 1 < L) passes.outputs[std::size_t(unread)] = {};
    }
    if (cuts.empty()) return true;
    const bool complete = run_layers(runs, cuts, true, stop, interrupted,
                                     [&](std::size_t k, sequence::ResumableCall& run, Index begin, Index end) {
                                       const bool done = run.advance(begin, end);
                                       if (done) passes.all[k]->feed_back(begin, end);
                                       return done;
                                     });
    for (std::size_t k = 0; complete && k < runs.size(); ++k) passes.all[k]->close_back(out, false);
    return complete;
  }

 private:
  double seconds(Index layer, const sequence::BatchSizes& batch_sizes, int threads) const {
    const Index rows = batch_sizes.steps > 0 ? ceil_div(batch_sizes.total(), batch_sizes.steps) : batch_sizes.batch;
    return double(batch_sizes.steps) * kernel(layer, 0).plan(batch_sizes.steps, rows, threads).step_time_s;
  }
  const sequence::Recurrence<T>& kernel(Index layer, Index direction) const {
    return *kernels_[std::size_t(layer * D_ + direction)];
  }

  /// job(direction, threads) for the directions of a layer: side by side on a core each where that is estimated to be
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

  /// The layers of one direction side by side: job(layer, run, first step, end) for all pieces. Going back, the last
  /// layer and the last steps are the first.
  template <class Job>
  static bool run_layers(const std::vector<std::unique_ptr<sequence::ResumableCall>>& runs,
                         const std::vector<Index>& cuts, bool back, std::atomic<bool>& stop,
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

  std::vector<const sequence::Recurrence<T>*> kernels_;
  Index input_, D_;
};

}  // namespace bptt::stack
