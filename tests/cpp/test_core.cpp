// SPDX-License-Identifier: Apache-2.0
// The arena and the products of core/, where Python cannot look.
#include <random>

#include "core/arena.h"
#include "core/gemm.h"
#include "test.h"

using namespace bptt;
using namespace bptt::test;

namespace {

void check_arena() {
  float* first;
  {
    Buffer<float> a(1000);
    first = a.data();
    check_equal(reinterpret_cast<std::uintptr_t>(first) % 64, std::uintptr_t(0), "alignment");
  }
  Buffer<float> again(1000);
  check(again.data() == first, "a released block is used again");
  check_throws<std::bad_alloc>([] { Buffer<double> b(Index(1) << 60); }, "an impossible size");
  check_throws<std::bad_alloc>([] { checked_mul(Index(1) << 40, Index(1) << 40); }, "a product beyond 64 bits");
}

template <class T>
void check_product() {
  std::mt19937 generator(7);
  std::uniform_int_distribution<int> small(-8, 8);  // sums of products are exact, whatever the order
  for (Index rows : {1, 2, 5, 6, 7, 13, 33}) {
    for (Index depth : {1, 3, 17}) {
      for (Index columns : {1, 7, 16, 17, 63, 130}) {
        std::vector<T> a(rows * depth), b(depth * columns), bias(columns), c(rows * columns), dw(depth * columns);
        for (auto* v : {&a, &b, &bias})
          for (T& x : *v) x = T(small(generator));
        Panels<T> panels(depth, columns);
        panels.pack(b.data(), columns, Share(panels.blocks(), 0, 1));
        const RowBlocks blocks(rows);
        product(c.data(), columns, a.data(), depth, Segments{depth}, panels, bias.data(), blocks, 0, blocks.count);
        for (Index r = 0; r < rows; ++r) {
          for (Index j = 0; j < columns; ++j) {
            T sum = bias[j];
            for (Index k = 0; k < depth; ++k) sum += a[r * depth + k] * b[k * columns + j];
            check_equal(c[r * columns + j], sum, "product");
          }
        }
        std::vector<T> turned(columns * depth), back(depth * columns);
        transpose(turned.data(), depth, b.data(), columns, depth, columns);
        transpose(back.data(), columns, turned.data(), depth, columns, depth);
        check(back == b, "transpose twice");
        Panels<T> same(depth, columns);
        same.pack_transposed(turned.data(), depth);
        check(std::equal(panels.data.data(), panels.data.data() + panels.data.size(), same.data.data()), "packing");
      }
    }
  }
}

template <class T>
void check_outer() {
  constexpr int W = Vec<T>::kSize, N = 3;
  std::mt19937 generator(8);
  std::uniform_int_distribution<int> small(-8, 8);
  for (Index rows : {1, 2, 40}) {
    for (Index m : {1, 5, 6, 8, 9, 20}) {
      for (Index columns : {2 * W + 1, 3 * W - 1, 3 * W}) {
        for (bool fresh : {false, true}) {
          std::vector<T> p(rows * m), q(rows * columns), panel(rows * N * W), c(m * columns, T(1));
          for (auto* v : {&p, &q})
            for (T& x : *v) x = T(small(generator));
          gather<N>(panel.data(), q.data(), columns, columns, rows, 0);
          outer<N>(c.data(), columns, columns - 2 * W, fresh, p.data(), m, panel.data(), rows, 0, m);
          for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < columns; ++j) {
              T sum = fresh ? T(0) : T(1);
              for (Index r = 0; r < rows; ++r) sum += p[r * m + i] * q[r * columns + j];
              check_equal(c[i * columns + j], sum, "outer");
            }
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  check_arena();
  check_product<float>();
  check_product<double>();
  check_outer<float>();
  check_outer<double>();
  return finish();
}
