// SPDX-License-Identifier: Apache-2.0
// The class Stack: arrays in and out of stack::Stack, for float32 and float64 behind one type.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/call_options.h"
#include "bindings/outer.h"
#include "bindings/parameters.h"
#include "bindings/products.h"
#include "bindings/states.h"
#include "bindings/tape.h"
#include "core/gemm/narrow_values.h"
#include "core/threads/pool.h"
#include "stack/stack.h"

namespace bptt::bindings {

/// One CallOptions for each kernel, or None.
using Asked = std::optional<std::vector<const CallOptions*>>;

class PyStack : public Own {
 public:
  PyStack(const std::string& cell, const std::string& dtype, Index input, Index hidden, bool bias, Index projection,
          Index layers, Index directions, Index heads, const std::string& products) {
    for (const auto& [n, name] :
         {std::pair(input, "input_size"), std::pair(hidden, "hidden_size"), std::pair(layers, "num_layers"),
          std::pair(directions, "num_directions"), std::pair(heads, "num_heads")}) {
      if (n < 1) {
        throw py::value_error(std::string("Stack: ") + name + " is " + std::to_string(n) + ", expected at least 1");
      }
    }
    if (hidden % heads != 0) {
      throw py::value_error("Stack: num_heads is " + std::to_string(heads) + ", expected a divisor of hidden_size, " +
                            std::to_string(hidden));
    }
    constexpr Index kMostLayers = 1 << 16;  // each is an object, whatever its sizes
    if (layers > kMostLayers || directions > 2) {
      throw py::value_error("Stack: num_layers is " + std::to_string(layers) + ", num_directions " +
                            std::to_string(directions) + ", expected at most " + std::to_string(kMostLayers) +
                            " and 2");
    }
    const ProductMode mode = read_products(products);
    for (const Index depth : {input, layers > 1 ? checked_mul(directions, hidden) : hidden}) {
      if (is_int8(mode) && depth > kMostInt8Depth)
        throw py::value_error("Stack: a weight has " + std::to_string(depth) + " columns, expected at most " +
                              std::to_string(kMostInt8Depth) + " with int8");
    }
    const stack::StackSizes sizes{input, hidden, projection, layers, directions, bias, heads, mode};
    if (dtype == "float32")
      impl_ = make<float>(cell, sizes);
    else if (dtype == "float64")
      impl_ = make<double>(cell, sizes);
    else
      throw py::value_error("Stack: dtype is '" + dtype + "', expected float32 or float64");
  }

  bool is_guest = false;  // whether its jobs run on the threads of another library (`Pool::Guest`)

  template <class F>
  auto visit(F&& f) const {
    return std::visit([&](auto& p) { return f(*p); }, impl_);
  }

  template <class T>
  const stack::Stack<T>& as() const {
    return *std::get<std::unique_ptr<stack::Stack<T>>>(impl_);
  }

  bool has_sizes_of(const PyStack& other) const {
    return impl_.index() == other.impl_.index() && other.visit([&](auto& b) {
      return visit([&](auto& a) { return a.cell() == b.cell() && a.sizes() == b.sizes(); });
    });
  }

  /// The arithmetic in use: that of the constructor, or fma where the cell or dtype has no other.
  std::string products() const {
    return name_of(visit([](auto& s) { return s.mode(); }));
  }

  py::dict plan(Index steps, Index batch, bool backward) const {
    const sequence::Plan plan = visit([&](auto& s) { return s.plan(steps, batch, backward); });
    const auto [groups, members] = plan.division;
    const char* const names[] = {"none", "batch", "hidden", "both"};
    py::dict d;
    d["split"] = names[(groups > 1 ? 1 : 0) + (members > 1 ? 2 : 0)];
    d["threads"] = plan.division.threads();
    d["groups"] = groups;
    d["members"] = members;
    d["step_time_s"] = plan.step_time_s;
    d["hoisted"] = plan.hoisted;
    d["chunk"] = plan.chunk;
    return d;
  }

  bool runs_in_parallel(Index steps, Index batch, const Asked& asked, bool training) const {
    const std::vector<const stack::CallOptions*> options = checked(asked);
    return visit([&](auto& s) { return s.runs_in_parallel(OuterShape::of(steps, batch), options, training); });
  }

  Index memory(Index steps, Index batch, const Asked& asked, bool training) const {
    const std::vector<const stack::CallOptions*> options = checked(asked);
    return visit([&](auto& s) { return s.memory(OuterShape::of(steps, batch), options, training); });
  }

