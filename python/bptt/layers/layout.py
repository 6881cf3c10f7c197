# SPDX-License-Identifier: Apache-2.0
"""The parameters of a recurrent layer: names, shapes, default initialisers, and which are adjacent for a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bptt._engine.structure import Structure


class Cell(NamedTuple):
    """One variant of a cell.

    kernel: the kernels' name of it, one of `core.cells()`.
    arguments: those of the layer's constructor that ask for it and differ from the defaults, for `repr` and files.
    variant: the option that PyTorch's cell does not have.
    bias: the default initialiser of its bias.
    """

    kernel: str
    arguments: dict[str, Any]
    variant: str = ""
    bias: str = "zeros"


_START = {"n": "ones"}  # initialisers of learnt states that are not zeros: a quotient by n is then far from 0 / 0


class Layout(NamedTuple):
    """Shapes and default initialisers by name; the names of each kernel's parameters; those of learnt states."""

    shapes: dict[str, tuple[int, ...]]
    default: dict[str, str]
    blocks: list[list[str]]
    learnt: list[str]


def lay_out(cell: Cell, structure: Structure, suffixes: list[str], *, learnt: bool) -> Layout:
    """The layout of all kernels, layer by layer, whose parameters' names end with `suffixes`."""
    info, H, R = structure.info, structure.hidden_size, structure.output_size
    rows = len(info.gates) * H
    vectors = () if info.vectors_are_bias and not structure.bias else info.vectors
    layout = Layout({}, {}, [], [])
    for k, suffix in enumerate(suffixes):
        inputs = structure.inputs[k // structure.num_directions]
        block: dict[str, tuple[tuple[int, ...], str]] = {}
        block["weight_ih"] = ((rows, inputs), "xavier_uniform")
        block["weight_hh"] = ((rows, R // structure.num_heads), "orthogonal")
        if structure.bias:
            block["bias"] = ((rows,), cell.bias)
        for name, count in vectors:
            block[name] = ((H,) if count == 1 else (count, H), "ones" if name == "weight_norm" else "zeros")
        if structure.proj_size:
            block["weight_hr"] = ((R, H), "xavier_uniform")
        layout.shapes.update({name + suffix: shape for name, (shape, _) in block.items()})
        layout.default.update({name + suffix: start for name, (_, start) in block.items()})
        layout.blocks.append([name + suffix for name in block])
    for suffix in suffixes if learnt else []:
        for state, width in zip(info.states, structure.widths, strict=True):
            name = f"initial_{state}{suffix}"
            layout.shapes[name], layout.default[name] = (width,), _START.get(state, "zeros")
            layout.learnt.append(name)
    return layout
