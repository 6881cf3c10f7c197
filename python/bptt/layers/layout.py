# SPDX-License-Identifier: Apache-2.0
"""The parameters of a recurrent layer: names, shapes, default initialisers, and which lie together for a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bptt import _core

Layout: TypeAlias = tuple[dict[str, tuple[int, ...]], dict[str, str], list[list[str]]]


def lay_out(
    cell: _core.CellInfo,
    inputs: list[int],  # of each layer
    H: int,
    proj_size: int,
    directions: int,
    *,
    bias: bool,
    learnt: bool,
) -> Layout:
    """Shapes and default initialisers by name, and the names of each kernel's block, layer by layer."""
    R, rows, states = proj_size or H, len(cell.gates) * H, cell.states
    vectors = () if cell.vectors_are_bias and not bias else cell.vectors
    shapes: dict[str, tuple[int, ...]] = {}
    default: dict[str, str] = {}
    blocks = []
    suffixes = [(k, f"_l{k}{end}") for k in range(len(inputs)) for end in ("", "_reverse")[:directions]]
    for k, suffix in suffixes:
        block: dict[str, tuple[tuple[int, ...], str]] = {}
        block["weight_ih"] = ((rows, inputs[k]), "xavier_uniform")
        block["weight_hh"] = ((rows, R), "orthogonal")
        if bias:
            block["bias"] = ((rows,), "forget_bias" if "c" in states else "zeros")
        for name, count in vectors:
            block[name] = ((H,) if count == 1 else (count, H), "ones" if name == "weight_norm" else "zeros")
        if proj_size:
            block["weight_hr"] = ((R, H), "xavier_uniform")
        shapes |= {name + suffix: shape for name, (shape, _) in block.items()}
        default |= {name + suffix: start for name, (_, start) in block.items()}
        blocks.append([name + suffix for name in block])
    for _, suffix in suffixes if learnt else []:
        for state in states:
            name = f"initial_{state}{suffix}"
            shapes[name], default[name] = (R if state == "h" else H,), "zeros"
    return shapes, default, blocks
