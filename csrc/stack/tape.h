// SPDX-License-Identifier: Apache-2.0
// What a call of a LayerStack leaves for backward.
#pragma once

#include <memory>
#include <vector>

#include "stack/direction_pass.h"
#include "stack/stack.h"

namespace bptt::stack {

template <class T>
struct LayerTape final : StackTape<T> {
  std::vector<std::unique_ptr<DirectionPass<T>>> all;  // one for each kernel; they point into arrays of the caller
  std::vector<Buffer<T>> outputs;                      // y of each layer but the last, which the next one reads
  bool plain = false;                                  // one kernel on the caller's own arrays

  const OuterShape& outer() const override { return all[0]->outer(); }
  std::size_t kernels() const override { return all.size(); }
  bool reads_y() const override { return all.back()->reads_y(); }
  bool segmented() const override { return all[0]->tape.segmented(); }
  bool keeps_weights() const override { return all[0]->tape.call.keep_weights; }
  Index bytes() const override {
    Index n = 0;
    for (const auto& pass : all) n += pass->bytes();
    for (const Buffer<T>& y : outputs) n += y.size() * Index(sizeof(T));
    return n;
  }
  Index hidden() const override { return all[0]->hidden(); }
  bool copy_kept(std::size_t kernel, int i, T* to) const override {
    const DirectionPass<T>& pass = *all.at(kernel);
    if (i <= -pass.tape.S || i >= pass.tape.named) return false;
    pass.copy_kept(to, pass.tape.kept(i));
    return true;
  }
  /// Gives its memory back.
  void release() {
    for (const auto& pass : all) pass->release();
    outputs.clear();
  }
};

/// While it lives a backward pass uses the tape: after it the tape is as before, or its memory is free.
template <class T>
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

}  // namespace bptt::stack
