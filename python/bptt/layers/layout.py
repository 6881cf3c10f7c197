# SPDX-License-Identifier: Apache-2.0
"""The parameters of a recurrent layer: names, shapes, default initialisers, and which lie together for a kernel."""

from __future__ import annotations

from typing import TypeAlias

Vectors: TypeAlias = tuple[tuple[str, tuple[int, ...], str], ...]  # per unit: name, shape before H, initialiser
Layout: TypeAlias = tuple[dict[str, tuple[int, ...]], dict[str, str], list[list[str]]]

_START = {"n": "ones"}  # initialisers of states that are learnt; a quotient by n is far from 0 / 0


def lay_out(
    gates: int,
    states: tuple[str, ...],
    inputs: list[int],  # of each layer
    H: int,
    proj_size: int,
    directions: int,
    vectors: Vectors,
    *,
    heads: int = 1,
    bias: str | None,  # its initialiser; None: no bias
    learnt: bool,
) -> Layout:
    """Shapes and default initialisers by name, and the names of each kernel's block, layer by layer."""
    R, rows = proj_size or H, gates * H
    shapes: dict[str, tuple[int, ...]] = {}
    default: dict[str, str] = {}
    blocks = []
    suffixes = [(k, f"_l{k}{end}") for k in range(len(inputs)) for end in ("", "_reverse")[:directions]]
    for k, suffix in suffixes:
        block: dict[str, tuple[tuple[int, ...], str]] = {}
        block["weight_ih"] = ((rows, inputs[k]), "xavier_uniform")
        block["weight_hh"] = ((rows, R // heads), "orthogonal")
        if bias:
            block["bias"] = ((rows,), bias)
        block |= {name: ((*shape, H), start) for name, shape, start in vectors}
        if proj_size:
            block["weight_hr"] = ((R, H), "xavier_uniform")
        shapes |= {name + suffix: shape for name, (shape, _) in block.items()}
        default |= {name + suffix: start for name, (_, start) in block.items()}
        blocks.append([name + suffix for name in block])
    for _, suffix in suffixes if learnt else []:
        for state in states:
            name = f"initial_{state}{suffix}"
            shapes[name], default[name] = (R if state == "h" else H,), _START.get(state, "zeros")
    return shapes, default, blocks
