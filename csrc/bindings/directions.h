// SPDX-License-Identifier: Apache-2.0
// The general way into a layer: its directions together, with what a Setup asks for. The plain way is Recurrence's own.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "bindings/recurrence.h"

namespace bptt::bindings {

/// A layer's directions, one or two, in one call each way: side by side on a core each where that is estimated to be no
/// slower than one after the other on all of them.
class Directions {
 public:
  explicit Directions(const std::vector<PyRecurrence*>& all) : all_(all) {
    if (all.empty()) throw py::value_error("Directions: expected at least one");
    require(all, "direction");
    for (const PyRecurrence* r : all) {
      if (!r->packed_) throw py::value_error("Directions: there are no weights, expected a call of pack first");
      if (r->input() != all[0]->input() || r->output() != all[0]->output() || r->is_double() != all[0]->is_double())
        throw py::value_error("Directions: sizes or dtypes differ, expected equal ones");
    }
  }

  py::tuple forward(const py::array& x, const std::vector<py::object>& states, bool training,
                    const std::vector<Setup*>& setups) const {
    if (states.size() != all_.size() || setups.size() != all_.size())
      throw py::value_error("forward: expected a state and a setup for each direction");
    require(setups, "setup");
    return all_[0]->is_double() ? forward_as<double>(x, states, training, setups)
                                : forward_as<float>(x, states, training, setups);
  }

  py::tuple backward(const std::vector<PyTape*>& tapes, const py::array& dy, const std::vector<py::object>& dstates,
                     std::vector<py::array>& grads, std::vector<py::object>& danew) const {
    if (tapes.size() != all_.size() || dstates.size() != all_.size() || grads.size() != all_.size())
      throw py::value_error("backward: expected a tape, a state and gradients for each direction");
    if (!danew.empty() && danew.size() != all_.size())
      throw py::value_error("backward: expected danew for each direction, or none");
    require(tapes, "tape");
    return all_[0]->is_double() ? backward_as<double>(tapes, dy, dstates, grads, danew)
                                : backward_as<float>(tapes, dy, dstates, grads, danew);
  }

 private:
  template <class P>
  static void require(const std::vector<P*>& all, const char* what) {
    for (const P* each : all) {
      if (!each) throw py::type_error(std::string("Directions: a ") + what + " is None");
    }
  }

  /// The directions of one pass see the same rows.
  template <class T>
  static void require_alike(const std::vector<Pass<T>*>& passes) {
    for (const Pass<T>* pass : passes) {
      if (pass->outer_rows() != passes[0]->outer_rows() || pass->time().batch != passes[0]->time().batch ||
          pass->outer_steps() != passes[0]->outer_steps() || pass->flat() != passes[0]->flat())
        throw py::value_error("Directions: the rows of the directions differ, expected those of one pass");
    }
  }

