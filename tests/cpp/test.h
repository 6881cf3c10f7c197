// SPDX-License-Identifier: Apache-2.0
// What the C++ tests share: checks that report the place and both values and go on, and the exit status.
// Not a framework: a test is a program whose main() calls its cases and returns bptt::test::finish().
#pragma once

#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <sstream>
#include <string>

namespace bptt::test {

// Default arguments are evaluated at the call, so each check knows its line without a macro.
struct Place {
  const char* file;
  int line;
  Place(const char* file_name = __builtin_FILE(), int line_number = __builtin_LINE())
      : file(file_name), line(line_number) {}
};

inline std::atomic<int> checks{0}, failures{0};  // checks may run on threads of the pool

inline void check(bool ok, const std::string& what, Place place = {}) {
  ++checks;
  if (ok) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", place.file, place.line, what.c_str());
}

template <class A, class B>
void check_equal(const A& actual, const B& expected, const std::string& what, Place place = {}) {
  if (actual == expected) return check(true, what, place);
  std::ostringstream text;
  text.precision(std::numeric_limits<double>::max_digits10);
  text << what << ": is " << actual << ", expected " << expected;
  check(false, text.str(), place);
}

// NaN is near to nothing; an infinity only to itself.
inline void check_near(double actual, double expected, double tolerance, const std::string& what, Place place = {}) {
  if (actual == expected || std::abs(actual - expected) <= tolerance) return check(true, what, place);
  std::ostringstream text;
  text.precision(std::numeric_limits<double>::max_digits10);
  text << what << ": is " << actual << ", expected " << expected << " within " << tolerance;
  check(false, text.str(), place);
}

template <class Exception, class F>
void check_throws(F call, const std::string& what, Place place = {}) {
  try {
    call();
  } catch (const Exception&) {
    return check(true, what, place);
  } catch (...) {
    return check(false, what + ": threw another exception", place);
  }
  check(false, what + ": threw nothing", place);
}

// A program without a single check is a mistake, not a success.
inline int finish() {
  std::printf("%d checks, %d failed\n", checks.load(), failures.load());
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace bptt::test
