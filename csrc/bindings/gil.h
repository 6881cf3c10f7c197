// SPDX-License-Identifier: Apache-2.0
// The only file that releases the GIL and takes it back: around native work, and in long calls for Ctrl-C.
//
// While the interpreter shuts down, CPython up to 3.13 ends each other thread that asks for the GIL by pthread_exit. On
// Linux that unwinds the thread's C++ frames, and the process aborts in the first function that must not throw. So
// such a thread sleeps here until the process ends, as CPython 3.14 itself makes it do.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

#include "core/inline.h"
#include "core/threads/denormals.h"

namespace bptt::bindings {

/// Runs f, which may take the GIL: PyEval_RestoreThread, or anything that runs Python code. f must not throw. Never
/// inlined: within a noexcept destructor the compiler need not run the clean-up of a frame that is unwound.
template <class F>
BPTT_NOINLINE void run_python(const F& f) {
#if defined(__unix__) || defined(__APPLE__)
  void (*const sleep)(void*) = [](void*) {
    for (;;) pause();
  };
  pthread_cleanup_push(sleep, nullptr);
  f();
  pthread_cleanup_pop(0);
#else
  f();
#endif
}

/// Releases the GIL while it lives.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()), outer_(std::exchange(innermost_, this)) {}
  ~GilRelease() {
    innermost_ = outer_;
    run_python([this] { PyEval_RestoreThread(state_); });
  }
  GilRelease(const GilRelease&) = delete;

 private:
  friend bool interrupted();
  static inline thread_local GilRelease* innermost_ = nullptr;  // of this thread

  PyThreadState* const state_;
  const FloatMode mode_;     // in which Python code runs
  GilRelease* const outer_;  // of the call whose signal handler made this call
};

/// Long jobs call it without the GIL: runs the handlers of the signals that have arrived. True if one of them raised an
/// exception, which is then set. They run as the caller computes, without flushed denormals. False on a thread of the
/// pool: Python runs handlers on the main thread only.
inline bool interrupted() {
  GilRelease* release = GilRelease::innermost_;
  if (!release) return false;
  run_python([release] { PyEval_RestoreThread(release->state_); });
  const FloatMode ours;
  release->mode_.restore();
  const bool raised = PyErr_CheckSignals() != 0;
  ours.restore();
  PyEval_SaveThread();
  return raised;
}

}  // namespace bptt::bindings
