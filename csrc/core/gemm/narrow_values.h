// SPDX-License-Identifier: Apache-2.0
// Weights rounded to fewer bits (narrow.h).
#pragma once

#include <cstdint>

#include "core/memory/sizes.h"

namespace bptt {

/// The deepest product of bytes whose sums fit into 32 bits, whatever the values: 255 * 127 * 2^16 < 2^31.
constexpr Index kMostInt8Depth = 1 << 16;

/// A row of weights [K] as integers from -127 to 127 and the scale that it returns, of which the last 7 bits are zero:
/// each integer times the scale is a float32, and these floats give the same integers and the same scale again.
float quantize_weights(std::int8_t* to, const float* from, Index K);

/// A weight as bfloat16, rounded to nearest even; beyond the largest bfloat16 it becomes that one.
std::uint16_t to_bfloat16(float x);
float from_bfloat16(std::uint16_t x);

}  // namespace bptt