  void pack(const py::object& params, bool training) {
    visit([&](auto& s) {
      if (training && is_narrow(s.mode()))
        throw py::value_error("Stack.pack: the weights are stored in fewer bits, expected training=False");
      const auto weights = read_parameters(s, params, "Stack.pack: params");
      const Pool::Guest guest(is_guest);
      without_gil([&] { return s.pack(weights, training, &interrupted); });
    });
  }

  py::tuple forward(const py::array& x, const py::object& state, bool training, const Asked& options) const {
    return visit([&](auto& s) { return forward_as(s, x, state, training, options); });
  }

  /// As forward without options. None where x or the state is not exact: not an array of this dtype, shape and layout.
  py::object forward_if_exact(const py::object& x, const py::object& state, bool training) const {
    return visit([&](auto& s) -> py::object {
      if (!s.packed() || !is_exact(s, x, state)) return py::none();
      return forward_as(s, py::reinterpret_borrow<py::array>(x), state, training, std::nullopt);
    });
  }

  /// The same on `params`, of which the stack keeps nothing, and the tape what backward needs, or nothing without
  /// keep_weights. False where x or state is not exact, None where the call is not a short one.
  py::object forward_short(const py::object& x, const py::object& state, bool training, const py::object& params,
                           bool keep_weights) const {
    return visit([&](auto& s) -> py::object {
      if (!is_exact(s, x, state)) return py::bool_(false);
      const auto array = py::reinterpret_borrow<py::array>(x);
      if (!s.is_short(OuterShape::of(array.shape(0), array.shape(1)))) return py::none();
      const auto weights = read_parameters(s, params, "Stack.forward_short: params");
      return forward_as(s, array, state, training, std::nullopt, &weights[0], keep_weights);
    });
  }

  /// What a backward call is asked for besides the gradients of parameters and reset states.
  struct BackwardOptions {
    bool accumulate = false, retain = false, want_dx = true, want_dstate = true, want_dsteps = false;
    py::object weights = py::none();  // those of forward, which some tapes do not keep
  };

  /// (dx, dstate), and dsteps where they are wanted; None for what is not wanted of the first two.
  py::tuple backward(PyTape& tape, const std::optional<py::array>& dy, const py::object& dstate,
                     const py::object& grads, const std::vector<py::object>& dreset_state,
                     const BackwardOptions& options) const {
    return visit([&](auto& s) {
      auto call = backward_call(s, grads, dreset_state);
      call.accumulate = options.accumulate;
      call.retain = options.retain;
      call.weights = given_weights(s, tape, options.weights);
      return backward_as(s, tape, dy, dstate, call, options);
    });
  }

  /// As backward; None where dy or dstate is not exact.
  py::object backward_if_exact(PyTape& tape, const py::object& dy, const py::object& dstate, const py::object& grads,
                               const py::object& weights) const {
    return visit([&](auto& s) -> py::object {
      const OuterShape& outer = own(s, tape).outer();
      const stack::StackSizes& sizes = s.sizes();
      const bool exact = dy.is_none() || is_exact_rows(s, outer, dy, sizes.directions * s.width(0));
      if (!exact || !is_exact_state(s, outer.batch, dstate)) return py::none();
      std::optional<py::array> rows;
      if (!dy.is_none()) rows = py::reinterpret_borrow<py::array>(dy);
      auto call = backward_call(s, grads, {});
      call.weights = given_weights(s, tape, weights);
      return backward_as(s, tape, rows, dstate, call, BackwardOptions());
    });
  }

 private:
  friend class TensorCalls;

  template <class T>
  static std::unique_ptr<stack::Stack<T>> make(const std::string& cell, const stack::StackSizes& sizes) {
    auto made = stack::make_stack<T>(cell, sizes);
    const char* const with = sizes.heads > 1 ? " with heads" : "";
    if (!made) throw py::value_error("Stack: there is no cell '" + cell + "'" + with);
    const bool projects = made->parameters(0).projection.rows > 0;
    if (projects ? made->width(0) < 1 || made->width(0) > sizes.hidden : sizes.projection != 0) {
      const std::string expected = projects ? "1 to " + std::to_string(sizes.hidden) : "0, as the cell has none";
      throw py::value_error("Stack: proj_size is " + std::to_string(sizes.projection) + ", expected " + expected);
    }
    return made;
  }

  std::vector<const stack::CallOptions*> checked(const Asked& asked) const {
    std::vector<const stack::CallOptions*> options;
    if (!asked) return options;
    if (Index(asked->size()) != visit([](auto& s) { return s.kernels(); }))
      throw py::value_error("Stack: expected options for each layer and direction");
    for (const CallOptions* each : *asked) {
      if (!each) throw py::type_error("Stack: an option is None, expected CallOptions");
      options.push_back(&each->options);
    }
    return options;
  }

