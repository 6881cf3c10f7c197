# SPDX-License-Identifier: Apache-2.0
"""How much memory a pass through a layer will take: sums of the sizes that the kernels name, nothing is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt import _core


def estimate(
    natives: list[_core.Recurrence],
    setups: list[list[_core.Setup]],
    sizes: list[tuple[int, int]],  # input and output widths of each layer, all directions
    states: int,  # widths of a kernel's states together
    steps: int,
    batch: int,
    rows: int,  # steps of all rows together
    itemsize: int,
    ordered: bool,  # rows are given lengths, or packed
    training: bool,
) -> int:
    """Bytes beside x, y, their gradients, the parameters and theirs."""
    D = len(setups[0])
    held = work = 0
    for k, each in enumerate(setups):
        width_in, width_out = sizes[k]
        parts: list[dict[str, Any]] = [
            native.memory(steps, batch, setup, training)
            for native, setup in zip(natives[k * D : (k + 1) * D], each, strict=True)
        ]
        held += sum(part["weights"] + part["tape"] for part in parts)
        held += D * batch * 2 * states * (2 if ordered else 1) * itemsize  # initial, final; and in the rows' order
        copies = 0  # of x by direction, of y and its gradient, of the gradient of x
        back = 0
        for d in range(D):
            copied = ordered or d > 0
            copies += rows * (width_in * copied + width_out // D * (copied or D > 1))
            back += rows * (width_in + width_out // D) * (copied or D > 1)
        held += copies * itemsize * training
        between = steps * batch * width_out * itemsize if k + 1 < len(setups) else 0
        held += between * training
        scratch = sum(part["scratch"] for part in parts) + (back if training else copies) * itemsize
        work = max(work, scratch + between)
    return held + work
