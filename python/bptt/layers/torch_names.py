# SPDX-License-Identifier: Apache-2.0
"""Between our parameters and the state dict of PyTorch's recurrent layers: the same names and shapes but for biases.

PyTorch has bias_ih and bias_hh [G*H], which are added before anything else; ours is their sum. The exception is the
GRU's candidate, whose hidden bias stands inside the reset gate: n = tanh(Wx x + b + r (Wh h0 + b_hn)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import as_floats, check_shape, first_of

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt.params import Params


def from_torch(where: str, state: Mapping[str, ArrayIn], params: Params, H: int) -> dict[str, ArrayIn]:
    """Our names and biases; what is unknown stays, to be named by the caller."""
    ours: dict[str, ArrayIn] = {name: value for name, value in state.items() if not name.startswith("bias_")}
    for name in [name for name in params if name.startswith("bias_l")]:
        suffix, shape = name.removeprefix("bias"), params.shapes[name]
        parts = []
        for part in ("bias_ih", "bias_hh"):
            if part + suffix not in state:
                raise ValueError(f"{where}: state lacks {part}{suffix}, expected both of PyTorch's biases")
            array = as_floats(where, part + suffix, state[part + suffix], params.dtype)
            check_shape(where, part + suffix, array, shape)
            parts.append(array)
        if "bias_hn" + suffix in params:
            inner = parts[1][2 * H :].copy()
            outer = parts[1].copy()
            outer[2 * H :] = 0
            ours[name], ours["bias_hn" + suffix] = parts[0] + outer, inner
        else:
            ours[name] = parts[0] + parts[1]
    known = {f"{part}{name.removeprefix('bias')}" for name in params for part in ("bias_ih", "bias_hh")}
    return ours | {name: value for name, value in state.items() if name.startswith("bias_") and name not in known}


def to_torch(where: str, params: Params, H: int, variant: str) -> dict[str, Array]:
    """PyTorch's names, in its order within a layer."""
    foreign = [name for name in params if name.startswith(("weight_peephole", "weight_norm", "bias_norm", "initial_"))]
    if variant or foreign:
        what = first_of(foreign) if foreign else variant
        raise ValueError(f"{where}: the layer has {what}, expected a cell that PyTorch's layers have")
    theirs: dict[str, Array] = {}
    for name, array in params.items():
        if name.startswith("bias_hn"):
            continue
        if not name.startswith("bias_l"):
            theirs[name] = array.copy()
            continue
        suffix = name.removeprefix("bias")
        hidden = np.zeros_like(array)
        if "bias_hn" + suffix in params:
            hidden[2 * H :] = params["bias_hn" + suffix]
        theirs["bias_ih" + suffix], theirs["bias_hh" + suffix] = array.copy(), hidden
    return theirs
