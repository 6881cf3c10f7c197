// SPDX-License-Identifier: Apache-2.0
// The module bptt._cpu: gives bptt._dispatch the modules among _core_v4, _core_v3, _core_v2 and _core_base that can run
// here. It is separate so that no instruction above the baseline is executed before the choice is made.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/detect/levels.h"

PYBIND11_MODULE(_cpu, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Detection of the instruction-set level; chosen from by bptt._dispatch.";
  m.def("supported", &bptt::detect::levels,
        "Levels this machine can run, best first: of v4, v3, v2 on x86-64, else ['base'].");
}
