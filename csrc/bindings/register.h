// SPDX-License-Identifier: Apache-2.0
// One function per group of bindings, each in the file of the same name.
#pragma once

#include <pybind11/pybind11.h>

namespace bptt::bindings {

void register_cell_info(pybind11::module_& m);
void register_math(pybind11::module_& m);
void register_stack(pybind11::module_& m);
void register_loss(pybind11::module_& m);
void register_narrow(pybind11::module_& m);
void register_nn(pybind11::module_& m);
void register_optim(pybind11::module_& m);
void register_orthogonal(pybind11::module_& m);
void register_training(pybind11::module_& m);

}  // namespace bptt::bindings
