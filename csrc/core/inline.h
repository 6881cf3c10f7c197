// SPDX-License-Identifier: Apache-2.0
// The compilers' words for inlining.
#pragma once

#if defined(_MSC_VER)
#define BPTT_INLINE __forceinline
#define BPTT_NOINLINE __declspec(noinline)
#define BPTT_FLATTEN
#else
#define BPTT_INLINE inline __attribute__((always_inline))
#define BPTT_FLATTEN __attribute__((flatten))  // whatever the function calls is inlined
#if defined(__clang__)
#define BPTT_NOINLINE __attribute__((noinline))
#else
#define BPTT_NOINLINE __attribute__((noinline, noclone))  // nor a copy for each constant it is called with
#endif
#endif
