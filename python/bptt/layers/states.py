# SPDX-License-Identifier: Apache-2.0
"""A recurrent layer's states, h [L*D,B,H] or a tuple such as (h, c), as users hold them, and what was learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_floats, check_shape, check_tuple

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.layers.base import Layer
    from bptt.layers.tape import Shape
    from bptt.params import Params


class States:
    """The states of `count` kernels (layers times directions): their widths by name, h first."""

    def __init__(self, layer: Layer, widths: dict[str, int], count: int) -> None:
        self._layer, self._names, self._count = layer, tuple(widths), count
        self._widths = tuple(widths.values())
        self._learnt = [name for name in layer.params if name.startswith("initial_")]

    def native(self, where: str, name: str, state: Any, B: int, shown: Shape) -> Any:
        """The user's state, checked, as exact arrays [count,B,H]; None stays None: zeros are made by the kernels.

        The states of packed rows come in the caller's order and leave in that of the rows.
        """
        if state is None:
            return None
        S, n = len(self._names), self._count
        values = (state,) if S == 1 else check_tuple(where, name, state, S, f"the tuple ({', '.join(self._names)})")
        arrays = []
        for part, size, value in zip(self._names, self._widths, values, strict=True):
            array = as_floats(where, f"{name} {part}", value, self._layer.params.dtype)
            check_shape(where, f"{name} {part}", array, (n, B, size) if shown.batched else (n, size))
            array = array.reshape(n, B, size)
            arrays.append(array if shown.sorted_indices is None else array.take(shown.sorted_indices, axis=1))
        return tuple(arrays) if S > 1 else arrays[0]

    def given(self, state: Any, shown: Shape) -> Any:
        """The way back: in the caller's order, and without the batch axis where the user's x has none."""
        if shown.batched and shown.unsorted_indices is None:
            return state
        if isinstance(state, tuple):
            return tuple(self.given(part, shown) for part in state)
        return state.take(shown.unsorted_indices, axis=1) if shown.batched else state[:, 0]

    def _named(self, k: int) -> list[str]:
        """The parameters that hold what kernel k learnt to begin with."""
        S = len(self._names)
        return self._learnt[k * S : (k + 1) * S]

    def reset_state(self, k: int) -> Any:
        """The state that a reset gives the rows of kernel k, [H] each, or None for zeros."""
        if not self._learnt:
            return None
        learnt = tuple(self._layer.params[name] for name in self._named(k))
        return learnt if len(learnt) > 1 else learnt[0]

    def new_reset_states(self, dtype: Any) -> Any:
        """Room for the gradient of that."""
        made = tuple(np.zeros(size, dtype) for size in self._widths)
        return made if len(made) > 1 else made[0]

    def learnt(self, B: int) -> Any:
        """The initial state that was learnt, for B rows."""
        params, rows = self._layer.params, []
        for i, size in enumerate(self._widths):
            state = np.empty((self._count, B, size), params.dtype)
            for k in range(self._count):
                state[k] = params[self._named(k)[i]]
            rows.append(state)
        return tuple(rows) if len(rows) > 1 else rows[0]

    def add_learnt(self, grads: Params, dreset_state: list[Any], dinitial: Any) -> None:
        """Gradients of what was learnt: from resets, and from the start where it was taken from there (else None)."""
        starts = dinitial if isinstance(dinitial, tuple) else (dinitial,)
        for k in range(self._count):
            for i, name in enumerate(self._named(k)):
                total: Array = dreset_state[k][i] if len(self._names) > 1 else dreset_state[k]
                grads[name] = total if dinitial is None else total + starts[i][k].sum(axis=0)
