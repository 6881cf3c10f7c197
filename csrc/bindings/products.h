// SPDX-License-Identifier: Apache-2.0
// The names of the arithmetics of products (core/gemm/mode.h), and those that this module can run on this processor.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/detect/levels.h"
#include "core/gemm/amx_permission.h"
#include "core/gemm/product_mode.h"
#include "core/level.h"

namespace bptt::bindings {

inline constexpr std::array<std::pair<const char*, ProductMode>, 7> kProducts{
    {{"fma", ProductMode::kFma},
     {"winograd", ProductMode::kWinograd},
     {"bfloat16", ProductMode::kBfloat16},
     {"amx_bfloat16", ProductMode::kAmxBfloat16},
     {"bfloat16_weights", ProductMode::kBfloat16Weights},
     {"int8", ProductMode::kInt8},
     {"int8_vnni", ProductMode::kInt8Vnni}}};

inline std::string name_of(ProductMode mode) {
  const auto found =
      std::find_if(kProducts.begin(), kProducts.end(), [&](const auto& each) { return each.second == mode; });
  return found->first;
}

/// Whether this module on this processor can make products so.
inline bool runs_here(ProductMode mode) {
  if (mode == ProductMode::kFma || mode == ProductMode::kBfloat16Weights || mode == ProductMode::kInt8) return true;
  if (!level().has_modes || mode == ProductMode::kWinograd) return level().has_modes;
  static const std::vector<std::string> features = detect::processor().features;
  const auto has = [](const char* name) { return std::find(features.begin(), features.end(), name) != features.end(); };
  if (mode == ProductMode::kInt8Vnni) return has("avx512_vnni");
  static const bool amx = has("amx_bf16") && request_amx();
  return has("avx512_bf16") && (amx || mode == ProductMode::kBfloat16);
}

/// The names of all that run here, with narrow weights or without.
inline std::vector<std::string> products(bool narrow) {
  std::vector<std::string> found;
  for (const auto& [name, mode] : kProducts) {
    if (is_narrow(mode) == narrow && runs_here(mode)) found.emplace_back(name);
  }
  return found;
}

/// ValueError for a name that is unknown or does not run here: nothing else is computed in its place.
inline ProductMode read_products(const std::string& name) {
  std::string known;
  for (const auto& [each, mode] : kProducts) {
    if (!runs_here(mode)) continue;
    if (name == each) return mode;
    known += (known.empty() ? "" : " or ") + std::string(each);
  }
  throw py::value_error("Stack: products is '" + name + "', expected " + known + " (what level " + level().name +
                        " has on this processor)");
}

}  // namespace bptt::bindings
