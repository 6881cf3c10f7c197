// SPDX-License-Identifier: Apache-2.0
// The extension module of one instruction-set level: a list of what it registers. Interface: python/bptt/_core.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <Eigen/Core>
#include <string>

#include "bindings/arrays.h"
#include "bindings/register.h"
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
  d["level"] = BPTT_LEVEL;
  d["compiler"] = compiler();
  d["eigen"] = std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
               std::to_string(EIGEN_MINOR_VERSION);
  d["float32_lanes"] = Vec<float>::kSize;
  d["threads"] = Pool::size().load();
  return d;
}

/// What is made once in a process, made while no other thread can be at it: a child that is forked while a static
/// object is half made waits for it forever.
void make_now() {
  Arena::instance();
  dtype_of<float>(), dtype_of<double>(), dtype_of<std::int64_t>(), dtype_of<bool>();
}

void set_num_threads(Index n) {
  if (n < 1 || n > Pool::kMaxThreads) {
    throw py::value_error("set_num_threads: n is " + std::to_string(n) + ", expected 1 to " +
                          std::to_string(Pool::kMaxThreads));
  }
  Pool::size() = int(n);
}

}  // namespace
}  // namespace bptt::bindings

PYBIND11_MODULE(BPTT_MODULE, m, py::mod_gil_not_used()) {
  using namespace bptt;
  using namespace bptt::bindings;
  make_now();
  m.attr("version") = BPTT_VERSION;
  m.attr("level") = BPTT_LEVEL;
  m.attr("max_threads") = int(Pool::kMaxThreads);
  m.def("config", &config);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_num_threads", [] { return Pool::size().load(); });
  m.def("memory_in_use", [] { return Arena::instance().in_use(); });
  m.def("memory_held", [] { return Arena::instance().held(); });
  m.def("release_memory", [] { return Arena::instance().release(); });
  register_cell_info(m);
  register_math(m);
  register_recurrence(m);
  register_nn(m);
  register_optim(m);
  register_orthogonal(m);
}
