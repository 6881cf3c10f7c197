// SPDX-License-Identifier: Apache-2.0
// Bands of h, for all divisions of up to 130 units into heads and all register widths: each has the heads of its
// block's units and no other, neighbours with the same band are one run, and there is room for the longest.
#include "sequence/bands.h"

#include "test.h"

using namespace bptt;
using namespace bptt::test;
using sequence::Band;

namespace {

void test_division(Index H, Index N, Index W) {
  const std::string name = "H " + std::to_string(H) + " N " + std::to_string(N) + " W " + std::to_string(W);
  const std::vector<Band> bands = sequence::make_bands(H, N, W);
  const Index head = H / N, count = (H + W - 1) / W;
  check_equal(Index(bands.size()), count, name + ": blocks");
  for (Index block = 0; block < count; ++block) {
    const Band& band = bands[std::size_t(block)];
    const Index last = std::min(H, (block + 1) * W) - 1;
    check_equal(band.begin, block * W / head * head, name + ": begin");
    check_equal(band.begin + band.length, last / head * head + head, name + ": end");
    check(band.length <= sequence::longest_band(H, N, W), name + ": room");
    check(band.first <= block && block < band.end, name + ": run");
    for (Index other = 0; other < count; ++other) {
      const Band& b = bands[std::size_t(other)];
      const bool same = b.begin == band.begin && b.length == band.length;
      check_equal(band.first <= other && other < band.end, same, name + ": run of the same");
    }
  }
}

}  // namespace

int main() {
  for (Index H = 1; H <= 130; ++H) {
    for (Index N = 1; N <= H; ++N) {
      for (const Index W : {2, 4, 8, 16}) {
        if (H % N == 0) test_division(H, N, W);
      }
    }
  }
  return finish();
}
