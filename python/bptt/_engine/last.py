# SPDX-License-Identifier: Apache-2.0
"""The last step of each row of an array over time, in any form of a caller's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_array, shape_error
from bptt._engine.lengths import as_lengths
from bptt._engine.packed import Shape, as_packed

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn


def as_timed(where: str, x: Any, batch_first: bool) -> tuple[Array, Shape]:
    """x over time as the kernels take it, [T,B,F] or packed [sum,F], and its form."""
    if hasattr(x, "batch_sizes"):
        data, shown = as_packed(where, x)
        if data.ndim != 2:
            raise shape_error(where, "x", data, "(sum, features)")
        return data, shown
    x = as_array(where, "x", x)
    if x.ndim not in (2, 3):
        axes = "(B, T, features)" if batch_first else "(T, B, features)"
        raise shape_error(where, "x", x, axes)
    shown = Shape(x.ndim == 3, batch_first)
    return shown.taken(x), shown


class LastSteps:
    """The places of the last steps of all rows, or of the first ones.

    Arrays are as `as_timed` returns them; steps are [B,F], in the order of the caller's rows. A row without a step has
    zeros there.
    Args: lead, the shape of an array but its features, [T,B] or [sum]; shown, its form; lengths [B], default T.
    """

    __slots__ = ("_at", "_empty", "batch")

    def __init__(
        self, where: str, lead: tuple[int, ...], shown: Shape, lengths: ArrayIn | None = None, *, first: bool = False
    ) -> None:
        if shown.sizes is not None:
            if lengths is not None:
                raise ValueError(f"{where}: lengths is given with packed rows, expected one of them")
            self.batch = int(shown.sizes[:1].sum())
            self._at: tuple[Array, ...] = (_packed_places(shown, self.batch, first),)
            self._empty = None
            return
        T, self.batch = lead
        rows = np.arange(self.batch)
        counts = np.full(self.batch, T) if lengths is None else as_lengths(where, lengths, self.batch, T)
        self._at = (np.zeros_like(rows) if first else np.maximum(counts - 1, 0), rows)
        self._empty = counts == 0 if (counts == 0).any() else None

    def take(self, x: Array) -> Array:
        """A copy of these steps, [B,F]."""
        if not len(x):
            return np.zeros((self.batch, x.shape[-1]), x.dtype)
        return self.cleared(x[self._at])

    def put(self, x: Array, steps: Array) -> None:
        """Write these steps, [B,F], into an array over time."""
        if len(x):
            x[self._at] = self.cleared(steps)

    def cleared(self, steps: Array) -> Array:
        """The steps, with zeros for rows that have none."""
        return steps if self._empty is None else np.where(self._empty[:, np.newaxis], steps.dtype.type(0), steps)


def _packed_places(shown: Shape, batch: int, first: bool) -> Array:
    """Where packed data have the last or first step of each of the caller's rows."""
    assert shown.sizes is not None
    rows = np.arange(batch)
    if first:
        at = rows
    else:
        counts = len(shown.sizes) - np.searchsorted(shown.sizes[::-1], rows, side="right")  # steps of each row
        at = (np.cumsum(shown.sizes) - shown.sizes)[counts - 1] + rows
    return at if shown.unsorted_indices is None else at[shown.unsorted_indices]
