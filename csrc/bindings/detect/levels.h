// SPDX-License-Identifier: Apache-2.0
// Which x86-64 microarchitecture levels (psABI v2, v3, v4) this processor and its operating system can run, and what
// the processor says of itself. It reads CPUID itself: __builtin_cpu_supports knows lzcnt and movbe only in recent
// compilers, and MSVC has nothing like it. It must be compiled with baseline flags, since it runs before anything else
// is known about the machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#define BPTT_X86_64 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace bptt::detect {

struct Processor {
  std::string vendor;                 // as CPUID spells it, such as AuthenticAMD; empty: not known
  int family = 0;                     // with the extended family, as vendors count
  std::vector<std::string> features;  // of avx512_bf16, avx512_vnni, amx_*; those whose registers the system saves
};

#ifdef BPTT_X86_64

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the processor does not know the leaf: each feature of that leaf is then absent.
inline Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf = 0) {
  Registers r;
#if defined(_MSC_VER)
  int highest[4], values[4];
  __cpuid(highest, static_cast<int>(leaf & 0x80000000u));
  if (static_cast<std::uint32_t>(highest[0]) < leaf) return r;
  __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<std::uint32_t>(values[0]), static_cast<std::uint32_t>(values[1]),
       static_cast<std::uint32_t>(values[2]), static_cast<std::uint32_t>(values[3])};
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// XCR0: the register states that the operating system saves at a context switch. Call only if OSXSAVE is set.
inline std::uint64_t saved_states() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

constexpr std::uint32_t bits() { return 0; }
template <class... Rest>
constexpr std::uint32_t bits(int first, Rest... rest) {
  return (std::uint32_t{1} << first) | bits(rest...);
}

constexpr bool has(std::uint64_t value, std::uint64_t wanted) { return (value & wanted) == wanted; }

// Best first; empty on a processor below v2 (before about 2009).
// macOS turns AVX-512 state on at its first use, so XCR0 lacks it here and such a Mac uses v3.
inline std::vector<std::string> levels() {
  const Registers leaf1 = cpuid(1), leaf7 = cpuid(7), extended = cpuid(0x80000001u);
  // sse3 ssse3 cmpxchg16b sse4.1 sse4.2 popcnt; lahf
  const bool v2 = has(leaf1.ecx, bits(0, 9, 13, 19, 20, 23)) && has(extended.ecx, bits(0));
  // fma movbe osxsave avx f16c; bmi1 avx2 bmi2; lzcnt; the XMM and YMM states are saved
  const bool v3 = v2 && has(leaf1.ecx, bits(12, 22, 27, 28, 29)) && has(leaf7.ebx, bits(3, 5, 8)) &&
                  has(extended.ecx, bits(5)) && has(saved_states(), bits(1, 2));
  // avx512 f dq cd bw vl; the opmask and ZMM states are saved
  const bool v4 = v3 && has(leaf7.ebx, bits(16, 17, 28, 30, 31)) && has(saved_states(), bits(5, 6, 7));
  std::vector<std::string> found;
  if (v4) found.emplace_back("v4");
  if (v3) found.emplace_back("v3");
  if (v2) found.emplace_back("v2");
  return found;
}

inline Processor processor() {
  const Registers leaf0 = cpuid(0), leaf1 = cpuid(1), leaf7 = cpuid(7);
  Processor found;
  char vendor[13] = {};
  std::memcpy(vendor, &leaf0.ebx, 4), std::memcpy(vendor + 4, &leaf0.edx, 4), std::memcpy(vendor + 8, &leaf0.ecx, 4);
  found.vendor = vendor;
  const int base = static_cast<int>(leaf1.eax >> 8 & 0xf), extended = static_cast<int>(leaf1.eax >> 20 & 0xff);
  found.family = base == 0xf ? base + extended : base;
  const std::uint64_t saved = has(leaf1.ecx, bits(27)) ? saved_states() : 0;  // if OSXSAVE
  const Registers more = leaf7.eax >= 1 ? cpuid(7, 1) : Registers();
  const bool wide = has(leaf7.ebx, bits(16)) && has(saved, bits(1, 2, 5, 6, 7));  // avx512f, opmask and ZMM states
  if (wide && has(more.eax, bits(5))) found.features.emplace_back("avx512_bf16");
  if (wide && has(leaf7.ecx, bits(11))) found.features.emplace_back("avx512_vnni");
  const bool tiles = has(saved, bits(17, 18));
  if (tiles && has(leaf7.edx, bits(24))) found.features.emplace_back("amx_tile");
  if (tiles && has(leaf7.edx, bits(22, 24))) found.features.emplace_back("amx_bf16");
  return found;
}

#else

inline std::vector<std::string> levels() { return {"base"}; }
inline Processor processor() { return {}; }

#endif

}  // namespace bptt::detect
