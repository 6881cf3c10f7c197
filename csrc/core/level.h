// SPDX-License-Identifier: Apache-2.0
// The instruction set that the kernels were compiled for.
#pragma once

namespace bptt {

struct Level {
  const char* name;   // as in the module's name: v2, v3, v4, base
  int float32_lanes;  // of a register
  const char* eigen;  // the version of Eigen
  bool has_modes;     // products by other arithmetics than chains of FMAs (gemm/mode.h)
};

const Level& level();

}  // namespace bptt