  /// job(direction, threads) for all of them; false where one was called off.
  template <class Job>
  bool run(const sequence::Timeline& time, const Job& job) const {
    const int threads = Pool::size(), D = int(all_.size());
    const auto seconds = [&](int n) {
      return all_[0]->visit([&](auto& r) { return r.plan(time.steps, time.batch, n).step_time_s; });
    };
    bool complete = true;
    if (D == 1 || threads < D || seconds(1) > D * seconds(threads)) {
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

  template <class T>
  py::tuple forward_as(const py::array& x, const std::vector<py::object>& states, bool training,
                       const std::vector<Setup*>& setups) const {
    const std::size_t D = all_.size();
    const Index H = all_[0]->output(), ld = Index(D) * H;
    std::vector<std::unique_ptr<PyTape>> tapes;
    std::vector<Pass<T>*> passes;
    for (std::size_t d = 0; d < D; ++d) {
      tapes.push_back(all_[d]->new_tape<T>());
      tapes[d]->plain = false;
      passes.push_back(&std::get<Pass<T>>(tapes[d]->pass));
      passes[d]->prepare(all_[d]->as<T>("forward"), all_[d]->input(), all_[d]->hidden_, x, states[d], *setups[d],
                         training);
    }
    require_alike(passes);
    py::array_t<T> y = x.ndim() == 2 ? empty<T>({x.shape(0), ld}) : empty<T>({x.shape(0), x.shape(1), ld});
    T* to = y.mutable_data();
    bool complete;
    std::atomic<bool> stop{false};
    {
      py::gil_scoped_release release;
      complete = run(passes[0]->time(), [&](int d, int threads) {
        const auto i = std::size_t(d);
        return passes[i]->forward(all_[i]->as<T>("forward"), to + d * H, ld, training, setups[i]->segment, threads,
                                  &stop);
      });
    }
    if (!complete) throw py::error_already_set();
    if (training && passes[0]->direct()) {
      make_read_only(y);  // the tape reads it again
      passes[0]->arrays.push_back(y);
    }
    py::list last, kept;
    for (std::size_t d = 0; d < D; ++d) {
      last.append(passes[d]->last());
      if (training) kept.append(py::cast(std::move(tapes[d])));
    }
    return py::make_tuple(y, last, kept);
  }

  template <class T>
  py::tuple backward_as(const std::vector<PyTape*>& tapes, const py::array& dy, const std::vector<py::object>& dstates,
                        std::vector<py::array>& grads, std::vector<py::object>& danew) const {
    const std::size_t D = all_.size();
    const Index I = all_[0]->input(), H = all_[0]->output(), ld = Index(D) * H;
    std::vector<Pass<T>*> passes;
    std::vector<BackwardCall<T>> calls;
    std::vector<States> last, initial;
    for (std::size_t d = 0; d < D; ++d) {
      const auto& r = all_[d]->as<T>("backward");
      passes.push_back(&all_[d]->own<T>(*tapes[d], false));
      const Index B = passes[d]->time().batch;
      calls.push_back(all_[d]->gradients(r, grads[d]));
      last.push_back(read_states<T>(dstates[d], r, B, calls[d].dfinal, "Recurrence.backward: dstate"));
      initial.push_back(new_states<T>(r, B, calls[d].dinitial));
      for (int i = 0; !danew.empty() && i < r.states(); ++i) {
        py::array part = state_part(danew[d], i, r.states(), "Recurrence.backward: danew");
        calls[d].danew[i] = write<T>(part, {r.width(i)}, "Recurrence.backward: danew");
      }
    }
    require_alike(passes);
    const bool flat = passes[0]->flat();
    const Index rows = passes[0]->outer_rows(), B = passes[0]->time().batch, T_ = passes[0]->outer_steps();
    const T* from =
        flat ? read<T>(dy, {rows, ld}, "Recurrence.backward: dy") : read<T>(dy, {T_, B, ld}, "Recurrence.backward: dy");
    py::array_t<T> dx = flat ? empty<T>({rows, I}) : empty<T>({T_, B, I});
    T* to = dx.mutable_data();
    for (PyTape* tape : tapes) PyRecurrence::use(*tape);
    bool complete;
    std::atomic<bool> stop{false};
    for (BackwardCall<T>& call : calls) call.stop = &stop;
    {
      py::gil_scoped_release release;
      complete = run(passes[0]->time(), [&](int d, int threads) {
        const auto i = std::size_t(d);
        return passes[i]->backward(all_[i]->as<T>("backward"), calls[i], from + d * H, ld, to, threads);
      });
      for (std::size_t d = 0; d < D; ++d) passes[d]->take_dx(to, d > 0), passes[d]->release();
    }
    if (!complete) throw py::error_already_set();
    py::list before;
    for (std::size_t d = 0; d < D; ++d) before.append(as_state(initial[d], passes[d]->states()));
    return py::make_tuple(dx, before);
  }

  std::vector<PyRecurrence*> all_;
};

}  // namespace bptt::bindings
