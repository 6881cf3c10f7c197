// SPDX-License-Identifier: Apache-2.0
// The class Tape: what a forward pass keeps so that backward passes can follow.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "bindings/outer.h"
#include "bindings/own.h"
#include "stack/stack.h"

namespace bptt::bindings {

/// Values of a tape that cells keep, and who uses it now. A tape serves one caller at a time, whatever holds the GIL.
struct PyTape : Own {
  enum Use { kFree, kBusy, kUsed };

  std::variant<std::unique_ptr<stack::StackTape<float>>, std::unique_ptr<stack::StackTape<double>>> passes;
  Index owner = 0;                 // id of the stack that made it
  std::vector<py::object> arrays;  // of the caller, which the passes point into
  std::atomic<int> use{kFree};

  Index bytes();
  /// Values that one kernel's cell keeps of each row and unit, in time, by number: [T,B,H] each.
  py::list kept(const std::vector<int>& indices, std::size_t kernel);

 private:
  template <class T>
  static py::list kept_of(const stack::StackTape<T>& tape, const std::vector<int>& indices, std::size_t kernel) {
    if (tape.segmented())
      throw std::runtime_error("Tape: a tape with checkpoints keeps no step's values, expected checkpoint=None");
    py::list values;
    if (kernel >= tape.kernels()) throw py::value_error("Tape.kept: there is no kernel " + std::to_string(kernel));
    for (const int i : indices) {
      py::array_t<T> out = empty_rows<T>(tape.outer(), tape.hidden());
      if (!tape.copy_kept(kernel, i, out.mutable_data()))
        throw py::value_error("Tape.kept: there is no value " + std::to_string(i));
      values.append(std::move(out));
    }
    return values;
  }
};

/// While it lives, the tape is the caller's alone; afterwards it is used up or, where it is retained, free again.
class TapeUse {
 public:
  TapeUse(PyTape& tape, bool retain) : tape_(tape), after_(retain ? PyTape::kFree : PyTape::kUsed) {
    int expected = PyTape::kFree;
    if (!tape.use.compare_exchange_strong(expected, PyTape::kBusy)) {
      const char* const what = expected == PyTape::kUsed ? "was used already, expected a tape of a new forward"
                                                         : "is in use, expected one call at a time";
      throw std::runtime_error(std::string("backward: tape ") + what);
    }
  }
  TapeUse(const TapeUse&) = delete;
  ~TapeUse() {
    if (after_ == PyTape::kUsed) tape_.arrays.clear();  // with the GIL
    tape_.use = after_;
  }

 private:
  PyTape& tape_;
  const int after_;
};

inline Index PyTape::bytes() {
  if (use == kUsed) return 0;
  const TapeUse mine(*this, true);
  return std::visit([](const auto& p) { return p->bytes(); }, passes);
}

inline py::list PyTape::kept(const std::vector<int>& indices, std::size_t kernel) {
  if (use == kUsed)
    throw std::runtime_error("Tape: backward has used what the tape kept, expected a question before it");
  const TapeUse mine(*this, true);
  return std::visit([&](const auto& p) { return kept_of(*p, indices, kernel); }, passes);
}

}  // namespace bptt::bindings
