// SPDX-License-Identifier: Apache-2.0
// By which arithmetic products are made (mode.h), or from which narrow weights (narrow.h).
#pragma once

namespace bptt {

enum class ProductMode : unsigned char { kFma, kWinograd, kBfloat16, kAmxBfloat16, kBfloat16Weights, kInt8, kInt8Vnni };

/// Whether weights are stored in fewer bits: for inference only.
constexpr bool is_narrow(ProductMode mode) { return mode >= ProductMode::kBfloat16Weights; }
constexpr bool is_int8(ProductMode mode) { return mode >= ProductMode::kInt8; }

}  // namespace bptt
