# SPDX-License-Identifier: Apache-2.0
"""Time series from users: arrays [T], [T,F] and data frames as arrays of floats, and their missing values.

Frames of pandas, polars and others are read through narwhals, which is imported when the first one is given. A missing
value is NaN in an array; null or NaN in a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, brief, cut, shape_error

if TYPE_CHECKING:
    from bptt._arrays import Array

# The libraries whose frames and series narwhals reads, by their modules.
_FRAMES = ("cudf", "dask", "duckdb", "ibis", "modin", "pandas", "polars", "pyarrow", "pyspark", "sqlframe")


class Series(NamedTuple):
    """Values [..., F], float32 or float64, and the names of the F columns of a frame."""

    values: Array
    columns: tuple[str, ...] | None = None


def as_series(where: str, name: str, value: Any) -> Series:
    """An array of real numbers or a frame; TypeError for anything else. An array keeps its axes, a frame gives [T,F].

    float32 stays, float16 becomes float32, all else float64.
    """
    if is_frame(value):
        return _of_frame(where, name, value)
    return Series(as_real(where, name, as_array(where, name, value)))


def as_table(where: str, name: str, value: Any) -> Series:
    """The same, C-contiguous and as [T,F]; [T] is one feature. ValueError for other shapes."""
    values, columns = as_series(where, name, value)
    if values.ndim not in (1, 2) or not values.size:
        raise shape_error(where, name, values, "(T,) or (T, F), and at least one value")
    return Series(np.ascontiguousarray(values.reshape(len(values), -1)), columns)


def as_real(where: str, name: str, array: Array) -> Array:
    """Real numbers as float32 or float64."""
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{where}: {name} has dtype {cut(str(array.dtype), 60)}, expected real numbers")
    narrow = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    return array.astype(np.float32 if narrow else np.float64, copy=False)


def is_frame(value: Any) -> bool:
    """Whether a value is a frame or a series of a library of data frames, also one that is not loaded yet."""
    return type(value).__module__.partition(".")[0] in _FRAMES


def narwhal(where: str, name: str, value: Any) -> Any:
    """A frame or series as narwhals sees it."""
    try:
        import narwhals.stable.v1 as nw  # here, since only frames need it
    except ImportError as error:
        has = f"{name} is a frame, which needs the package narwhals"
        raise ImportError(f"{where}: {has}, expected `pip install 'bptt[data]'`, or an array: .to_numpy()") from error
    try:
        return nw.from_native(value, eager_only=True, allow_series=True)
    except TypeError as error:
        has = f"{name} has type {type(value).__module__.partition('.')[0]} {type(value).__name__}"
        raise TypeError(
            f"{where}: {has}, expected a frame in memory, such as .collect() or .compute() makes"
        ) from error


def native(frame: Any) -> Any:
    """The frame or series that narwhals shows."""
    import narwhals.stable.v1 as nw

    return nw.to_native(frame)  # the method is not in narwhals 1.0


def _of_frame(where: str, name: str, value: Any) -> Series:
    frame = narwhal(where, name, value)
    columns = [frame[each] for each in frame.columns] if hasattr(frame, "columns") else [frame]
    if not columns:
        raise ValueError(f"{where}: {name} is a frame without columns, expected at least one")
    return Series(
        np.stack([_of_column(where, name, each) for each in columns], axis=-1),
        tuple(str(each.name) for each in columns),
    )


def _of_column(where: str, name: str, column: Any) -> Array:
    """The values [T] of a column, NaN where they are missing."""
    import narwhals.stable.v1 as nw

    dtype = column.dtype
    if not dtype.is_numeric() and dtype != nw.Boolean:
        has = f"column {brief(column.name)} of {name} has dtype {cut(str(dtype), 40)}"
        raise TypeError(f"{where}: {has}, expected numbers: drop it or turn it into numbers")
    exact = nw.Float32 if dtype == nw.Float32 else nw.Float64  # a cast, since integers have no NaN
    values: Array = column.cast(exact).to_numpy()
    return values.astype(np.float32 if exact is nw.Float32 else np.float64, copy=False)


def has_missing(values: Array) -> bool:
    """Whether an array has a NaN, without an array of the answers."""
    return values.dtype.kind == "f" and values.size > 0 and bool(np.isnan(values.min()))


def refuse_missing(where: str, name: str, series: Series, expected: str) -> None:
    """Raise ValueError, which says how many values are missing and where the first is, unless there is none."""
    if not has_missing(series.values):
        return
    missing = np.argwhere(np.isnan(series.values))
    *rows, column = missing[0].tolist()
    at = f"row {', '.join(map(str, rows)) or 0}, column {brief(column_name(series.columns, column))}"
    if series.values.ndim == 1:
        at = f"row {column}"
    what = f"has {len(missing)} missing value{'s' * (len(missing) > 1)}, the first in {at}"
    raise ValueError(f"{where}: {name} {what}, expected {expected}")


def column_name(columns: tuple[str, ...] | None, k: int) -> str | int:
    """What a message calls a column."""
    return columns[k] if columns is not None else k


def filled_forward(where: str, name: str, series: Series) -> Array:
    """Values [T,F] with the last value before in the place of a missing one; ValueError where there is none."""
    values = series.values
    rows = np.where(np.isnan(values), -1, np.arange(len(values))[:, np.newaxis])
    last = np.maximum.accumulate(rows, axis=0)
    if (last[0] < 0).any():
        column = brief(column_name(series.columns, int(np.argmax(last[0] < 0))))
        raise ValueError(f"{where}: {name} has no value in row 0, column {column}, expected one to go on from")
    filled: Array = np.take_along_axis(values, last, axis=0)
    return filled
