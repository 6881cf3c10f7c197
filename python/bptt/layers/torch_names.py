# SPDX-License-Identifier: Apache-2.0
"""Between our parameters and the state dict of PyTorch's layers and cells: the same names and shapes except for biases.

PyTorch has bias_ih and bias_hh [G*H], which are added before anything else; ours is their sum. The exception is the
GRU's candidate, whose hidden bias is inside the reset gate: n = tanh(Wx x + b + r (Wh h0 + b_hn)).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import as_floats, check_shape, first_of

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt.params import Params


_FOREIGN = ("weight_peephole", "weight_norm", "bias_norm", "initial_")  # what PyTorch does not have
_BIAS = re.compile(r"bias(|_l\d+(_reverse)?)")  # of one kernel, and its suffix; a cell has none


def from_torch(where: str, state: Mapping[str, ArrayIn], params: Params, H: int) -> dict[str, ArrayIn]:
    """Our names and biases; unknown names are kept for the caller's error message."""
    ours: dict[str, ArrayIn] = {name: value for name, value in state.items() if not name.startswith("bias_")}
    known = set()
    for suffix in _suffixes(params):
        parts = []
        for name in (f"bias_ih{suffix}", f"bias_hh{suffix}"):
            known.add(name)
            if name not in state:
                raise ValueError(f"{where}: state lacks {name}, expected both of PyTorch's biases")
            array = as_floats(where, name, state[name], params.dtype)
            check_shape(where, name, array, params.shapes[f"bias{suffix}"])
            parts.append(array)
        if f"bias_hn{suffix}" in params:
            inner = parts[1][2 * H :].copy()
            outer = parts[1].copy()
            outer[2 * H :] = 0
            ours[f"bias{suffix}"], ours[f"bias_hn{suffix}"] = parts[0] + outer, inner
        else:
            ours[f"bias{suffix}"] = parts[0] + parts[1]
    return ours | {name: value for name, value in state.items() if name.startswith("bias_") and name not in known}


def to_torch(where: str, params: Params, H: int, variant: str) -> dict[str, Array]:
    """PyTorch's names, in its order within a layer."""
    foreign = [name for name in params if name.startswith(_FOREIGN) or name == "weight_hr"]  # cells do not project
    if variant or foreign:
        what = first_of(foreign) if foreign else variant
        raise ValueError(f"{where}: the layer has {what}, expected a cell that PyTorch's layers have")
    suffixes = {f"bias{suffix}": suffix for suffix in _suffixes(params)}
    theirs: dict[str, Array] = {}
    for name, array in params.items():
        if name.startswith("bias_hn"):
            continue
        if name not in suffixes:
            theirs[name] = array.copy()
            continue
        suffix = suffixes[name]
        hidden = np.zeros_like(array)
        if f"bias_hn{suffix}" in params:
            hidden[2 * H :] = params[f"bias_hn{suffix}"]
        theirs[f"bias_ih{suffix}"], theirs[f"bias_hh{suffix}"] = array.copy(), hidden
    return theirs


def _suffixes(params: Params) -> list[str]:
    """The suffixes of the names of each kernel's parameters, where it has a bias."""
    return [match[1] for match in map(_BIAS.fullmatch, params) if match]
