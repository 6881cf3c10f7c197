# SPDX-License-Identifier: Apache-2.0
"""Rows of different lengths: lengths checked, the steps within them, and sequences padded to one array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import as_integers, check_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt._arrays import Array, ArrayIn


def as_lengths(where: str, lengths: ArrayIn, B: int, steps: int) -> Array:
    """The number of steps of each row, [B] integers from 0 to `steps`, checked."""
    counts = as_integers(where, "lengths", lengths)
    check_shape(where, "lengths", counts, (B,))
    if counts.size and not 0 <= counts.min() <= counts.max() <= steps:
        has = f"values from {counts.min()} to {counts.max()}"
        raise ValueError(f"{where}: lengths has {has}, expected 0 to {steps}")
    return counts


def within(lengths: Array, steps: int) -> Array:
    """Booleans [T,B]: whether step t belongs to row b, t < lengths[b]."""
    inside: Array = np.arange(steps)[:, np.newaxis] < lengths
    return inside


def padded(sequences: Sequence[Array], batch_first: bool) -> tuple[Array, Array]:
    """Sequences [T_b,...], alike but for T_b, as one array with zeros after their ends, and their lengths [B]."""
    lengths = np.array([len(each) for each in sequences], np.int64)
    rows = np.zeros((len(sequences), lengths.max(), *sequences[0].shape[1:]), np.result_type(*sequences))
    for row, each in zip(rows, sequences, strict=True):
        row[: len(each)] = each
    return rows if batch_first else np.ascontiguousarray(rows.swapaxes(0, 1)), lengths
