// SPDX-License-Identifier: Apache-2.0
// The options of a call: rows of different lengths or read backward, resets, masks, clipping, segments. They are
// checked when made; the kernels get them as BatchSizes and StateOptions.
#pragma once

#include <pybind11/stl.h>

#include <array>
#include <limits>
#include <memory>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/own.h"
#include "stack/call_options.h"

namespace bptt::bindings {

struct PySequenceOrder : Own {
  std::shared_ptr<const sequence::SequenceOrder> order;
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
inline PySequenceOrder padded_rows(const py::array& lengths, Index steps, bool reverse) {
  const std::vector<Index> n = integers(lengths, 0, steps, "SequenceOrder: lengths");
  return {{}, std::make_shared<sequence::SequenceOrder>(sequence::SequenceOrder::padded(n, steps, reverse))};
}

/// All rows have all steps.
inline PySequenceOrder equal_rows(Index steps, Index batch, bool reverse) {
  if (steps < 0 || batch < 0) throw py::value_error("SequenceOrder: a size is below 0");
  return {{}, std::make_shared<sequence::SequenceOrder>(sequence::SequenceOrder::equal(steps, batch, reverse))};
}

/// sizes [T], the rows at each step of packed arrays [sum,.], never more than before.
inline PySequenceOrder packed_rows(const py::array& sizes, bool reverse) {
  const std::vector<Index> n =
      integers(sizes, 1, std::numeric_limits<std::int32_t>::max(), "SequenceOrder: batch_sizes");
  if (!std::is_sorted(n.rbegin(), n.rend()))
    throw py::value_error("SequenceOrder: batch_sizes grow, expected them to fall");
  return {{}, std::make_shared<sequence::SequenceOrder>(sequence::SequenceOrder::packed(n, reverse))};
}

/// stack::CallOptions, and the arrays that belong to it.
struct CallOptions : Own {
  stack::CallOptions options;
  py::object resets = py::none();       // bool [T,B], or [sum] for packed rows
  py::object reset_state = py::none();  // what a reset sets: None (zeros) or a state, [H] each
};

inline void register_call_options(py::module_& m) {
  py::class_<PySequenceOrder>(m, "SequenceOrder", py::is_final(), py::module_local())
      .def(py::init(&padded_rows), py::arg("lengths"), py::arg("steps"), py::arg("reverse"))
      .def_static("equal", &equal_rows, py::arg("steps"), py::arg("batch"), py::arg("reverse"))
      .def_static("packed", &packed_rows, py::arg("batch_sizes"), py::arg("reverse"))
      .def_property_readonly("batch", [](const PySequenceOrder& self) { return self.order->batch(); })
      .def_property_readonly("total", [](const PySequenceOrder& self) { return self.order->batch_sizes().total(); });
  py::class_<CallOptions>(m, "CallOptions", py::is_final(), py::module_local())
      .def(py::init([](const PySequenceOrder* order, py::object resets, py::object reset_state,
                       std::array<double, 2> zoneout, double dropout, double clip, double clip_gradient,
                       std::uint64_t seed, double input_dropout, std::uint64_t input_seed, Index segment) {
             for (const double p : {zoneout[0], zoneout[1], dropout, input_dropout}) {
               if (!(p >= 0 && p < 1)) throw py::value_error("CallOptions: a probability is outside [0, 1)");
             }
             if (segment < 0) throw py::value_error("CallOptions: segment is below 0");
             if (!(clip >= 0 && clip_gradient >= 0)) throw py::value_error("CallOptions: a bound is below 0");
             stack::CallOptions options{order ? order->order : nullptr,
                                        {zoneout, dropout, clip, clip_gradient, seed},
                                        input_dropout,
                                        input_seed,
                                        segment};
             return CallOptions{{}, std::move(options), std::move(resets), std::move(reset_state)};
           }),
           py::kw_only(), py::arg("order") = py::none(), py::arg("resets") = py::none(),
           py::arg("reset_state") = py::none(), py::arg("zoneout") = std::array<double, 2>{}, py::arg("dropout") = 0.0,
           py::arg("clip") = std::numeric_limits<double>::infinity(),
           py::arg("clip_gradient") = std::numeric_limits<double>::infinity(), py::arg("seed") = 0,
           py::arg("input_dropout") = 0.0, py::arg("input_seed") = 0, py::arg("segment") = 0);
}

}  // namespace bptt::bindings
