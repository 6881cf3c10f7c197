// SPDX-License-Identifier: Apache-2.0
// The module bptt._cpu: gives bptt._dispatch the modules among _core_v4, _core_v3, _core_v2 and _core_base that can run
// here, and bptt._precision the processor. It is separate so that no instruction above the baseline is executed before
// the choice is made.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/detect/levels.h"

namespace py = pybind11;

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "Detection of the instruction-set level and of the processor.";
  m.def("supported", &bptt::detect::levels,
        "Levels this machine can run, best first: of v4, v3, v2 on x86-64, else ['base'].");
  m.def(
      "processor",
      [] {
        const bptt::detect::Processor found = bptt::detect::processor();
        return py::make_tuple(found.vendor, found.family, found.features);
      },
      "The processor by CPUID: vendor, family, and those of avx512_bf16, avx512_vnni, amx_tile, amx_bf16 that run "
      "here.");
}
