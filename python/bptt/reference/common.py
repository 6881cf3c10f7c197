# SPDX-License-Identifier: Apache-2.0
"""Shared by all parts of the reference: float64, and checks of shapes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Arrays = tuple[Array, ...]


def f64(a: ArrayLike) -> Array:
    """Return a copy."""
    return np.array(a, dtype=np.float64)


def check_shapes(
    operation: str, arrays: Mapping[str, NDArray[np.generic]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ValueError for a missing array, an unknown one or one of a wrong shape."""
    for name in sorted(shapes.keys() | arrays.keys()):
        found, expected = getattr(arrays.get(name), "shape", None), shapes.get(name)
        if found != expected:
            raise ValueError(f"{operation}: {name} has shape {found}, expected {expected}")


def checked_ids(what: str, ids: ArrayLike, V: int) -> NDArray[np.intp]:
    """Integers in [0,V)."""
    a = np.array(ids).astype(np.intp, casting="same_kind")
    if a.size and not 0 <= a.min() <= a.max() < V:
        raise ValueError(f"{what} has values from {a.min()} to {a.max()}, expected 0 to {V - 1}")
    return a
