# SPDX-License-Identifier: Apache-2.0
"""How much memory a pass through a layer will take: sums of the sizes that the kernels name, nothing is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bptt._dispatch import core

if TYPE_CHECKING:
    from bptt import _core
    from bptt.layers.recurrent import Recurrent


def estimate(
    kernels: list[_core.Recurrence],
    options: list[_core.CallOptions],
    layer: Recurrent,
    steps: int,
    batch: int,
    rows: int,  # steps of all rows together
    ordered: bool,  # rows are given lengths, or packed
    training: bool,
) -> int:
    """Bytes beside x, y, their gradients, the parameters and theirs."""
    D, L, R = layer.num_directions, layer.num_layers, layer.output_size
    itemsize = layer.params.dtype.itemsize
    inputs = [layer.input_size] + [D * R] * (L - 1)
    beside = core.beside(kernels, D, steps, batch, options[0], training)
    parts: list[dict[str, int]] = [
        kernel.memory(steps, batch, each, training, 1 if beside else 0)
        for kernel, each in zip(kernels, options, strict=True)
    ]
    states = R + layer.hidden_size * (len(layer._states) - 1)
    held = sum(part["weights"] + part["tape"] for part in parts)
    held += len(parts) * batch * 2 * states * (2 if ordered else 1) * itemsize  # initial, final; and in rows' order
    dropped = training and bool(layer._state_options.dropout)
    output = (rows if D == 1 else steps * batch) * D * R  # what a layer hands on
    together, each = 0, []  # values: of the whole pass; of one layer at a time
    for k in range(L):
        inside = D == 1 and k > 0  # x is in the kernels' order
        turned = [not inside and (ordered or d > 0) for d in range(D)]  # by direction, whether x and dx are not
        outputs = rows * D * R * (D > 1 or (ordered and k == L - 1))
        copies = rows * inputs[k] * sum(other or (dropped and k > 0) for other in turned) + outputs
        back = rows * inputs[k] * sum(turned) + outputs
        if training:
            read = k > 0 and not (D > 1 and (ordered or dropped))  # the tape needs it
            together += copies + output * read
        scratch = sum(part["scratch"] for part in parts[k * D : (k + 1) * D]) // itemsize
        ends = (k > 0) + (k + 1 < L)  # layers before and behind
        if training:  # in one direction gradients of outputs take the place of each other
            each.append(scratch + back + output * ends * (D > 1))
        else:
            each.append(scratch + copies + output * ends * (not beside))
    work = sum(each) if beside else max(each)
    if training and D == 1:
        work += output * (L > 1)
    elif beside:
        work += output * (L - 1)
    return held + (together + work) * itemsize
