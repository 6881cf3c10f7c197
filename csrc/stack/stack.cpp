// SPDX-License-Identifier: Apache-2.0
// Stacks in float and double.
#include "stack/layer_stack.h"

namespace bptt::stack {

template <class T>
std::unique_ptr<Stack<T>> make_stack(const std::string& cell, const StackSizes& sizes) {
  typename LayerStack<T>::Kernels kernels;
  for (Index k = 0; k < sizes.layers * sizes.directions; ++k) {
    const Index input = k < sizes.directions ? sizes.input : sizes.directions * kernels[0]->width(0);
    kernels.push_back(
        sequence::make_recurrence<T>(cell, input, sizes.hidden, sizes.projection, sizes.heads, sizes.mode));
    if (!kernels.back() || kernels.back()->heads() != sizes.heads) return nullptr;
  }
  return std::make_unique<LayerStack<T>>(cell, sizes, std::move(kernels));
}

template std::unique_ptr<Stack<float>> make_stack(const std::string&, const StackSizes&);
template std::unique_ptr<Stack<double>> make_stack(const std::string&, const StackSizes&);

}  // namespace bptt::stack
