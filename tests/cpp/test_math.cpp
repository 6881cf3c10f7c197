// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid, logsigmoid and tanh against the next wider type: worst error in units in the last place, special
// values, both dtypes. `test_math full` visits every 7th float and 2^26 doubles (minutes; the figures in
// core/simd/math.h); without it every 997th float and 2^18 doubles, plus the neighbourhood of the points where the
// method changes.
#include "core/simd/math.h"

#include <cstring>
#include <random>

#include "test.h"

using namespace bptt;
using namespace bptt::test;

namespace {

constexpr double kMostUlp = 4.0;

template <class T>
using Bits = typename detail::FloatBits<T>::Int;

template <class T>
T from_bits(Bits<T> bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// The distance of neighbouring values of T near r.
template <class T, class Wide>
Wide spacing(Wide r) {
  int exponent;
  std::frexp(r, &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent - std::numeric_limits<T>::digits;
  return std::ldexp(Wide(1), std::max(exponent - std::numeric_limits<T>::digits, lowest));
}

template <class T>
class Measure {
 public:
  using Function = Vec<T> (*)(Vec<T>);
  using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;
  using Exact = Wide (*)(Wide);

  /// Results below `least` count as 0: the kernels run with denormals flushed.
  Measure(const char* name, Function function, Exact exact, Wide least = 0)
      : name_(name), function_(function), exact_(exact), least_(least) {}

  void visit(T x) {
    lanes_[count_++] = x;
    if (count_ == Vec<T>::kSize) flush();
  }

  void report(const char* type) {
    while (count_) visit(T(0));
    std::printf("%-10s %-6s %.3f ULP at %.17g\n", name_, type, worst_, double(at_));
    check(worst_ <= kMostUlp, std::string(name_) + " " + type + " is off by " + std::to_string(worst_) + " ULP");
  }

 private:
  void flush() {
    T results[Vec<T>::kSize];
    function_(Vec<T>::load(lanes_)).store(results);
    for (int i = 0; i < Vec<T>::kSize; ++i) compare(lanes_[i], results[i]);
    count_ = 0;
  }

  void compare(T x, T result) {
    const Wide exact = exact_(x);
    double error = 0;
    if (std::isnan(x))
      error = std::isnan(result) ? 0 : 1e30;
    else if (std::isinf(T(exact)) || std::isinf(result))
      error = T(exact) == result ? 0 : 1e30;
    else
      error = double(std::abs((result - exact) / std::max(spacing<T>(exact), exact < least_ ? least_ : 0)));
    if (!(error <= worst_)) worst_ = error, at_ = x;
  }

  const char* name_;
  Function function_;
  Exact exact_;
  Wide least_;
  T lanes_[Vec<T>::kSize];
  int count_ = 0;
  double worst_ = 0;
  T at_ = 0;
};

template <class T, class Visit>
void visit_points(bool full, Visit visit) {
  const T infinity = std::numeric_limits<T>::infinity();
  for (T x : {T(0), T(-0.0), infinity, -infinity, std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::max(),
              std::numeric_limits<T>::min(), std::numeric_limits<T>::denorm_min()}) {
    visit(x), visit(-x);
  }
  for (double centre :
       {0.17328679, 0.34657359, 0.5, 9.01, 10.0, 18.7, 20.0, 87.33, 87.4, 88.72, 103.97, 708.4, 708.5, 709.78, 745.1}) {
    for (int i = -500; i <= 500; ++i) {
      const T x = from_bits<T>(Bits<T>(std::int64_t([&] {
                                         Bits<T> b;
                                         const T c = T(centre);
                                         std::memcpy(&b, &c, sizeof b);
                                         return b;
                                       }()) +
                                       i));
      visit(x), visit(-x);
    }
  }
  if constexpr (sizeof(T) == 4) {
    for (std::uint64_t bits = 0; bits < (std::uint64_t(1) << 32); bits += full ? 7 : 997)
      visit(from_bits<T>(Bits<T>(bits)));
  } else {
    std::mt19937_64 generator(1);
    const std::uint64_t count = std::uint64_t(1) << (full ? 26 : 18);
    for (std::uint64_t i = 0; i < count; ++i) {
      const double uniform = double(generator() >> 11) * 0x1p-53 - 0.5;
      visit(i % 2 ? from_bits<T>(generator()) : T(uniform * (i % 4 ? 1500 : i % 8 ? 40 : 2)));
    }
  }
}

template <class T>
void check_functions(const char* type, bool full) {
  using Wide = typename Measure<T>::Wide;
  Measure<T> measures[] = {{"exp", [](Vec<T> x) { return exp(x); }, [](Wide x) { return std::exp(x); }},
                           {"sigmoid", [](Vec<T> x) { return sigmoid(x); },
                            [](Wide x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); },
                            Wide(std::numeric_limits<T>::min())},
                           {"logsigmoid", [](Vec<T> x) { return logsigmoid(x); },
                            [](Wide x) { return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); },
                            Wide(std::numeric_limits<T>::min())},
                           {"tanh", [](Vec<T> x) { return tanh(x); }, [](Wide x) { return std::tanh(x); }}};
  for (auto& measure : measures) {
    visit_points<T>(full, [&](T x) { measure.visit(x); });
    measure.report(type);
  }
}

template <class T>
void check_parts_of_registers() {
  constexpr int W = Vec<T>::kSize;
  T source[W], target[W + 1];
  for (int i = 0; i < W; ++i) source[i] = T(i + 1);
  for (int n = 0; n <= W; ++n) {
    Vec<T>::load(source, n).store(target);
    for (int i = 0; i < W; ++i) check_equal(target[i], i < n ? T(i + 1) : T(0), "load of a part");
    std::fill_n(target, W + 1, T(-1));
    Vec<T>::load(source).store(target, n);
    for (int i = 0; i <= W; ++i) check_equal(target[i], i < n ? T(i + 1) : T(-1), "store of a part");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool full = argc > 1 && std::string(argv[1]) == "full";
  check_parts_of_registers<float>();
  check_parts_of_registers<double>();
  check_functions<float>("float", full);
  check_functions<double>("double", full);
  return finish();
}
