# SPDX-License-Identifier: Apache-2.0
"""What users hand in, made exact: arrays, dtypes, sizes and numbers are checked and converted here, once.

The native module takes C-contiguous arrays of one exact dtype. Whatever differs is copied once (a strided view, another
dtype, another byte order, an unaligned buffer); what already fits is passed on as it is, without a copy.
Each error reads `operation: argument has what, expected what`; `where` is the operation.
"""

from __future__ import annotations

import math
import operator
import textwrap
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array: TypeAlias = NDArray[Any]
    ArrayIn: TypeAlias = "ArrayLike | SupportsDLPack"


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class SupportsDLPack(Protocol):
    """An array of another library that lies in CPU memory."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """Export the memory as a DLPack capsule."""


def as_array(where: str, name: str, value: Any) -> Array:
    """NumPy's view of an array, of anything with `__array__` or `__dlpack__` in CPU memory, or of nested lists.

    TypeError for what is none of these, and for a masked array, whose mask would be lost.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray) and hasattr(value, "mask"):  # not by np.ma, which is slow to import
        raise TypeError(f"{where}: {name} is a masked array, expected a plain one: its .data, or .filled(value)")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        what = f"{where}: {name} has type {type(value).__name__}, expected an array in CPU memory or nested lists"
        raise type(error)(f"{what} ({textwrap.shorten(str(error), 90)})") from error


def as_floats(where: str, name: str, value: ArrayIn, dtype: DTypeLike | None = None) -> Array:
    """Real numbers as a C-contiguous array; TypeError for what is not real.

    `dtype` is the result's; by default float64 in any byte order, and wider floats, become float64, and all else
    float32.
    """
    if type(value) is np.ndarray and (value.dtype is dtype or (dtype is None and value.dtype in _FLOATS)):
        flags = value.flags
        if flags.c_contiguous and flags.aligned:  # the common case, in 0.3 us
            return value
    array = as_array(where, name, value)
    if dtype is None:
        dtype = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize >= 8 else np.float32
    return _exact(where, name, array, dtype, "fiub", "real numbers")


def as_integers(where: str, name: str, value: ArrayIn) -> Array:
    """Integers as a C-contiguous int64 array; TypeError for anything else."""
    return _exact(where, name, value, np.int64, "iu", "integers")


def as_mask(where: str, name: str, value: ArrayIn) -> Array:
    """Booleans as a C-contiguous array; TypeError for anything else."""
    return _exact(where, name, value, np.bool_, "b", "booleans")


def _exact(where: str, name: str, value: ArrayIn, dtype: DTypeLike, kinds: str, expected: str) -> Array:
    array = as_array(where, name, value)
    if not array.size and isinstance(value, (list, tuple)):
        array = array.astype(dtype)  # NumPy makes float64 of an empty list
    if array.dtype.kind not in kinds:
        raise TypeError(f"{where}: {name} has dtype {str(array.dtype)[:60]}, expected {expected}")
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, dtype, ["C", "A"])


def check_shape(where: str, name: str, array: Array, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless the array has this shape."""
    if array.shape != expected:
        raise shape_error(where, name, array, expected)


def shape_error(where: str, name: str, array: Array, expected: object) -> ValueError:
    """The error for a wrong shape, with `expected` in words or numbers."""
    return ValueError(f"{where}: {name} has shape {array.shape}, expected {expected}")


def check_tuple(where: str, name: str, value: Any, length: int, expected: str) -> tuple[Any, ...]:
    """Return a tuple or list of this length as a tuple."""
    if isinstance(value, (tuple, list)) and len(value) == length:
        return tuple(value)
    has = f"length {len(value)}" if isinstance(value, (tuple, list)) else f"type {type(value).__name__}"
    raise ValueError(f"{where}: {name} has {has}, expected {expected}")


def check_size(where: str, name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected an integer") from None
    if size < least:
        raise ValueError(f"{where}: {name} has value {size}, expected an integer >= {least}")
    return size


def check_number(where: str, name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """A number in [low, high); NaN is not in it. NumPy's scalars and 0-d arrays are numbers, text is not."""
    try:
        array = np.asarray(value)
        if array.ndim or array.dtype.kind not in "fiubO":
            raise TypeError
        number = float(value)
    except OverflowError:  # an integer beyond float64
        number = math.inf if value > 0 else -math.inf
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected a number") from None
    if not low <= number < high:
        raise ValueError(f"{where}: {name} has value {number}, expected {low:g} <= {name} < {high:g}")
    return number


def check_dtype(where: str, dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype of a layer: float32 or float64."""
    exact = np.dtype(dtype)
    if exact not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{where}: dtype has value {exact}, expected float32 or float64")
    return exact
