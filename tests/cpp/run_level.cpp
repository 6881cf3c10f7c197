// SPDX-License-Identifier: Apache-2.0
// run_level LEVEL PROGRAM: runs PROGRAM if this machine can run LEVEL (v2, v3, v4, base), else exits 77, which ctest
// reports as skipped. Compiled with baseline flags, unlike the programs, whose very first instructions may be refused.
#include <algorithm>
#include <cstdio>
#include <string>

#ifdef _WIN32
#include <process.h>
#else
#include <unistd.h>
#endif

#include "bindings/detect/levels.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "run_level: expected LEVEL PROGRAM\n");
    return 2;
  }
  const std::string level = argv[1];
  const auto levels = bptt::detect::levels();
  if (std::find(levels.begin(), levels.end(), level) == levels.end()) {
    std::printf("this machine cannot run %s\n", level.c_str());
    return 77;
  }
#ifdef _WIN32
  const char* const arguments[] = {argv[2], nullptr};
  return static_cast<int>(_spawnv(_P_WAIT, argv[2], arguments));
#else
  execl(argv[2], argv[2], static_cast<char*>(nullptr));
  std::perror("run_level");
  return 2;
#endif
}
