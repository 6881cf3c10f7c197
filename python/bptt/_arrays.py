# SPDX-License-Identifier: Apache-2.0
"""Arguments from users: arrays, dtypes, sizes and numbers are checked and converted here, once.

The native module takes C-contiguous arrays of one exact dtype. Any other array is copied once (a strided view, another
dtype, another byte order, an unaligned buffer); an array that fits is passed on without a copy.
Each error reads `operation: argument has what, expected what`; `where` is the operation.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array: TypeAlias = NDArray[Any]
    ArrayIn: TypeAlias = "ArrayLike | SupportsDLPack"


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_BOOLS = (bool, np.bool_)


class SupportsDLPack(Protocol):
    """An array of another library that lies in CPU memory."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """Export the memory as a DLPack capsule."""


def as_array(where: str, name: str, value: Any) -> Array:
    """NumPy's view of an array, of anything with `__array__` or `__dlpack__` in CPU memory, or of nested lists.

    TypeError or ValueError for anything else, TypeError for a masked array, whose mask would be lost.
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
        rows = value if isinstance(value, (list, tuple)) else []
        if len({each.shape for each in rows if isinstance(each, np.ndarray)}) > 1:
            has = f"{where}: {name} has {len(value)} sequences of different shapes"
            raise ValueError(
                f"{has}, expected one array: bptt.data.pad makes one, np.concatenate joins them"
            ) from error
        what = f"{where}: {name} has type {type(value).__name__}, expected an array in CPU memory or nested lists"
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{what} ({textwrap.shorten(str(error), 90)})") from error


def as_floats(where: str, name: str, value: ArrayIn, dtype: DTypeLike | None = None) -> Array:
    """Real numbers as a C-contiguous array; TypeError for anything else.

    The result has `dtype`. Without it, float64 in any byte order and wider floats become float64, all others
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
        raise TypeError(f"{where}: {name} has dtype {cut(str(array.dtype), 60)}, expected {expected}")
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


def kind_of(value: object) -> str:
    """How an error describes a value of the wrong type."""
    return f"is the class {value.__name__}" if isinstance(value, type) else f"has type {type(value).__name__}"


def check_tuple(where: str, name: str, value: Any, length: int, expected: str) -> tuple[Any, ...]:
    """Return a tuple or list of this length as a tuple."""
    if isinstance(value, (tuple, list)) and len(value) == length:
        return tuple(value)
    has = f"length {len(value)}" if isinstance(value, (tuple, list)) else f"type {type(value).__name__}"
    raise ValueError(f"{where}: {name} has {has}, expected {expected}")


def check_size(where: str, name: str, value: Any, least: int = 1, most: int = sys.maxsize) -> int:
    """An integer in [least, most]; True and False are refused."""
    size = _integer(where, name, value)
    if not least <= size <= most:
        expected = f"an integer >= {least}" if size < least else f"an integer <= {most}"
        raise ValueError(f"{where}: {name} has value {brief(size)}, expected {expected}")
    return size


def check_seed(where: str, seed: Any) -> int:
    """An integer of at least 0, of any size; for None a new one of 128 bits from the operating system."""
    if seed is None:
        entropy = np.random.SeedSequence().entropy
        assert isinstance(entropy, int)
        return entropy
    number = _integer(where, "seed", seed)
    if number < 0:
        raise ValueError(f"{where}: seed has value {brief(number)}, expected an integer >= 0")
    return number


def _integer(where: str, name: str, value: Any) -> int:
    try:
        if isinstance(value, _BOOLS):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected an integer") from None


def check_number(where: str, name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """A number in [low, high); NaN, strings, True and False are refused."""
    if type(value) is float and low <= value < high:  # the common case, in 0.1 us
        return value
    try:
        if not is_number(value):
            raise TypeError
        number = float(value)
    except OverflowError:  # an integer beyond every float
        number = math.inf if value > 0 else -math.inf
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected a number") from None
    if not low <= number < high:
        raise ValueError(f"{where}: {name} has value {number}, expected {low:g} <= {name} < {high:g}")
    return number


def is_number(value: Any) -> bool:
    """Whether a value is one real number, Python's or NumPy's; strings, True, False and arrays of any kind are not."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.ndim == 0 and value.dtype.kind in "fiu"
    if getattr(value, "ndim", 0):  # a tensor of PyTorch, which has __float__ whatever its shape
        return False
    return not isinstance(value, bool) and (hasattr(type(value), "__float__") or hasattr(type(value), "__index__"))


def check_bool(where: str, name: str, value: Any) -> bool:
    """True or False, Python's or NumPy's."""
    if not isinstance(value, _BOOLS):
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected True or False")
    return bool(value)


def check_dtype(where: str, dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype of a layer: float32 or float64."""
    exact: Any = dtype
    with contextlib.suppress(TypeError, ValueError):
        exact = None if dtype is None else np.dtype(dtype)  # None would be float64 to NumPy
    if not isinstance(exact, np.dtype) or exact not in _FLOATS:
        raise TypeError(f"{where}: dtype has value {cut(str(exact), 50)}, expected float32 or float64")
    return exact


def cut(text: str, room: int) -> str:
    """A text, of which `room` characters are shown."""
    return text if len(text) <= room else text[: room - 3] + "..."


def brief(value: Any, room: int = 40) -> str:
    """What a message shows of a value: its repr, cut; the size of an integer that has too many digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"of {value.bit_length()} bits"
    return cut(repr(value), room)


def first_of(names: Sequence[str], room: int = 36) -> str:
    """As many of the names as fit into `room` characters, at least one, and how many more there are."""
    text, shown = cut(names[0], room), 1
    while shown < len(names) and len(text) + 2 + len(names[shown]) <= room:
        text, shown = f"{text}, {names[shown]}", shown + 1
    return text if shown == len(names) else f"{text} and {len(names) - shown} more"
