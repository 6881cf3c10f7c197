# SPDX-License-Identifier: Apache-2.0
"""A time series cut into windows, each with what follows it, and cut into a part to train on and a later one to check.

Shapes: T steps, F features, K features to predict, N windows. Windows are views: a value is in memory once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bptt._arrays import as_array, brief, check_bool, check_number, check_size, shape_error
from bptt.data.series import Series, as_table, filled_forward, is_frame, narwhal, native, refuse_missing

if TYPE_CHECKING:
    from bptt._arrays import Array

_MISSING = ("drop", "previous")


def windows(
    series: Any,
    length: int,
    horizon: int,
    stride: int = 1,
    *,
    target: Any = None,
    each_step: bool = False,
    batch_first: bool = False,
    missing: str | None = None,
) -> tuple[Array, Array]:
    """Return the windows of a series, and as targets the values that follow each.

        x[:, n] = series[s : s + length],   target[n] = target[s + length : s + length + horizon],   s = n * stride

    Args:
        series: [T,F] or [T], numbers; or a frame of pandas, polars and others (with `pip install 'bptt[data]'`), whose
            columns are the features. float32 stays, integers become float64.
        length: steps of a window. horizon: steps that follow. stride: steps from one window to the next, default 1.
        target: the series to predict, [T,K] or [T] or a frame, with the steps of `series`; default `series` itself.
        each_step: a target for every step of a window, the `horizon` values after that step, for models with an output
            at every step; default False: one for each window, for models whose output has no time axis.
        batch_first: x and the targets of each step as [N,length,.], default False: [length,N,.].
        missing: NaN or null in the series: None (default) refuses them; "drop" leaves out windows that have one, in x
            or in what follows; "previous" repeats the last value before.

    Returns: x [length,N,F] and target [N,horizon*K], or [length,N,horizon*K] with `each_step`; the K values of a step
        are adjacent: `target.reshape(N, horizon, K)`. N = (T - length - horizon) // stride + 1, less what is dropped.
        Both are read-only views of the series where its dtype and order allow it and nothing is dropped.
    Raises: ValueError for a series that is too short or has missing values, TypeError for what is not numbers,
        ImportError for a frame without narwhals.

    >>> x, target = windows(np.arange(10.0), length=4, horizon=2, stride=3)
    >>> x[:, :, 0].T.tolist(), target.tolist()
    ([[0.0, 1.0, 2.0, 3.0], [3.0, 4.0, 5.0, 6.0]], [[4.0, 5.0], [7.0, 8.0]])
    >>> x, target = windows(np.arange(10.0), length=4, horizon=1, each_step=True)  # the next value, at each step
    >>> x[:, 0, 0].tolist(), target[:, 0, 0].tolist()
    ([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    """
    length, horizon = check_size("windows", "length", length), check_size("windows", "horizon", horizon)
    stride = check_size("windows", "stride", stride)
    each_step = check_bool("windows", "each_step", each_step)
    batch_first = check_bool("windows", "batch_first", batch_first)
    if missing is not None and missing not in _MISSING:
        raise ValueError(f"windows: missing has value {brief(missing)}, expected None, 'drop' or 'previous'")
    given = as_table("windows", "series", series)
    wanted = given if target is None else as_table("windows", "target", target)
    T = len(given.values)
    if len(wanted.values) != T:
        raise shape_error("windows", "target", wanted.values, f"{T} rows, as series has")
    if length + horizon > T:
        what = f"series has {T} steps, expected at least length + horizon, {length + horizon}"
        raise ValueError(f"windows: {what}")
    inputs = _without_missing("series", given, missing)
    follows = inputs if wanted is given else _without_missing("target", wanted, missing)
    starts = np.arange(0, T - length - horizon + 1, stride)
    x = _cut(inputs, length)[: starts[-1] + 1 : stride]  # [N,length,F]
    ahead = _flat(follows, horizon)  # [T - horizon + 1, horizon*K]: what begins at each step
    y = (_cut(ahead[1:], length) if each_step else ahead[length:])[: starts[-1] + 1 : stride]
    if missing == "drop":
        # without each_step, what follows the steps of a window before its last is no target of it
        first = 1 if each_step else length
        keep = _clean(inputs, starts, 0, length) & _clean(follows, starts, first, length + horizon)
        if not keep.any():
            raise ValueError("windows: every window has a missing value, expected one without, or missing='previous'")
        if not keep.all():
            x, y = x[keep], y[keep]
    if batch_first:
        return x, y
    return x.swapaxes(0, 1), y.swapaxes(0, 1) if each_step else y


def split(series: Any, validation: float = 0.2, gap: int = 0) -> tuple[Any, Any]:
    """Cut a series in time: the first part to train on, the last one to check the model with.

    Cut the series before its windows are made: then no window of one part has a value of the other. Fit a `Scaler` on
    the first part only.

    Args:
        series: an array [T,...] or a frame, in the order of time.
        validation: the share of all steps that the last part has, 0 < validation < 1, default 0.2; or, as an integer,
            its number of steps.
        gap: steps between the two that neither has, default 0, such as the reach of features made of earlier steps.

    Returns: two views, or two frames of the kind given.
    Raises: ValueError where a part would have no step, TypeError for wrong types.

    >>> train, validation = split(np.arange(10), 0.3, gap=1)
    >>> train.tolist(), validation.tolist()
    ([0, 1, 2, 3, 4, 5], [7, 8, 9])
    """
    gap = check_size("split", "gap", gap, least=0)
    frame = is_frame(series)
    values: Any = narwhal("split", "series", series) if frame else as_array("split", "series", series)
    if not frame and not values.ndim:
        raise shape_error("split", "series", values, "(T, ...)")
    T = len(values)
    if isinstance(validation, (float, np.floating)):
        share = check_number("split", "validation", validation, 0.0, 1.0)
        steps = max(1, round(share * T)) if share else 0
    else:
        steps = check_size("split", "validation", validation)
    if steps < 1 or T - steps - gap < 1:
        has = f"series has {T} steps, of which validation takes {steps} and gap {gap}"
        raise ValueError(f"split: {has}, expected at least one step in each part")
    parts = values[: T - steps - gap], values[T - steps :]
    return tuple(native(part) for part in parts) if frame else parts


def _without_missing(name: str, series: Series, missing: str | None) -> Array:
    """The values, after missing ones are refused or filled; those to drop are still there."""
    if missing is None:
        expected = "none, or missing='drop' or 'previous'"
        refuse_missing("windows", name, series, expected)
    elif missing == "previous":
        return filled_forward("windows", name, series)
    return series.values


def _cut(rows: Array, length: int) -> Array:
    """[T - length + 1, length, F] of rows [T,F]: all windows, as a view."""
    return sliding_window_view(rows, length, axis=0).swapaxes(1, 2)


def _flat(rows: Array, horizon: int) -> Array:
    """[T - horizon + 1, horizon*K] of C-contiguous rows [T,K], as a view."""
    K = rows.shape[1]
    return sliding_window_view(rows.reshape(-1), horizon * K)[::K]


def _clean(values: Array, starts: Array, first: int, last: int) -> Array:
    """Whether the steps [first, last) after each start have no missing value."""
    before = np.concatenate([[0], np.cumsum(np.isnan(values).any(axis=1))])  # bad rows before each step
    clean: Array = before[starts + last] == before[starts + first]
    return clean
