// SPDX-License-Identifier: Apache-2.0
// The arena and the products of core/, where Python cannot look.
#include <numeric>
#include <random>

#include "core/gemm/outer.h"
#include "core/gemm/product.h"
#include "core/gemm/rows_product.h"
#include "core/gemm/sums.h"
#include "core/gemm/transpose.h"
#include "core/memory/arena.h"
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
  Arena::instance().release();
  const std::size_t before = Arena::instance().held(), large = std::size_t(64) << 20;
  float* longer;
  {
    Buffer<float> a(Index(large / sizeof(float)));
    longer = a.data();
  }
  {
    Buffer<float> shorter(Index(large / 7 * 6 / sizeof(float)));
    check(shorter.data() == longer, "a block serves requests down to 4/5 of its size");
  }
  for (std::size_t bytes = large; bytes > large / 8; bytes = bytes / 8 * 3) Buffer<char> a{Index(bytes)};
  check(Arena::instance().held() - before <= large / 4 * 5 + (std::size_t(16) << 20), "the arena keeps its bound");
  check(Arena::instance().release() > 0, "free blocks go back");
  for (Index size : {Index(1000), Index(large)}) {
    for (int again = 0; again < 2; ++again) {
      auto zeros = Buffer<char>::zeros(size);
      check(std::all_of(zeros.data(), zeros.data() + size, [](char c) { return c == 0; }), "zeros");
      std::fill_n(zeros.data(), size, char(1));
    }
  }
  Arena::instance().release();
  check_equal(Arena::instance().held(), before, "and are no longer held");
  const auto refused = [](Index size, Index times) -> std::string {
    try {
      Buffer<char> b(checked_mul(size, times));
    } catch (const std::bad_alloc& error) {
      return error.what();
    }
    return "nothing";
  };
  check_equal(refused(Index(1) << 40, 1024),
              "memory: 1125899906842624 bytes could not be allocated, expected smaller sizes",
              "more than the system has");
  check_equal(refused(Index(1) << 40, Index(1) << 40),
              "memory: a size is 1099511627776 x 1099511627776 values, expected less than 2^57",
              "a size beyond 64 bits");
  check_equal(refused(-1, 1), "memory: a size is -1 x 1 values, expected less than 2^57", "a negative size");
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
        Panels<T> by_rows(depth, columns);
        by_rows.pack_rows(b.data(), columns, 0, depth / 2);
        by_rows.pack_rows(b.data(), columns, depth / 2, depth);
        check(std::equal(panels.data.data(), panels.data.data() + panels.data.size(), by_rows.data.data()), "by rows");
        std::vector<T> turned(columns * depth), back(depth * columns);
        transpose(turned.data(), depth, b.data(), columns, depth, columns);
        transpose(back.data(), columns, turned.data(), depth, columns, depth);
        check(back == b, "transpose twice");
        Panels<T> same(depth, columns);
        same.pack_transposed(turned.data(), depth, same.all());
        check(std::equal(panels.data.data(), panels.data.data() + panels.data.size(), same.data.data()), "packing");
      }
    }
  }
}

/// Of a matrix where its owner holds it: the bits of a product by panels, for some rows and columns.
template <class T>
void check_rows_product() {
  std::mt19937 generator(9);
  std::normal_distribution<T> normal;
  for (Index rows : {1, 2, 3, 5, 6, 7, 13, 50}) {
    for (Index length : {1, 7, 12, 33}) {
      for (Index columns : {1, 7, 16, 17, 63, 130, 7000}) {
        if (rows * length > 100 && columns > 1000) continue;
        const Segments k{length, 2, {0, length + 3}};
        const Index lda = 2 * length + 3, ldc = columns + 1;
        std::vector<T> a(rows * lda), b(2 * length * columns), c(rows * ldc, T(-1)), same = c;
        for (auto* v : {&a, &b})
          for (T& x : *v) x = normal(generator);
        Panels<T> panels(2 * length, columns);
        panels.pack(b.data(), columns, panels.all());
        const RowBlocks blocks(rows);
        const Share some(blocks.count / 3, blocks.count), part(panels.blocks() / 3, panels.blocks());
        product(c.data(), ldc, a.data(), lda, k, panels, static_cast<const T*>(nullptr), blocks, some.begin, some.end,
                part);
        ColumnRoom<T> room;
        room.reserve(2 * length + 5);
        product(ProductRows<T>{same.data(), ldc, a.data(), lda, k}, WholeRows<T>{b.data(), columns}, blocks, some, part,
                &room);
        check(c == same, "product by rows");
      }
    }
  }
}