  /// Whether a call takes a few microseconds: some 100,000 multiplications.
  template <class T>
  static bool is_brief(const stack::Stack<T>& s, const OuterShape& outer) {
    constexpr double kWeights = 32768, kRow = 1024;  // what a row costs besides its products, as weights
    const stack::StackSizes& n = s.sizes();
    const double row = double(n.hidden) * double(n.input + n.hidden);
    return double(outer.rows) * double(s.kernels()) * std::max(kRow, row) < kWeights;
  }

  template <class T>
  static bool is_exact_rows(const stack::Stack<T>&, const OuterShape& outer, const py::object& a, Index width) {
    return outer.packed ? fits<T>(a, {outer.rows, width}) : fits<T>(a, {outer.steps, outer.batch, width});
  }
  template <class T>
  static bool is_exact_state(const stack::Stack<T>& s, Index batch, const py::object& state) {
    if (state.is_none()) return true;
    if (s.states() == 1) return fits<T>(state, {s.kernels(), batch, s.width(0)});
    if (!PyTuple_CheckExact(state.ptr()) || PyTuple_GET_SIZE(state.ptr()) != s.states()) return false;
    for (int i = 0; i < s.states(); ++i) {
      if (!fits<T>(PyTuple_GET_ITEM(state.ptr(), i), {s.kernels(), batch, s.width(i)})) return false;
    }
    return true;
  }
  template <class T>
  static bool is_exact(const stack::Stack<T>& s, const py::object& x, const py::object& state) {
    if (!is_plain_array(x)) return false;
    const auto a = py::reinterpret_borrow<py::array>(x);
    return a.ndim() == 3 && fits<T>(x, {a.shape(0), a.shape(1), s.sizes().input}) &&
           is_exact_state(s, a.shape(1), state);
  }

  template <class T>
  std::vector<stack::DirectionOptions<T>> direction_options(const stack::Stack<T>& s, const Asked& asked,
                                                            const OuterShape& outer) const {
    std::vector<stack::DirectionOptions<T>> all;
    const std::vector<const stack::CallOptions*> options = checked(asked);
    for (std::size_t k = 0; k < options.size(); ++k) {
      const auto& order = options[k]->order;
      if (order != options[k % std::size_t(s.sizes().directions)]->order ||
          !((order ? OuterShape::of(*order) : OuterShape::of(outer.steps, outer.batch)) == outer))
        throw py::value_error("Stack: the rows of layers or directions differ, expected those of one pass");
      const CallOptions& own = *(*asked)[k];
      stack::DirectionOptions<T> each{options[k]};
      if (!own.resets.is_none()) {
        const char* name = "Stack.forward: resets";
        each.resets = read_resets(outer, as_array(own.resets, name), name);
      }
      for (int i = 0; i < s.states() && !own.reset_state.is_none(); ++i) {
        const char* name = "Stack.forward: reset_state";
        each.reset_state[i] = read<T>(state_part(own.reset_state, i, s.states(), name), {s.width(i)}, name);
      }
      all.push_back(each);
    }
    return all;
  }

  template <class T>
  py::tuple forward_as(const stack::Stack<T>& s, const py::array& x, const py::object& state, bool training,
                       const Asked& options, const sequence::Flat<const T>* weights = nullptr,
                       bool keep_weights = true) const {
    if (!weights && !s.packed())
      throw py::value_error("Stack.forward: there are no weights, expected a call of pack first");
    const auto* order = options && !options->empty() && (*options)[0] ? (*options)[0]->options.order.get() : nullptr;
    stack::StackForward<T> call{outer_shape(x, order, "Stack.forward: x"), nullptr, {}, nullptr, {}, {}};
    const OuterShape& outer = call.outer;
    const Index n = s.kernels();
    call.options = direction_options(s, options, outer);
    call.keep_weights = keep_weights;
    call.x = read_rows<T>(outer, x, s.sizes().input, "Stack.forward: x");
    const States initial = read_states(s, state, n, outer.batch, call.initial, "Stack.forward: state");
    py::array_t<T> y = empty_rows<T>(outer, s.sizes().directions * s.width(0));
    call.y = y.mutable_data();
    const States last = new_states(s, n, outer.batch, call.final);
    std::unique_ptr<stack::StackTape<T>> passes;
    const Pool::Guest guest(is_guest);
    without_gil_unless(is_brief(s, outer), [&] {
      auto* const made = training ? &passes : nullptr;
      return weights ? s.forward(*weights, call, made, &interrupted) : s.forward(call, made, &interrupted);
    });
    const py::object final = as_state(last, s.states());
    if (!training) return py::make_tuple(y, final, py::none());
    auto tape = std::make_unique<PyTape>();
    tape->owner = id_;
    tape->arrays.reserve(std::size_t(s.states()) + 2);
    tape->arrays.push_back(x);
    tape->arrays.insert(tape->arrays.end(), initial.begin(), initial.begin() + s.states());
    if (passes->reads_y()) {
      make_read_only(y);
      tape->arrays.push_back(y);
    }
    tape->passes = std::move(passes);
    return py::make_tuple(y, final, std::move(tape));
  }

