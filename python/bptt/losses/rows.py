# SPDX-License-Identifier: Apache-2.0
"""What all losses share: predictions as rows, the rows that count, the weight of a row, and masks from lengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bptt._arrays import as_floats, as_integers, as_mask, brief, check_bool, check_shape, check_size, shape_error
from bptt._engine.lengths import as_lengths, within
from bptt._engine.packed import Shape, as_packed, rows_like

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.packed import Packed

    RowsIn: TypeAlias = ArrayIn | Packed

_ARRAY = Shape(True)
ONE_FOR_EACH_ROW = "bptt.Last() in the model, or last=True of its layer"  # what a target without a time axis needs


class Rows:
    """One call of a loss: predictions as rows [N,F], the leading shape of N, target and mask as they were given.

    Packed rows are replaced by their data.
    """

    __slots__ = ("lead", "mask", "target", "values", "where")

    def __init__(
        self, where: str, name: str, prediction: Any, target: Any, mask: Any, target_name: str = "target"
    ) -> None:
        shown = _ARRAY
        if hasattr(prediction, "batch_sizes"):
            prediction, shown = as_packed(where, prediction, name)
        array = as_floats(where, name, prediction)
        if array.ndim < 2 or not array.shape[-1]:
            raise shape_error(where, name, array, "(T, B, features)")
        if not array.size:
            raise shape_error(where, name, array, "at least one step of at least one row")
        self.where, self.lead = where, array.shape[:-1]
        self.values = array if array.ndim == 2 else array.reshape(math.prod(self.lead), array.shape[-1])
        self.target = rows_like(where, target_name, target, shown)
        self.mask = mask if mask is None else rows_like(where, "mask", mask, shown)

    def check_target(self, name: str, target: Array, features: tuple[int, ...] = ()) -> None:
        """Raise ValueError unless the target has these features for each row of the prediction."""
        expected = (*self.lead, *features)
        if target.shape == expected:
            return
        if len(self.lead) == 2 and target.shape in ((axis, *features) for axis in self.lead):  # no time axis
            raise shape_error(self.where, name, target, f"{expected}, or one y for each row: {ONE_FOR_EACH_ROW}")
        extra = target.shape[: target.ndim - len(features)]
        if len(self.lead) == 1 and len(extra) == 2 and self.lead[0] in extra and target.shape[2:] == features:
            raise shape_error(self.where, name, target, f"{expected}, or y of each step: no bptt.Last() in the model")
        raise shape_error(self.where, name, target, expected)

    def goal(self, features: int) -> Array:
        """The target [..., features] as rows [N,features] of the prediction's dtype."""
        target = as_floats(self.where, "target", self.target, self.values.dtype)
        self.check_target("target", target, (features,))
        return target if target.ndim == 2 else target.reshape(len(self.values), features)

    def kept(self, reduction: str) -> tuple[Array | None, float]:
        """Which rows count, [N] or None for all, and the weight of one row's loss."""
        if not isinstance(reduction, str):
            raise TypeError(f"{self.where}: reduction has type {type(reduction).__name__}, expected 'mean' or 'sum'")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"{self.where}: reduction has value {brief(reduction)}, expected 'mean' or 'sum'")
        if self.mask is None:
            keep, steps = None, len(self.values)
        else:
            keep = as_mask(self.where, "mask", self.mask)
            check_shape(self.where, "mask", keep, self.lead)
            keep, steps = keep.reshape(-1), int(np.count_nonzero(keep))
        if not steps:
            raise ValueError(f"{self.where}: mask has no step that counts, expected at least one")
        return keep, 1 / steps if reduction == "mean" else 1.0

    def gradient(self, rows: Array) -> Array:
        """Rows [N,F] as the prediction's shape."""
        return rows if len(self.lead) == 1 else rows.reshape(*self.lead, rows.shape[1])


def mask_of(lengths: ArrayIn, steps: int, batch_first: bool = False) -> Array:
    """The mask of rows of different lengths: True where step t is within row b, t < lengths[b].

    `bptt.fit` makes it from the lengths of a batch; elsewhere a loss is given it as its mask.

    Args:
        lengths: [B] integers from 0 to `steps`.
        steps: T, the length of the padded arrays.
        batch_first: whether the result is [B,T], default False.

    Returns: booleans [T,B], or [B,T] with batch_first.
    Raises: ValueError for a length outside 0 to `steps` or a wrong shape, TypeError for lengths that are not integers.

    >>> mask_of([3, 1], 3).tolist()
    [[True, True], [True, False], [True, False]]
    """
    counts = as_integers("mask_of", "lengths", lengths)
    if counts.ndim != 1:
        raise shape_error("mask_of", "lengths", counts, "(B,)")
    steps = check_size("mask_of", "steps", steps, least=0)
    counts = as_lengths("mask_of", counts, len(counts), steps)
    inside = within(counts, steps)
    return np.ascontiguousarray(inside.T) if check_bool("mask_of", "batch_first", batch_first) else inside
