// SPDX-License-Identifier: Apache-2.0
// The general way into a layer: a stack of layers, each of one direction or two, with what CallOptions ask for. The
// plain way is Recurrence's own.
//
// Both cores, where one layer alone does not use them well: two directions run side by side; so do layers of one
// direction, piece by piece (sequence/wavefront.h). Those hand on rows in the kernels' order; with two directions each
// layer has its outputs as the caller sees rows, since the one behind reads them in both orders.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "bindings/recurrence.h"
#include "sequence/wavefront.h"

namespace bptt::bindings {

class Stack {
 public:
  /// Layer by layer.
  Stack(std::vector<PyRecurrence*> all, Index directions) : all_(std::move(all)), D_(directions) {
    if (D_ < 1 || all_.empty() || Index(all_.size()) % D_ != 0)
      throw py::value_error("Stack: expected at least one layer, and each with all directions");
    require(all_, "direction");
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const PyRecurrence& r = *all_[i];
      if (!r.packed_) throw py::value_error("Stack: there are no weights, expected a call of pack first");
      if (r.input() != (Index(i) < D_ ? all_[0]->input() : width()) || r.output() != all_[0]->output() ||
          r.hidden_ != all_[0]->hidden_ || r.is_double() != all_[0]->is_double())
        throw py::value_error("Stack: sizes or dtypes differ, expected those of one stack");
    }
  }

  py::tuple forward(const py::array& x, const py::object& state, bool training,
                    const std::vector<CallOptions*>& options) const {
    if (options.size() != all_.size()) throw py::value_error("forward: expected options for each direction");
    require(options, "options");
    return all_[0]->is_double() ? forward_as<double>(x, state, training, options)
                                : forward_as<float>(x, state, training, options);
  }

  py::tuple backward(PyTape& tape, const py::array& dy, const py::object& dstate, std::vector<py::array>& grads,
                     const std::vector<py::object>& dreset_state) const {
    if (grads.size() != all_.size()) throw py::value_error("backward: expected gradients for each direction");
    if (!dreset_state.empty() && dreset_state.size() != all_.size())
      throw py::value_error("backward: expected dreset_state for each direction, or none");
    return all_[0]->is_double() ? backward_as<double>(tape, dy, dstate, grads, dreset_state)
                                : backward_as<float>(tape, dy, dstate, grads, dreset_state);
  }

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

  /// From the states of one kernel to those of the next.
  template <class Pointer>
  static void next(Pointer* states, const Widths& width, Index batch) {
    for (int i = 0; i < count(width); ++i) states[i] += batch * width[std::size_t(i)];
  }

 private:
  template <class P>
  static void require(const std::vector<P*>& all, const char* what) {
    for (const P* each : all) {
      if (!each) throw py::type_error(std::string("Stack: a ") + what + " is None");
    }
  }

  Index layers() const { return Index(all_.size()) / D_; }
  Index width() const { return D_ * all_[0]->output(); }
  double seconds(Index layer, const sequence::BatchSizes& batch_sizes, int threads) const {
    const Index rows = batch_sizes.steps > 0 ? ceil_div(batch_sizes.total(), batch_sizes.steps) : batch_sizes.batch;
    const sequence::Plan plan =
        all_[std::size_t(layer * D_)]->visit([&](auto& r) { return r.plan(batch_sizes.steps, rows, threads); });
    return double(batch_sizes.steps) * plan.step_time_s;
  }

  template <class T>
  const sequence::Recurrence<T>& kernel(Index layer, Index direction) const {
    return all_[std::size_t(layer * D_ + direction)]->template as<T>("Stack");
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
                         const std::vector<Index>& cuts, bool back, std::atomic<bool>& stop, const Job& job) {
    const int L = int(runs.size()), pieces = int(cuts.size()) - 1;
    const auto layer_at = [&](int place) { return std::size_t(back ? L - 1 - place : place); };
    return sequence::run_wavefront(
        L, pieces, Pool::size(), &interrupted, stop,
        [&](int place, int n) {
          const std::size_t layer = layer_at(place), piece = std::size_t(back ? pieces - 1 - n : n);
          return job(layer, *runs[layer], cuts[piece], cuts[piece + 1]);
        },
        [&](int place, int n) { runs[layer_at(place)]->settle(n + 1 == pieces); });
  }

