// SPDX-License-Identifier: Apache-2.0
// What a call of a stack leaves for backward.
#pragma once

#include <memory>
#include <vector>

#include "stack/direction_pass.h"

namespace bptt::stack {

/// The passes of one call, layer by layer, one for each direction. They point into arrays of the caller.
template <class T>
struct StackTape {
  std::vector<std::unique_ptr<DirectionPass<T>>> all;
  std::vector<Buffer<T>> outputs;  // y of each layer but the last, which the next one reads

  /// Memory back to the arena, once nobody needs it.
  void release() {
    for (const auto& pass : all) pass->release();
    outputs.clear();
  }
  Index bytes() const {
    Index n = 0;
    for (const auto& pass : all) n += pass->bytes();
    for (const Buffer<T>& y : outputs) n += y.size() * Index(sizeof(T));
    return n;
  }
};

}  // namespace bptt::stack
