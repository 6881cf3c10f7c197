# SPDX-License-Identifier: Apache-2.0
"""From what a caller asks of one pass, lengths and resets, to a native CallOptions for each layer and direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_integers, as_mask, check_shape
from bptt._dispatch import core
from bptt.layers.options import mixed
from bptt.layers.tape import rows_like

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt.layers.options import StateOptions
    from bptt.layers.states import States
    from bptt.layers.tape import Shape

    Orders = list[_core.SequenceOrder | None]  # of the rows, for each direction; None: the caller's own


def as_lengths(where: str, lengths: ArrayIn, B: int, steps: int) -> Array:
    """The number of steps of each row, [B] integers from 0 to `steps`, checked."""
    counts = as_integers(where, "lengths", lengths)
    check_shape(where, "lengths", counts, (B,))
    if counts.size and not 0 <= counts.min() <= counts.max() <= steps:
        has = f"values from {counts.min()} to {counts.max()}"
        raise ValueError(f"{where}: lengths has {has}, expected 0 to {steps}")
    return counts


class NativeOptions:
    """The CallOptions of one layer's calls; those without masks, lengths and resets are made once for each size."""

    def __init__(
        self, state_options: StateOptions, states: States, layers: int, directions: int, batch_first: bool
    ) -> None:
        self._state_options, self._states, self._layers, self._directions = state_options, states, layers, directions
        self._batch_first = batch_first
        self._last: tuple[tuple[int, int] | None, list[_core.CallOptions]] = (None, [])

    def make(
        self, where: str, x: Array, shown: Shape, lengths: ArrayIn | None, resets: ArrayIn | None, seed: int
    ) -> list[_core.CallOptions]:
        """Layer by layer, for each direction. x [T,B,I], or [sum,I] of packed rows; seed: of the masks, 0 without."""
        sizes = shown.sizes
        steps, B = x.shape[:2] if sizes is None else (len(sizes), int(sizes[:1].sum()))
        same = lengths is None and resets is None and sizes is None and not seed
        last = self._last
        if same and last[0] == (steps, B):
            return last[1]
        orders = self._orders(where, steps, B, lengths, sizes)
        flags = None if resets is None else self._resets(where, resets, x, shown)
        made = self._made(orders, flags, steps, seed)
        if same:
            self._last = ((steps, B), made)
        return made

    def planned(self, where: str, steps: int, B: int, lengths: ArrayIn | None) -> list[_core.CallOptions]:
        """The options of a call to come."""
        # Without lengths no order of rows is made: it takes memory and time, and nothing is counted by it.
        orders: Orders = [None] * self._directions
        if lengths is not None:
            orders = self._orders(where, steps, B, lengths, None)
        return self._made(orders, None, steps, 0)

    def _made(self, orders: Orders, resets: Array | None, steps: int, seed: int) -> list[_core.CallOptions]:
        D = self._directions
        return [
            core.CallOptions(
                order=orders[k % D],
                resets=resets,
                reset_state=None if resets is None else self._states.reset_state(k),
                input_dropout=self._state_options.dropout if k >= D else 0.0,  # of what another layer hands on
                input_seed=mixed(seed, k // D * D + 1),  # both directions see the same
                **self._state_options.call_options(mixed(seed, k + 1), steps),
            )
            for k in range(self._layers * D)
        ]

    def _orders(self, where: str, steps: int, B: int, lengths: ArrayIn | None, sizes: Array | None) -> Orders:
        """The order of the rows in each direction; None where it is the caller's."""
        directions = range(self._directions)
        if sizes is not None:
            if lengths is not None:
                raise ValueError(f"{where}: lengths is given beside packed rows, expected one of them")
            return [core.SequenceOrder.packed(sizes, bool(d)) for d in directions]
        if lengths is None:
            return [core.SequenceOrder(np.full(B, steps), steps, True) if d else None for d in directions]
        counts = as_lengths(where, lengths, B, steps)
        return [core.SequenceOrder(counts, steps, bool(d)) for d in directions]

    def _resets(self, where: str, resets: ArrayIn, x: Array, shown: Shape) -> Array:
        """The user's resets as the kernels take them: [T,B], or [sum] of packed rows."""
        flags = as_mask(where, "resets", rows_like(where, "resets", resets, shown))
        turned = self._batch_first and shown.batched and shown.sizes is None
        expected = x.shape[:-1] if shown.batched else (len(x),)
        check_shape(where, "resets", flags, expected[::-1] if turned else expected)
        return np.ascontiguousarray(flags.T if turned else flags).reshape(x.shape[:-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeOptions, (self._state_options, self._states, self._layers, self._directions, self._batch_first)
