// SPDX-License-Identifier: Apache-2.0
// Whether the system lets this process use the tiles of AMX (amx.h). Linux wants to be asked first.
#pragma once

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bptt {

/// Asks for all threads of the process. A processor without AMX is refused.
inline bool request_amx() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM and the state, of asm/prctl.h
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace bptt
