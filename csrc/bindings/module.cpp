// SPDX-License-Identifier: Apache-2.0
// What an extension module has, whatever its instruction set: a list of what it registers. Compiled once and linked
// with the kernels of each level; level.cpp gives each module its name. Interface: python/bptt/_core.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/products.h"
#include "bindings/register.h"
#include "core/level.h"
#include "core/memory/arena.h"
#include "core/threads/pool.h"

namespace py = pybind11;

namespace bptt::bindings {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#else
  return "MSVC " + std::to_string(_MSC_VER);
#endif
}

py::dict config() {
  py::dict d;
  d["version"] = BPTT_VERSION;
  d["level"] = level().name;
  d["compiler"] = compiler();
  d["eigen"] = level().eigen;
  d["float32_lanes"] = level().float32_lanes;
  d["threads"] = Pool::size().load();
  return d;
}

/// Makes the objects of the process while no other thread can: a child forked while a static object is half made would
/// wait for it forever.
void make_now() {
  Arena::instance();
  Core::count();
  dtype_of<float>(), dtype_of<double>(), dtype_of<std::int64_t>(), dtype_of<bool>();
}

void set_num_threads(Index n) {
  if (n < 1 || n > Pool::kMaxThreads) {
    throw py::value_error("set_num_threads: n is " + std::to_string(n) + ", expected 1 to " +
                          std::to_string(Pool::kMaxThreads));
  }
  Pool::size() = int(n);
}

void set_processors(const std::vector<int>& order, int cores_per_cache) {
  if (cores_per_cache < 1) {
    throw py::value_error("set_processors: cores_per_cache is " + std::to_string(cores_per_cache) +
                          ", expected 1 or more");
  }
  Core::set_order(order);
  Core::per_cache() = cores_per_cache;
}

/// Where guests of the pool run: the addresses of GOMP_parallel, omp_get_num_threads and omp_get_thread_num.
void set_host(std::uintptr_t run, std::uintptr_t team_size, std::uintptr_t thread) {
  if (!run || !team_size || !thread)
    throw py::value_error("set_host: an address is 0, expected those of three functions");
  Pool::Host host{};
  host.run = reinterpret_cast<decltype(host.run)>(run);
  host.team_size = reinterpret_cast<decltype(host.team_size)>(team_size);
  host.thread = reinterpret_cast<decltype(host.thread)>(thread);
  Pool::set_host(host);
}

/// Seconds of a wait at the barrier of a job among `members` threads each, the least of `tries` means over `waits`;
/// infinite where there are not so many threads.
double barrier_time(int threads, int members, int waits, int tries) {
  if (threads < 1 || threads > Pool::kMaxThreads || members < 1 || threads % members != 0 || waits < 1 || tries < 1)
    throw py::value_error("barrier_time: got " + std::to_string(threads) + " threads in teams of " +
                          std::to_string(members) + ", expected 1 to 256 in teams of equal size, and numbers from 1");
  double least = std::numeric_limits<double>::infinity();
  without_gil([&] {
    Pool::instance().run(threads, [&](int thread, Barrier& barrier) {
      const Team team{thread - thread % members, members};
      for (int i = 0; i < tries && barrier.size() == threads && barrier.wait(thread); ++i) {
        const auto start = std::chrono::steady_clock::now();
        for (int n = 0; n < waits; ++n) barrier.wait(thread, team);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        if (thread == 0) least = std::min(least, taken.count() / waits);
      }
    });
    return true;
  });
  return least;
}

}  // namespace
}  // namespace bptt::bindings

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace bptt;
  using namespace bptt::bindings;
  make_now();
  m.attr("version") = BPTT_VERSION;
  m.attr("level") = level().name;
  m.attr("products") = products(false);
  m.attr("narrow_products") = products(true);
  m.attr("max_threads") = int(Pool::kMaxThreads);
  m.def("config", &config);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_num_threads", [] { return Pool::size().load(); });
  m.def("set_processors", &set_processors, py::arg("order"), py::arg("cores_per_cache"));
  m.def("set_host", &set_host, py::arg("run"), py::arg("team_size"), py::arg("thread"));
  m.def("barrier_time", &barrier_time, py::arg("threads"), py::arg("members"), py::arg("waits"), py::arg("tries"));
  m.def("memory_in_use", [] { return Arena::instance().in_use(); });
  m.def("memory_held", [] { return Arena::instance().held(); });
  m.def("release_memory", [] { return Arena::instance().release(); });
  register_cell_info(m);
  register_math(m);
  register_stack(m);
  register_loss(m);
  register_narrow(m);
  register_nn(m);
  register_optim(m);
  register_orthogonal(m);
  register_training(m);
}
