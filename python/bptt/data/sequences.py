# SPDX-License-Identifier: Apache-2.0
"""Sequences of different lengths, [T_b, ...] each, as one padded array with lengths, or as `Packed` rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_array, check_bool, cut, shape_error
from bptt._engine.lengths import padded, within
from bptt._engine.packed import Packed
from bptt.data.series import has_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt._arrays import Array, ArrayIn


def pad(sequences: Sequence[ArrayIn], *, batch_first: bool = False) -> tuple[Array, Array]:
    """Return sequences as one array, with zeros after their ends, and their lengths.

    Args:
        sequences: B arrays [T_b, ...] of real numbers (such as [T_b, F], or ids [T_b]), alike but for their lengths,
            which may be 0. Integers stay integers.
        batch_first: [B,T,...], default False: [T,B,...].

    Returns: the array, T the largest length, and lengths [B], int64, as layers and `bptt.Batch` take them.
    Raises: ValueError for no sequences, other shapes and missing values (NaN), TypeError for what is not numbers.

    >>> array, lengths = pad([[1, 2, 3], [4]])
    >>> array.T.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    batch_first = check_bool("pad", "batch_first", batch_first)
    return padded(as_sequences("pad", "sequences", sequences), batch_first)


def pack(sequences: Sequence[ArrayIn]) -> Packed:
    """Return sequences as `Packed` rows, which have no padding.

    Args: sequences, B arrays [T_b, F] of real numbers, T_b >= 1, in any order; of a model that begins with an Embedding
        ids [T_b].
    Returns: `Packed`, with the longest sequence first; of equal ones, the first. Its indices are None where the
        sequences are in that order already. Targets of the same lengths that are packed too have the same order.
    Raises: as `pad`; ValueError for a sequence without steps, which has no row.

    >>> import bptt
    >>> rows = pack([[[1.0], [2.0]], [[3.0], [4.0], [5.0]]])
    >>> rows.data[:, 0].tolist(), rows.batch_sizes.tolist(), rows.sorted_indices.tolist()
    ([3.0, 1.0, 4.0, 2.0, 5.0], [2, 2, 1], [1, 0])
    >>> y, h = bptt.GRU(1, 4, seed=0)(rows)
    >>> y.data.shape, h.shape
    ((5, 4), (1, 2, 4))
    """
    arrays = as_sequences("pack", "sequences", sequences)
    lengths = np.array([len(array) for array in arrays])
    if not lengths.all():
        raise ValueError(f"pack: sequence {int(np.argmin(lengths))} has no steps, expected at least one, or pad()")
    order = np.argsort(-lengths, kind="stable")
    sizes = (lengths[:, np.newaxis] > np.arange(lengths.max())).sum(axis=0)
    array, _ = padded([arrays[b] for b in order], batch_first=False)
    inside = within(lengths[order], len(array))
    if (order == np.arange(len(order))).all():
        return Packed(array[inside], sizes)
    return Packed(array[inside], sizes, order, np.argsort(order))


def as_sequences(where: str, name: str, value: Any) -> list[Array]:
    """A list of arrays of one dtype and of one shape but for their first axis."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected a list of arrays")
    if not value:
        raise ValueError(f"{where}: {name} has length 0, expected at least one")
    arrays = [as_array(where, f"{name}[{b}]", each) for b, each in enumerate(value)]
    for b, array in enumerate(arrays):
        if array.dtype.kind not in "fiub":
            has = f"{name}[{b}] has dtype {cut(str(array.dtype), 60)}"
            raise TypeError(f"{where}: {has}, expected real numbers")
        if not array.ndim or array.shape[1:] != arrays[0].shape[1:]:
            rest = "".join(f", {n}" for n in arrays[0].shape[1:])
            raise shape_error(where, f"{name}[{b}]", array, f"(T{rest or ','})")
        if has_missing(array):
            raise ValueError(f"{where}: {name}[{b}] has missing values (NaN), expected none: fill them or leave it out")
    if any(array.size for array in arrays):  # NumPy makes float64 of an empty list
        kinds = [array.dtype for array in arrays if array.size]
        return [array.astype(np.result_type(*kinds), copy=False) for array in arrays]
    return arrays
