// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid and tanh of an array, for the tests of their accuracy and for use from Python.
#pragma once

#include <string>

#include "core/memory/sizes.h"

namespace bptt {

/// y [n] = name(x [n]). False where there is no such function.
template <class T>
bool vector_function(const std::string& name, const T* x, T* y, Index n);

}  // namespace bptt
