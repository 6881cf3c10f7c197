// SPDX-License-Identifier: Apache-2.0
// What every file uses: the integer of sizes, and the compilers' words for inlining. Nothing here depends on the
// instruction set.
#pragma once

#include <cstdint>

#if defined(_MSC_VER)
#define BPTT_INLINE __forceinline
#define BPTT_NOINLINE __declspec(noinline)
#else
#define BPTT_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define BPTT_NOINLINE __attribute__((noinline))
#else
#define BPTT_NOINLINE __attribute__((noinline, noclone))  // nor a copy for each constant it is called with
#endif
#endif

namespace bptt {

using Index = std::int64_t;

inline Index ceil_div(Index a, Index b) { return a / b + (a % b != 0); }

}  // namespace bptt