  template <class T>
  stack::StackBackward<T> backward_call(const stack::Stack<T>& s, const py::object& grads,
                                        const std::vector<py::object>& dreset_state) const {
    stack::StackBackward<T> call{};
    if (!grads.is_none()) call.d = write_parameters(s, grads, "Stack.backward: grads");
    if (!dreset_state.empty() && Index(dreset_state.size()) != s.kernels())
      throw py::value_error("Stack.backward: expected dreset_state for each layer and direction, or none");
    for (const py::object& each : dreset_state) {
      call.dreset_state.push_back({});
      for (int i = 0; i < s.states(); ++i) {
        const char* name = "Stack.backward: dreset_state";
        py::array part = state_part(each, i, s.states(), name);
        call.dreset_state.back()[std::size_t(i)] = write<T>(part, {s.width(i)}, name);
      }
    }
    return call;
  }

  /// The weights of a tape that keeps none, as backward gets them again; else nothing.
  template <class T>
  std::vector<sequence::Flat<const T>> given_weights(const stack::Stack<T>& s, PyTape& tape,
                                                     const py::object& weights) const {
    if (own(s, tape).keeps_weights()) return {};
    if (weights.is_none())
      throw py::value_error("Stack.backward: weights is None for a tape that keeps none, expected those of forward");
    return read_parameters(s, weights, "Stack.backward: weights");
  }

  template <class T>
  py::tuple backward_as(const stack::Stack<T>& s, PyTape& py_tape, const std::optional<py::array>& dy,
                        const py::object& dstate, stack::StackBackward<T>& call, const BackwardOptions& options) const {
    stack::StackTape<T>& tape = own(s, py_tape);
    const OuterShape outer = tape.outer();
    const Index n = s.kernels();
    if (dy) call.dy = read_rows<T>(outer, *dy, s.sizes().directions * s.width(0), "Stack.backward: dy");
    const States last = read_states(s, dstate, n, outer.batch, call.dfinal, "Stack.backward: dstate");
    py::object dx = py::none(), initial = py::none();
    py::list dsteps;
    if (options.want_dx) {
      py::array_t<T> made = empty_rows<T>(outer, s.sizes().input);
      call.dx = made.mutable_data();
      dx = std::move(made);
    }
    if (options.want_dstate) initial = as_state(new_states(s, n, outer.batch, call.dinitial), s.states());
    if (options.want_dsteps) dsteps = new_steps(s, outer, call);
    const TapeUse use(py_tape, call.retain);
    const Pool::Guest guest(is_guest);
    without_gil_unless(is_brief(s, outer), [&] { return s.backward(tape, call, &interrupted); });
    if (!options.want_dsteps) return py::make_tuple(dx, initial);
    return py::make_tuple(dx, initial, dsteps);
  }

  /// Room for the gradients of each step's states, of each kernel: rows as x has them.
  template <class T>
  static py::list new_steps(const stack::Stack<T>& s, const OuterShape& outer, stack::StackBackward<T>& call) {
    py::list all;
    for (Index k = 0; k < s.kernels(); ++k) {
      States states;
      call.dsteps.push_back({});
      for (int i = 0; i < s.states(); ++i) {
        py::array_t<T> made = empty_rows<T>(outer, s.width(i));
        call.dsteps.back()[std::size_t(i)] = made.mutable_data();
        states[std::size_t(i)] = std::move(made);
      }
      all.append(as_state(states, s.states()));
    }
    return all;
  }

  /// The passes of a tape, after a check that this stack made it.
  template <class T>
  stack::StackTape<T>& own(const stack::Stack<T>&, PyTape& tape) const {
    auto* passes = std::get_if<std::unique_ptr<stack::StackTape<T>>>(&tape.passes);
    if (!passes || tape.owner != id_)
      throw py::value_error("backward: tape is of another layer, expected one of this layer's forward");
    return **passes;
  }

  static Index next_id() {
    static std::atomic<Index> id{0};
    return ++id;
  }

  const Index id_ = next_id();
  std::variant<std::unique_ptr<stack::Stack<float>>, std::unique_ptr<stack::Stack<double>>> impl_;
};

}  // namespace bptt::bindings
