// SPDX-License-Identifier: Apache-2.0
#include "core/level.h"

#include "core/gemm/mode.h"
#include "core/simd/vec.h"

#define BPTT_TEXT(x) #x
#define BPTT_VERSION_TEXT(a, b, c) BPTT_TEXT(a) "." BPTT_TEXT(b) "." BPTT_TEXT(c)

namespace bptt {

const Level& level() {
  static constexpr Level kLevel{BPTT_LEVEL, Vec<float>::kSize,
                                BPTT_VERSION_TEXT(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION),
                                kHasModes};
  return kLevel;
}

}  // namespace bptt
