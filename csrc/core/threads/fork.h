// SPDX-License-Identifier: Apache-2.0
// Forks: a child has only the thread that forked, and a lock that another thread held stays locked there.
#pragma once

#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bptt {

/// Holds the only lock of the process for a few instructions, such as replacing a pointer. A fork waits until no thread
/// holds it, so that it is free in the child. A thread that holds it takes no other lock.
class ForkLock {
 public:
  ForkLock() : held_(mutex_) {}

 private:
  static inline std::mutex mutex_;
#if defined(__unix__) || defined(__APPLE__)
  static inline const int at_fork_ =
      pthread_atfork([] { mutex_.lock(); }, [] { mutex_.unlock(); }, [] { mutex_.unlock(); });
#endif

  std::lock_guard<std::mutex> held_;
};

}  // namespace bptt
