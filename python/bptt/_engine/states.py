# SPDX-License-Identifier: Apache-2.0
"""A network's states, h [L*D,B,H] or (h, c): as users hold them, checked, and the learnt initial ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_floats, check_shape, check_tuple

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt._engine.packed import Shape
    from bptt._engine.structure import Structure
    from bptt._engine.weights import Span


class States:
    """The states of all kernels.

    learnt: the places of the learnt initial states in the flat parameters, kernel by kernel, all states of each in
    order; None where states begin as zeros.
    """

    def __init__(self, structure: Structure, learnt: Span | None) -> None:
        self._names, self._widths, self._count = structure.info.states, structure.widths, structure.kernels
        self._dtype, self._span = structure.dtype, learnt
        self.learns = learnt is not None

    def native(self, where: str, name: str, state: Any, B: int, shown: Shape) -> Any:
        """The user's state, checked, as exact arrays [count,B,H]; None stays None: zeros are made by the kernels.

        The states of packed rows are given in the caller's order and returned in that of the rows.
        """
        if state is None:
            return None
        names, n = self._names, len(self._names)
        if n == 1:
            return self._exact(where, f"{name} {names[0]}", state, self._widths[0], B, shown)
        values = check_tuple(where, name, state, n, f"the tuple ({', '.join(names)})")
        return tuple([self._exact(where, f"{name} {names[i]}", values[i], self._widths[i], B, shown) for i in range(n)])

    def _exact(self, where: str, name: str, value: Any, width: int, B: int, shown: Shape) -> Array:
        array, expected = as_floats(where, name, value, self._dtype), shown.of_state(self._count, B, width)
        check_shape(where, name, array, expected)
        if len(expected) < 3:
            array = array.reshape(self._count, B, width)
        return array if shown.sorted_indices is None else array.take(shown.sorted_indices, axis=1)

    def given(self, state: Any, shown: Shape) -> Any:
        """The inverse: states in the caller's order, without the axes that the caller's x lacks."""
        if shown.batched and not shown.one_step and shown.unsorted_indices is None:
            return state
        if isinstance(state, tuple):
            return tuple([_given(part, shown) for part in state])
        return _given(state, shown)

    def added_to_last(self, state: Any, rows: Array) -> Any:
        """The state, exact arrays or None for zeros, with [B,R] added to h of the last kernel; a copy."""
        parts = state if isinstance(state, tuple) else (state,) * len(self._names)
        B = len(rows)
        sizes = [(self._count, B, width) for width in self._widths]
        made = [np.zeros(size, self._dtype) if part is None else part for size, part in zip(sizes, parts, strict=True)]
        if state is not None:
            made[0] = made[0].copy()
        made[0][-1] += rows
        return _whole(made)

    def reset_state(self, flat: Array, k: int) -> Any:
        """The state that a reset gives the rows of kernel k, views [H] of the parameters, or None for zeros."""
        return _whole([part[k] for part in self._learnt(flat)]) if self.learns else None

    def new_reset_states(self) -> Any:
        """An array for the gradient of that state."""
        return _whole([np.zeros(size, self._dtype) for size in self._widths])

    def initial(self, flat: Array, B: int) -> Any:
        """The learnt initial state for B rows, or None for zeros."""
        return (
            _whole([np.repeat(part[:, np.newaxis], B, axis=1) for part in self._learnt(flat)]) if self.learns else None
        )

    def add_learnt(self, grads: Array, dreset_state: list[Any], dinitial: Any) -> None:
        """Write the gradients of the learnt states into `grads`, flat like the parameters.

        They come from resets, and from the start of a call without a given state (else None).
        """
        starts = dinitial if isinstance(dinitial, tuple) else (dinitial,)
        for i, rows in enumerate(self._learnt(grads)):
            for k in range(self._count):
                total: Array = dreset_state[k][i] if len(self._names) > 1 else dreset_state[k]
                rows[k] = total if dinitial is None else total + starts[i][k].sum(axis=0)

    def _learnt(self, flat: Array) -> list[Array]:
        """Views of the learnt states, [count,H] each."""
        assert self._span is not None
        start, stop = self._span
        ends = np.cumsum(self._widths)[:-1].tolist()
        return np.split(flat[start:stop].reshape(self._count, -1), ends, axis=1)


def _given(state: Array, shown: Shape) -> Array:
    if shown.unsorted_indices is not None:
        return state.take(shown.unsorted_indices, axis=1)
    if not shown.batched:
        state = state[:, 0]
    return state[0] if shown.one_step else state


def _whole(parts: list[Array]) -> Any:
    """The state of these parts."""
    return tuple(parts) if len(parts) > 1 else parts[0]
