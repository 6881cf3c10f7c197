# SPDX-License-Identifier: Apache-2.0
"""Converts a caller's lengths and resets to a native CallOptions for each layer and direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_mask, check_shape
from bptt._dispatch import core
from bptt._engine.lengths import as_lengths
from bptt._engine.options import mixed
from bptt._engine.packed import rows_like

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.options import StateOptions
    from bptt._engine.packed import Shape
    from bptt._engine.states import States
    from bptt._engine.structure import Structure
    from bptt._engine.weights import Weights

    Orders = list[_core.SequenceOrder | None]  # of the rows, for each direction; None: the caller's own


class NativeOptions:
    """The CallOptions of one network's calls; those without masks, lengths and resets are made once for each size."""

    def __init__(self, structure: Structure, state_options: StateOptions, states: States) -> None:
        self._structure, self._state_options, self._states = structure, state_options, states
        self._last: tuple[tuple[int, int] | None, list[_core.CallOptions]] = (None, [])

    def make(
        self,
        where: str,
        weights: Weights | None,
        x: Array,
        shown: Shape,
        lengths: ArrayIn | None,
        resets: ArrayIn | None,
        seed: int,
    ) -> list[_core.CallOptions]:
        """Layer by layer, for each direction. x [T,B,I], or [sum,I] of packed rows; seed: of the masks, 0 without.

        weights: those with the learnt states, None where there are none.
        """
        sizes, B = shown.sizes, shown.batch(x.shape)
        steps = len(x) if sizes is None else len(sizes)
        same = lengths is None and resets is None and sizes is None and not seed
        last = self._last
        if same and last[0] == (steps, B):
            return last[1]
        orders = self._orders(where, steps, B, lengths, sizes)
        flags = None if resets is None else _resets(where, resets, x, shown)
        made = self._made(orders, flags, steps, seed, None if flags is None else weights)
        if same:
            self._last = ((steps, B), made)
        return made

    def planned(self, where: str, steps: int, B: int, lengths: ArrayIn | None) -> list[_core.CallOptions]:
        """The options of a call to come."""
        return self._made(self._orders(where, steps, B, lengths, None), None, steps, 0, None)

    def _made(
        self, orders: Orders, resets: Array | None, steps: int, seed: int, weights: Weights | None
    ) -> list[_core.CallOptions]:
        """weights: those with the state that resets give, where there are any."""
        D = self._structure.num_directions
        return [
            core.CallOptions(
                order=orders[k % D],
                resets=resets,
                reset_state=None if weights is None else self._states.reset_state(weights.plain, k),
                input_dropout=self._state_options.dropout if k >= D else 0.0,  # of the output of another layer
                input_seed=mixed(seed, k // D * D + 1),  # both directions see the same
                **self._state_options.call_options(mixed(seed, k + 1), steps),
            )
            for k in range(self._structure.kernels)
        ]

    def _orders(self, where: str, steps: int, B: int, lengths: ArrayIn | None, sizes: Array | None) -> Orders:
        """The order of the rows in each direction; None where it is the caller's."""
        directions = range(self._structure.num_directions)
        if sizes is not None:
            if lengths is not None:
                raise ValueError(f"{where}: lengths is given with packed rows, expected one of them")
            return [core.SequenceOrder.packed(sizes, bool(d)) for d in directions]
        if lengths is None:
            return [core.SequenceOrder.equal(steps, B, True) if d else None for d in directions]
        counts = as_lengths(where, lengths, B, steps)
        return [core.SequenceOrder(counts, steps, bool(d)) for d in directions]

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeOptions, (self._structure, self._state_options, self._states)


def _resets(where: str, resets: ArrayIn, x: Array, shown: Shape) -> Array:
    """The user's resets as the kernels take them: [T,B], or [sum] of packed rows."""
    flags = as_mask(where, "resets", rows_like(where, "resets", resets, shown))
    expected = x.shape[:-1] if shown.batched else (len(x),)
    check_shape(where, "resets", flags, expected[::-1] if shown.turned else expected)
    return np.ascontiguousarray(flags.T if shown.turned else flags).reshape(x.shape[:-1])
