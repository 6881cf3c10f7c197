// SPDX-License-Identifier: Apache-2.0
// By which arithmetic products are made (mode.h).
#pragma once

namespace bptt {

enum class ProductMode : unsigned char { kFma, kWinograd, kBfloat16, kAmxBfloat16 };

}  // namespace bptt