/// Rows wherever they are, some of which there are not.
template <class T>
void check_transpose_of_rows() {
  constexpr int W = Vec<T>::kSize;
  for (Index columns = 1; columns <= 2 * W + 1; ++columns) {
    std::vector<T> a(W * columns), turned(columns * (W + 1), T(-1));
    std::iota(a.begin(), a.end(), T(1));
    const T* rows[W];
    for (int i = 0; i < W; ++i) rows[i] = i % 3 == 1 ? nullptr : a.data() + (W - 1 - i) * columns;
    transpose(turned.data(), W + 1, rows, columns);
    for (Index j = 0; j < columns; ++j) {
      for (int i = 0; i < W; ++i) check_equal(turned[j * (W + 1) + i], rows[i] ? rows[i][j] : T(0), "rows turned");
      check_equal(turned[j * (W + 1) + W], T(-1), "what is beside them");
    }
  }
}

template <class T>
void check_outer_of_few() {
  constexpr int W = Vec<T>::kSize;
  std::mt19937 generator(10);
  std::uniform_int_distribution<int> small(-8, 8);
  for (int rows = 1; rows <= kFewRows; ++rows) {
    for (Index columns = 1; columns <= 3 * W; ++columns) {
      constexpr Index m = 7;
      std::vector<T> p(rows * m), q(rows * columns), c(m * columns, T(1));
      for (auto* v : {&p, &q})
        for (T& x : *v) x = T(small(generator));
      const Share some(1, m - 1);
      dispatch<kFewRows>(rows, [&](auto count) {
        outer_of_few<count>(StridedRows<T>{c.data(), columns}, StridedRows<const T>{p.data(), m},
                            StridedRows<const T>{q.data(), columns}, columns, some);
      });
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < columns; ++j) {
          const bool written = some.begin <= i && i < some.end;
          T sum = T(!written);
          for (int r = 0; r < rows && written; ++r) sum += p[r * m + i] * q[r * columns + j];
          check_equal(c[i * columns + j], sum, "outer of few rows");
        }
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
          for (bool full : {false, true}) {
            std::vector<T> p(rows * m), q(rows * columns), panel(rows * N * W);
            std::vector<T> c(m * columns, T(1)), total(m * columns, T(2));
            for (auto* v : {&p, &q})
              for (T& x : *v) x = T(small(generator));
            gather<N>(panel.data(), q.data(), columns, columns, rows, 0);
            const SumTarget<T> to{c.data(), columns, fresh, full ? total.data() : nullptr};
            outer<N>(to, columns - 2 * W, StridedRows<const T>{p.data(), m}, StridedRows<const T>{panel.data(), N * W},
                     rows, 0, m);
            for (Index i = 0; i < m; ++i) {
              for (Index j = 0; j < columns; ++j) {
                T sum = T(fresh ? 0 : 1) + T(full ? 2 : 0);
                for (Index r = 0; r < rows; ++r) sum += p[r * m + i] * q[r * columns + j];
                check_equal((full ? total : c)[i * columns + j], sum, "outer");
              }
            }
          }
        }
      }
    }
  }
}

template <class T>
void check_sums() {
  for (Index rows : {0, 1, 127, 128, 129, 300}) {
    for (Index columns : {1, 7, 40}) {
      std::vector<T> a(rows * columns), sums(columns, T(-1));
      for (Index i = 0; i < rows * columns; ++i) a[i] = T(i % 7);
      column_sums(sums.data(), a.data(), columns, rows, 0, columns);
      for (Index j = 0; j < columns; ++j) {
        T sum = 0;
        for (Index r = 0; r < rows; ++r) sum += a[r * columns + j];
        check_equal(sums[j], sum, "column_sums");
      }
    }
  }
  SumsByRow<T> by_row(3, 2, 1000);
  for (Index t = 999; t >= 0; --t) {
    for (Index i = 0; i < 6; ++i) by_row.recent()[i] += T(i + 1);
    by_row.step_done(t, 0, 3, 0, 2);
  }
  T out[2];
  by_row.over_rows(out, 0, 2);
  check_equal(out[0], T(1000 * (1 + 3 + 5)), "sums by row, first column");
  check_equal(out[1], T(1000 * (2 + 4 + 6)), "sums by row, second column");
}

}  // namespace

int main() {
  check_arena();
  check_product<float>();
  check_product<double>();
  check_transpose_of_rows<float>();
  check_transpose_of_rows<double>();
  check_rows_product<float>();
  check_rows_product<double>();
  check_outer<float>();
  check_outer<double>();
  check_outer_of_few<float>();
  check_outer_of_few<double>();
  check_sums<float>();
  check_sums<double>();
  return finish();
}
