// SPDX-License-Identifier: Apache-2.0
// What a call asks for beyond x and a state: rows of different lengths or read backward, resets, masks, clipping,
// segments. Checked where it is made; the kernels get it as a Timeline and a Between.
#pragma once

#include <pybind11/stl.h>

#include <array>
#include <limits>
#include <memory>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/own.h"
#include "sequence/rows.h"
#include "sequence/tape.h"

namespace bptt::bindings {

struct PyRows : Own {
  std::shared_ptr<const sequence::Rows> order;
};

inline std::vector<Index> integers(const py::array& a, Index low, Index high, const char* name) {
  const std::int64_t* values = read<std::int64_t>(a, {axis(a, 1, 0, name)}, name);
  std::vector<Index> out(values, values + a.size());
  for (const Index n : out) {
    if (n < low || n > high) {
      throw py::value_error(std::string(name) + " has the value " + std::to_string(n) + ", expected " +
                            std::to_string(low) + " to " + std::to_string(high));
    }
  }
  return out;
}

/// lengths [B], each 0..steps, of rows of padded arrays [steps,B,.].
inline PyRows padded_rows(const py::array& lengths, Index steps, bool reverse) {
  const std::vector<Index> n = integers(lengths, 0, steps, "Rows: lengths");
  return {{}, std::make_shared<sequence::Rows>(sequence::Rows::padded(n, steps, reverse))};
}

/// sizes [T], rows at each step of packed arrays [sum,.], none more than before.
inline PyRows packed_rows(const py::array& sizes, bool reverse) {
  const std::vector<Index> n = integers(sizes, 1, std::numeric_limits<std::int32_t>::max(), "Rows: batch_sizes");
  if (!std::is_sorted(n.rbegin(), n.rend())) throw py::value_error("Rows: batch_sizes grow, expected them to fall");
  return {{}, std::make_shared<sequence::Rows>(sequence::Rows::packed(n, reverse))};
}

struct Setup : Own {
  std::shared_ptr<const sequence::Rows> rows;  // null: all steps, forward
  py::object resets = py::none();              // bool [T,B], or [sum] for packed rows
  py::object anew = py::none();                // what a reset sets: None (zeros) or a state [H], (h, c)
  std::array<double, sequence::kMaxStates> zoneout{};
  double dropout = 0;
  double clip = std::numeric_limits<double>::infinity(), clip_gradient = std::numeric_limits<double>::infinity();
  std::uint64_t seed = 0;
  double input_dropout = 0;  // of x
  std::uint64_t input_seed = 0;
  Index segment = 0;

  /// Whether states do more between steps than being handed on.
  bool crosses(bool training) const {
    const double most = std::numeric_limits<double>::infinity();
    return (rows && rows->timeline().offset) || !resets.is_none() || zoneout[0] > 0 || zoneout[1] > 0 ||
           (training && dropout > 0) || clip < most || (training && clip_gradient < most);
  }

  /// The kernels' form of it, less what points into arrays of a call.
  template <class T>
  sequence::Between<T> between(bool training) const {
    sequence::Between<T> b;
    std::copy_n(zoneout.data(), zoneout.size(), b.zoneout);
    b.dropout = training ? dropout : 0;
    b.clip = T(clip), b.clip_gradient = T(clip_gradient);
    b.training = training;
    b.random = Philox(seed);
    return b;
  }
};

inline void register_setup(py::module_& m) {
  py::class_<PyRows>(m, "Rows", py::is_final(), py::module_local())
      .def(py::init(&padded_rows), py::arg("lengths"), py::arg("steps"), py::arg("reverse"))
      .def_static("packed", &packed_rows, py::arg("batch_sizes"), py::arg("reverse"))
      .def_property_readonly("batch", [](const PyRows& rows) { return rows.order->batch(); })
      .def_property_readonly("total", [](const PyRows& rows) { return rows.order->timeline().total(); });
  py::class_<Setup>(m, "Setup", py::is_final(), py::module_local())
      .def(py::init([](const PyRows* rows, py::object resets, py::object anew, std::array<double, 2> zoneout,
                       double dropout, double clip, double clip_gradient, std::uint64_t seed, double input_dropout,
                       std::uint64_t input_seed, Index segment) {
             for (const double p : {zoneout[0], zoneout[1], dropout, input_dropout}) {
               if (!(p >= 0 && p < 1)) throw py::value_error("Setup: a probability is outside [0, 1)");
             }
             if (!(clip >= 0 && clip_gradient >= 0)) throw py::value_error("Setup: a bound is below 0");
             return Setup{{},
                          rows ? rows->order : nullptr,
                          std::move(resets),
                          std::move(anew),
                          zoneout,
                          dropout,
                          clip,
                          clip_gradient,
                          seed,
                          input_dropout,
                          input_seed,
                          segment};
           }),
           py::kw_only(), py::arg("rows") = py::none(), py::arg("resets") = py::none(), py::arg("anew") = py::none(),
           py::arg("zoneout") = std::array<double, 2>{}, py::arg("dropout") = 0.0,
           py::arg("clip") = std::numeric_limits<double>::infinity(),
           py::arg("clip_gradient") = std::numeric_limits<double>::infinity(), py::arg("seed") = 0,
           py::arg("input_dropout") = 0.0, py::arg("input_seed") = 0, py::arg("segment") = 0);
}

}  // namespace bptt::bindings