  template <class T>
  py::tuple forward_as(const py::array& x, const py::object& state, bool training,
                       const std::vector<CallOptions*>& options) const {
    const Outer outer = Outer::of(x, options[0]->order.get(), "Recurrence.forward: x");
    const T* from = outer.read<T>(x, all_[0]->input(), "Recurrence.forward: x");
    std::unique_ptr<PyTape> tape = PyRecurrence::new_tape<T>();
    tape->plain = false;
    auto& passes = std::get<Passes<T>>(tape->passes);
    const T* before[sequence::kMaxStates];
    T* after[sequence::kMaxStates];
    const Widths width_of = widths(kernel<T>(0, 0));
    const auto n = Index(all_.size());
    const States initial = read_states<T>(state, width_of, n, outer.batch, before, "Recurrence.forward: state");
    const States last = new_states<T>(width_of, n, outer.batch, after);
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const auto& order = options[i]->order;
      if (!(Outer::of(x, order.get(), "Recurrence.forward: x") == outer) ||
          order != options[i % std::size_t(D_)]->order)
        throw py::value_error("Stack: the rows of layers or directions differ, expected those of one pass");
      all_[i]->add_pass<T>(*tape).prepare(all_[i]->as<T>("forward"), all_[i]->input(), outer, before, after,
                                          *options[i], training);
      next(before, width_of, outer.batch), next(after, width_of, outer.batch);
    }
    py::array_t<T> y = outer.make<T>(width());
    T* to = y.mutable_data();
    without_gil([&] { return forward_all(passes, outer, from, to, training, options[0]->segment); });
    const py::object final = as_state(last, count(width_of));
    if (!training) return py::make_tuple(y, final, py::none());
    passes.arrays = {x};
    passes.arrays.insert(passes.arrays.end(), initial.begin(), initial.end());
    if (D_ == 1 && !options[0]->order) {  // the tape reads it again
      make_read_only(y);
      passes.arrays.push_back(y);
    }
    return py::make_tuple(y, final, std::move(tape));
  }

  template <class T>
  bool forward_all(Passes<T>& passes, const Outer& outer, const T* x, T* y, bool training, Index segment) const {
    std::atomic<bool> stop{false};
    const sequence::BatchSizes& batch_sizes = passes.all[0]->batch_sizes();
    const bool segmented = training && sequence::measure_cuts(batch_sizes, segment).segments > 1;
    const std::vector<Index> cuts =
        beside(batch_sizes, segmented) ? sequence::pieces(batch_sizes) : std::vector<Index>();
    const Index L = layers(), W = width();
    passes.outputs.resize(std::size_t(L - 1));
    std::vector<std::unique_ptr<sequence::ResumableCall>> runs;
    StridedRows<const T> in{x, all_[0]->input(), false};
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
        runs.push_back(pass(0).start(kernel<T>(k, 0), training));
        in = {out.data, out.ld, out.ordered};
        continue;
      }
      const bool complete = run_directions(k, batch_sizes, [&](int d, int threads) {
        const StridedRows<T> part{out.data + d * (W / D_), W, out.ordered};
        pass(d).open(in, part, &stop);
        if (!pass(d).forward(kernel<T>(k, d), training, segment, threads)) return false;
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
    const bool complete =
        run_layers(runs, cuts, false, stop, [&](std::size_t k, sequence::ResumableCall& run, Index begin, Index end) {
          passes.all[k]->feed(begin, end);
          return run.advance(begin, end);
        });
    for (std::size_t k = 0; complete && k < runs.size(); ++k) passes.all[k]->close(out);
    return complete;
  }

  template <class T>
  py::tuple backward_as(PyTape& tape, const py::array& dy, const py::object& dstate, std::vector<py::array>& grads,
                        const std::vector<py::object>& dreset_state) const {
    const T* after[sequence::kMaxStates];
    T* before[sequence::kMaxStates];
    const Widths width_of = widths(kernel<T>(0, 0));
    const auto n = Index(all_.size());
    const Index batch = all_[0]->own<T>(tape, false, 0).batch_sizes().batch;
    const States last = read_states<T>(dstate, width_of, n, batch, after, "Recurrence.backward: dstate");
    const States initial = new_states<T>(width_of, n, batch, before);
    std::vector<BackwardCall<T>> calls;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const auto& r = all_[i]->as<T>("backward");
      all_[i]->own<T>(tape, false, i);
      calls.push_back(all_[i]->gradients(r, grads[i]));
      std::copy_n(after, r.states(), calls[i].dfinal), std::copy_n(before, r.states(), calls[i].dinitial);
      next(after, width_of, batch), next(before, width_of, batch);
      for (int s = 0; !dreset_state.empty() && s < r.states(); ++s) {
        py::array part = state_part(dreset_state[i], s, r.states(), "Recurrence.backward: dreset_state");
        calls[i].dreset_state[s] = write<T>(part, {r.width(s)}, "Recurrence.backward: dreset_state");
      }
    }
    auto& passes = std::get<Passes<T>>(tape.passes);
    const Outer& outer = passes.all[0]->outer();
    const T* from = outer.read<T>(dy, width(), "Recurrence.backward: dy");
    py::array_t<T> dx = outer.make<T>(all_[0]->input());
    T* to = dx.mutable_data();
    PyRecurrence::use(tape);
    without_gil([&] {
      const bool complete = backward_all(passes, outer, calls, from, to);
      passes.release();
      return complete;
    });
    passes.arrays.clear();  // with the GIL
    return py::make_tuple(dx, as_state(initial, count(width_of)));
  }

  template <class T>
  bool backward_all(Passes<T>& passes, const Outer& outer, const std::vector<BackwardCall<T>>& calls, const T* dy,
                    T* dx) const {
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
      out = {dx, all_[0]->input(), false};
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
        runs.insert(runs.begin(), pass(0).start_back(kernel<T>(k, 0)));
        in = {out.data, out.ld, out.ordered};
        continue;
      }
      const bool complete = run_directions(k, batch_sizes, [&](int d, int threads) {
        open(d);
        return pass(d).backward(kernel<T>(k, d), threads);
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
    const bool complete =
        run_layers(runs, cuts, true, stop, [&](std::size_t k, sequence::ResumableCall& run, Index begin, Index end) {
          const bool done = run.advance(begin, end);
          if (done) passes.all[k]->feed_back(begin, end);
          return done;
        });
    for (std::size_t k = 0; complete && k < runs.size(); ++k) passes.all[k]->close_back(out, false);
    return complete;
  }

  std::vector<PyRecurrence*> all_;
  Index D_;
};

}  // namespace bptt::bindings
