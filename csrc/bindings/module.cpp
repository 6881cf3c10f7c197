// SPDX-License-Identifier: Apache-2.0
// What an extension module has, whatever its instruction set: a list of what it registers. Compiled once and linked
// with the kernels of each level; level.cpp gives each module its name. Interface: python/bptt/_core.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/arrays.h"
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

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace bptt;
  using namespace bptt::bindings;
  make_now();
  m.attr("version") = BPTT_VERSION;
  m.attr("level") = level().name;
  m.attr("products") = products();
  m.attr("max_threads") = int(Pool::kMaxThreads);
  m.def("config", &config);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_num_threads", [] { return Pool::size().load(); });
  m.def("memory_in_use", [] { return Arena::instance().in_use(); });
  m.def("memory_held", [] { return Arena::instance().held(); });
  m.def("release_memory", [] { return Arena::instance().release(); });
  register_cell_info(m);
  register_math(m);
  register_stack(m);
  register_loss(m);
  register_nn(m);
  register_optim(m);
  register_orthogonal(m);
}
