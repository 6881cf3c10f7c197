// SPDX-License-Identifier: Apache-2.0
// What Python may know of the cells: their names, and of each its facts as a named tuple.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/register.h"
#include "cells/info.h"

namespace py = pybind11;

namespace bptt::bindings {
namespace {

/// The names in a text that separates them by spaces.
py::tuple names(const char* text) { return py::tuple(py::str(text).attr("split")()); }

/// (name, rows) of each parameter that consists of per-unit vectors.
py::tuple vectors(const cells::Info& info) {
  py::list found;
  for (int i = 0; i < 2 && info.vector_names[i].name; ++i) {
    found.append(py::make_tuple(info.vector_names[i].name, info.vector_names[i].rows));
  }
  return py::tuple(found);
}

template <class... Cells>
py::dict all_infos(cells::List<Cells...>, const py::object& cell_info) {
  py::dict infos;
  const auto add = [&](const cells::Info& info) {
    infos[info.name] = cell_info(names(info.gate_names), names(info.state_names), names(info.kept_names), vectors(info),
                                 info.vectors_are_bias, info.projects, info.heads);
  };
  (add(cells::kInfo<Cells>), ...);
  return infos;
}

}  // namespace

void register_cell_info(py::module_& m) {
  // Pickled objects must not name a level: bptt._core is the one in use, wherever they are read.
  const py::object cell_info =
      py::module_::import("collections")
          .attr("namedtuple")("CellInfo", "gates states kept vectors vectors_are_bias projects heads",
                              py::arg("module") = "bptt._core");
  const py::dict infos = all_infos(cells::All{}, cell_info);
  m.attr("CellInfo") = cell_info;
  m.def("cells", [infos] { return py::tuple(infos.attr("keys")()); });
  m.def(
      "cell_info",
      [infos](const std::string& name) {
        const py::str key(name);
        if (!infos.contains(key)) {
          throw py::value_error("cell_info: there is no cell '" + name.substr(0, 40) + "', expected one of cells()");
        }
        return py::object(infos[key]);
      },
      py::arg("name"));
}

}  // namespace bptt::bindings
