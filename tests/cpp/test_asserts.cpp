// SPDX-License-Identifier: Apache-2.0
// The contracts below the boundary are asserted, and the asserts are in these programs: each case breaks one contract
// in a child process, which must end by SIGABRT. Without asserts nothing would.
#include "test.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "core/gemm/blocks.h"
#include "core/gemm/outer.h"
#include "core/gemm/panels.h"
#include "core/gemm/product.h"
#include "core/gemm/transpose.h"
#include "core/memory/arena.h"
#include "core/memory/rows.h"
#include "core/simd/vec.h"
#include "core/threads/share.h"
#include "nn/orthogonal.h"
#include "sequence/tape.h"

using namespace bptt;
using namespace bptt::test;

namespace {

constexpr int W = Vec<float>::kSize;

template <class F>
void check_aborts(const F& call, const std::string& what, Place place = {}) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    if (!std::freopen("/dev/null", "w", stderr)) _exit(1);  // the message of the assert
    call();
    _exit(0);
  }
  int status = 0;
  check(child > 0 && waitpid(child, &status, 0) == child, what + ": no child process", place);
  check(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, what + ": did not abort", place);
}

void check_memory() {
  check_aborts([] { Buffer<float>(3)[3] = 1; }, "an index beyond a buffer");
  check_aborts([] { Buffer<float>(3)[-1] = 1; }, "an index before a buffer");
  check_aborts([] { Buffer<float>()[0] = 1; }, "an index of an empty buffer");
  float from[4] = {}, to[4] = {};
  check_aborts([&] { copy_rows(to, 1, from, 2, 2, 2); }, "rows closer than they are wide");
  check_aborts([&] { Vec<float>::load(from, W + 1).store(to, 1); }, "more lanes than a register has");
}

void check_shares() {
  check_aborts([] { Share(10, 2, 2); }, "a thread beyond the team");
  check_aborts([] { Share(3, 2); }, "a share that ends before it begins");
  check_aborts([] { RowBlocks(-1); }, "fewer than no rows");
  check_aborts([] { RowBlocks(7).begin(RowBlocks(7).count); }, "a block beyond the rows");
  check_aborts([] { dispatch<3>(0, [](auto) {}); }, "a size below those compiled");
  check_aborts([] { dispatch<3>(4, [](auto) {}); }, "a size above those compiled");
}

void check_products() {
  std::vector<float> a(100), c(100);
  const RowBlocks rows(2);
  const Panels<float> b(4, 3);
  const float* none = nullptr;
  const auto multiply = [&](Segments k, Index end) { product(c.data(), 3, a.data(), 4, k, b, none, rows, 0, end); };
  check_aborts([&] { b.block(1); }, "a panel beyond the columns");
  check_aborts([&] { multiply(Segments{5}, 1); }, "segments deeper than the panels");
  check_aborts([&] { multiply(Segments{4}, 2); }, "blocks beyond the rows");
  check_aborts([&] { narrow_product(c.data(), 1, a.data(), W, Segments{W - 1}, a.data(), rows, 0, 1); },
               "segments of parts of registers");
  check_aborts([&] { narrow_product(c.data(), kNarrow + 1, a.data(), W, Segments{W}, a.data(), rows, 0, 1); },
               "more columns than narrow ones");
  check_aborts([&] { transpose(c.data(), 2, a.data(), 3, 3, 3); }, "a transpose into rows that are too close");
  const SumTarget<float> to{c.data(), W, true};
  check_aborts(
      [&] {
        outer<1>(to, W + 1, StridedRows<const float>{a.data(), 1}, StridedRows<const float>{a.data(), W}, 1, 0, 1);
      },
      "more columns than registers");
  check_aborts([&] { gather<2>(c.data(), a.data(), W, W, 1, 0); }, "registers beyond the columns");
  check_aborts([] { Orthogonal(2, 3); }, "more columns than rows");
}

void check_tape() {
  sequence::Tape<float> tape;
  tape.call.batch_sizes = {5, 2};
  tape.first = 3;
  check_equal(tape.row(5), Index(4), "the row after the last step");
  check_aborts([&] { tape.row(2); }, "a step before the segment");
  check_aborts([&] { tape.row(6); }, "a step beyond the last");
}

}  // namespace
#endif

int main() {
#ifdef NDEBUG
  bptt::test::check(false, "compiled without asserts");
#else
  bptt::test::check(true, "compiled with asserts");
#endif
#if defined(__unix__) || defined(__APPLE__)
  check_memory();
  check_shares();
  check_products();
  check_tape();
#endif
  return bptt::test::finish();
}
