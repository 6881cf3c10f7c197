# SPDX-License-Identifier: Apache-2.0
"""The parameters of a recurrent layer: names, shapes, default initialisers, and which lie together for a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from bptt._engine.structure import Structure

Vectors: TypeAlias = tuple[tuple[str, tuple[int, ...], str], ...]


class Cell(NamedTuple):
    """One variant of a cell.

    kernel: the kernels' name of it (csrc/cells/all.h).
    gates: G. states: their names, h first.
    kept: the names of what it keeps of each step for backward, in the kernels' order.
    vectors: the parameters of each unit beside a bias: name, shape before H, initialiser.
    variant: what makes it another cell than PyTorch's.
    arguments: those that ask for it, for `repr`.
    """

    kernel: str
    gates: int
    states: tuple[str, ...] = ("h",)
    kept: tuple[str, ...] = ()
    vectors: Vectors = ()
    variant: str = ""
    arguments: str = ""


class Layout(NamedTuple):
    """Shapes and default initialisers by name; the names of each kernel's parameters; those of learnt states."""

    shapes: dict[str, tuple[int, ...]]
    default: dict[str, str]
    blocks: list[list[str]]
    learnt: list[str]


def lay_out(cell: Cell, structure: Structure, suffixes: list[str], *, learnt: bool) -> Layout:
    """The layout of all kernels, layer by layer, whose parameters' names end with `suffixes`."""
    H, R, rows = structure.hidden_size, structure.output_size, cell.gates * structure.hidden_size
    layout = Layout({}, {}, [], [])
    for k, suffix in enumerate(suffixes):
        inputs = structure.inputs[k // structure.num_directions]
        block: dict[str, tuple[tuple[int, ...], str]] = {}
        block["weight_ih"] = ((rows, inputs), "xavier_uniform")
        block["weight_hh"] = ((rows, R), "orthogonal")
        if structure.bias:
            block["bias"] = ((rows,), "forget_bias" if "c" in cell.states else "zeros")
        block |= {name: ((*shape, H), start) for name, shape, start in cell.vectors}
        if structure.proj_size:
            block["weight_hr"] = ((R, H), "xavier_uniform")
        layout.shapes.update({name + suffix: shape for name, (shape, _) in block.items()})
        layout.default.update({name + suffix: start for name, (_, start) in block.items()})
        layout.blocks.append([name + suffix for name in block])
    for suffix in suffixes if learnt else []:
        for state, width in zip(cell.states, structure.widths, strict=True):
            name = f"initial_{state}{suffix}"
            layout.shapes[name], layout.default[name] = (width,), "zeros"
            layout.learnt.append(name)
    return layout
