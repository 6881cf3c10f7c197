# SPDX-License-Identifier: Apache-2.0
"""The facts that the native module gives of each cell, compared with the reference and with the layers' parameters."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

from bptt import reference
from kernels import levels
from stacks import HIDDEN, KINDS, make

CORE = sys.modules["bptt._core"]
I = 4  # noqa: E741

every_cell = pytest.mark.parametrize("cell", CORE.cells())


def native_cell(layer: Any) -> str:
    name: str = layer._stack.structure.cell
    return name


def test_the_cells_are_those_of_the_reference_and_of_the_layers() -> None:
    cells = CORE.cells()
    assert len(set(cells)) == len(cells)
    assert {name.removesuffix("_projected") for name in cells} == set(reference.CELLS)
    assert {native_cell(make(kind, I)) for kind in KINDS} == set(cells)


@every_cell
def test_facts_are_those_of_the_reference(cell: str) -> None:
    info, other = CORE.cell_info(cell), reference.CELLS[cell.removesuffix("_projected")]
    assert len(info.gates) == other.G
    assert info.states == other.states
    assert sum(rows for _, rows in info.vectors) == other.P
    assert info.projects == cell.endswith("_projected")
    assert len(set(info.gates)) == len(info.gates)
    assert len(set(info.kept)) == len(info.kept)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_have_the_shapes_that_the_facts_give(kind: str, bias: bool) -> None:
    layer = make(kind, I, bias=bias)
    info, H, R = CORE.cell_info(native_cell(layer)), HIDDEN, layer.output_size
    G, heads = len(info.gates), getattr(layer, "num_heads", 1)
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (G * H, I), "weight_hh": (G * H, R // heads)}
    if bias:
        shapes["bias"] = (G * H,)
    if bias or not info.vectors_are_bias:
        shapes |= {name: (H,) if rows == 1 else (rows, H) for name, rows in info.vectors}
    if info.projects:
        shapes["weight_hr"] = (R, H)
    assert layer.params.shapes == {f"{name}_l0": shape for name, shape in shapes.items()}
    if bias:  # as many as the kernels and the reference have, whatever they call them
        other = reference.CELLS[native_cell(layer).removesuffix("_projected")]
        wanted = other.shapes(I, H, R if info.projects else 0).values()
        assert heads > 1 or layer.params.size == sum(int(np.prod(shape)) for shape in wanted)
        flat = np.zeros(layer.params.size)
        CORE.Stack(native_cell(layer), "float64", I, H, True, layer.proj_size, num_heads=heads).pack(flat, True)


@pytest.mark.parametrize("core", levels(), ids=lambda core: core.level)
def test_every_level_gives_the_same_facts(core: Any) -> None:
    assert core.cells() == CORE.cells()
    for cell in core.cells():
        assert core.cell_info(cell) == CORE.cell_info(cell)


def test_a_pickle_names_no_level() -> None:
    info = CORE.cell_info("gru")
    assert pickle.loads(pickle.dumps(info)) == info
    layer = make("gru", I)
    data = pickle.dumps(layer)
    assert b"_core_" not in data
    np.testing.assert_array_equal(pickle.loads(data).params.flat, layer.params.flat)


def test_facts_cannot_be_changed() -> None:
    info = CORE.cell_info("lstm")
    with pytest.raises(AttributeError):
        info.gates = ()
    assert info == (("i", "f", "g", "o"), ("h", "c"), ("i", "f", "g", "o"), (), False, False, False)


@pytest.mark.parametrize("name", ["", "LSTM", "x" * 1000])
def test_a_cell_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"^cell_info: there is no cell '.{0,40}', expected one of cells\(\)$"):
        CORE.cell_info(name)
