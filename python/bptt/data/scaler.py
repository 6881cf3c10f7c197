# SPDX-License-Identifier: Apache-2.0
"""Features on a common scale: (x - offset) / scale for each of F features, from the part of the data to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_array, brief, shape_error
from bptt.data.series import Series, as_real, as_series, column_name, has_missing, refuse_missing

if TYPE_CHECKING:
    from bptt._arrays import Array

_KINDS = ("standard", "minmax")


class Scaler:
    """Scale each feature by what `fit` found in the data to train on.

        standard   (x - mean) / std, std of the population        minmax   (x - min) / (max - min)

    A feature with one value only has scale 1, so that it becomes 0.

    Args:
        kind: "standard" (default) or "minmax".
        missing: None (default) refuses missing values (NaN; null in a frame); "ignore" leaves them out in `fit` and
            leaves them as they are in `transform`.

    Attributes: offset and scale, [F] float64; columns, the names of a frame's columns, else None. None before `fit`.
    To store it with a model: `bptt.save(model, path, extra={"scaler": scaler.state()})` and
        `Scaler.from_state(bptt.load_extra(path)["scaler"])`.

    >>> scaler = Scaler().fit([[1.0, 10.0], [3.0, 10.0]])
    >>> scaler.transform([[2.0, 10.0], [5.0, 11.0]]).tolist()
    [[0.0, 0.0], [3.0, 1.0]]
    >>> scaler.inverse([[3.0, 1.0]]).tolist()
    [[5.0, 11.0]]
    """

    def __init__(self, kind: str = "standard", *, missing: str | None = None) -> None:
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"Scaler: kind has value {brief(kind)}, expected 'standard' or 'minmax'")
        if missing not in (None, "ignore"):
            raise ValueError(f"Scaler: missing has value {brief(missing)}, expected None or 'ignore'")
        self.kind, self.missing = kind, missing
        self.offset: Array | None = None
        self.scale: Array | None = None
        self.columns: tuple[str, ...] | None = None

    def fit(self, series: Any) -> Scaler:
        """Find offset and scale of each feature, and return the scaler.

        Args: series, [..., F], [T] (one feature) or a frame: only the part to train on, or the model has seen what it
            is checked with.
        Raises: ValueError for no values, missing ones (unless they are ignored), infinite ones and a feature without
            any value; TypeError for what is not numbers.
        """
        given = as_series("Scaler.fit", "series", series)
        if not given.values.ndim or not given.values.size:
            raise shape_error("Scaler.fit", "series", given.values, "at least one value of each feature")
        self._refuse_missing("Scaler.fit", given)
        F = given.values.shape[-1] if given.values.ndim > 1 else 1
        rows = given.values.reshape(-1, F).astype(np.float64)
        there = ~np.isnan(rows)
        count = there.sum(axis=0)
        if not count.all():
            column = brief(column_name(given.columns, int(np.argmin(count))))
            raise ValueError(f"Scaler.fit: series has no value in column {column}, expected at least one")
        low = np.where(there, rows, np.inf).min(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            spread = np.where(there, rows, -np.inf).max(axis=0) - low
        if not np.isfinite(spread).all():
            column = brief(column_name(given.columns, int(np.argmin(np.isfinite(spread)))))
            raise ValueError(f"Scaler.fit: series has values beyond float64 in column {column}, expected finite ones")
        self.offset, self.scale, self.columns = low, np.where(spread > 0, spread, 1.0), given.columns
        if self.kind == "standard":
            self._standardise(rows, there, count)
        return self

    def _standardise(self, rows: Array, there: Array, count: Array) -> None:
        """From minimum and range to mean and standard deviation. In units of the range, no square is out of range."""
        assert self.offset is not None
        assert self.scale is not None
        unit = np.where(there, (rows - self.offset) / self.scale, 0.0)
        mean = unit.sum(axis=0) / count
        deviation = np.sqrt((np.where(there, unit - mean, 0.0) ** 2).sum(axis=0) / count)
        scale = self.scale * deviation
        self.offset = self.offset + self.scale * mean
        self.scale = np.where(scale > 0, scale, 1.0)

    def transform(self, series: Any) -> Array:
        """Return (x - offset) / scale, an array of the shape given.

        Args: series, [..., F] (of one feature also [T]), or a frame with the columns of `fit`. float32 stays, else
            float64.
        Raises: as `fit`; RuntimeError before `fit`.
        """
        offset, scale = self._fitted("Scaler.transform")
        given = as_series("Scaler.transform", "series", series)
        if self.columns is not None and given.columns is not None and given.columns != self.columns:
            has = f"series has columns {brief(list(given.columns))}"
            raise ValueError(f"Scaler.transform: {has}, expected {brief(list(self.columns))}, as fit had")
        self._refuse_missing("Scaler.transform", given)
        values, F = given.values, len(offset)
        if (values.ndim < 2 and F > 1) or not values.ndim or (values.ndim > 1 and values.shape[-1] != F):
            expected = f"(..., {F})" if F > 1 else "(T,) or (..., 1)"
            raise shape_error("Scaler.transform", "series", values, expected)
        return ((values - offset) / scale).astype(values.dtype, copy=False)

    def inverse(self, values: Any) -> Array:
        """Return x * scale + offset, an array of the shape given: predictions in the units of the data.

        Args: values, [..., m*F] for any m: m steps of F features each, as the targets of `windows`. float32 stays, else
            float64. Missing values stay.
        Raises: ValueError for another shape, TypeError for what is not numbers; RuntimeError before `fit`.
        """
        offset, scale = self._fitted("Scaler.inverse")
        array = as_real("Scaler.inverse", "values", as_array("Scaler.inverse", "values", values))
        F = len(offset)
        if F > 1 and (not array.ndim or array.shape[-1] % F):
            raise shape_error("Scaler.inverse", "values", array, f"(..., m * {F})")
        wide = array.reshape(*array.shape[:-1], -1, F) if F > 1 and array.size else array
        result = (wide * scale + offset) if array.size else wide
        return result.astype(array.dtype, copy=False).reshape(array.shape)

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs, for `extra` of `bptt.save`. RuntimeError before `fit`."""
        offset, scale = self._fitted("Scaler.state")
        columns = None if self.columns is None else list(self.columns)
        rest = {"offset": offset.copy(), "scale": scale.copy()}
        return {"kind": self.kind, "missing": self.missing, "columns": columns, **rest}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Scaler:
        """Return the scaler whose `state()` this is. ValueError or TypeError for anything else."""
        names = ("kind", "missing", "columns", "offset", "scale")
        if not isinstance(state, Mapping) or {*state} != {*names}:
            has = f"state has {brief([*state])}" if isinstance(state, Mapping) else f"state has {type(state).__name__}"
            raise ValueError(f"Scaler.from_state: {has}, expected {', '.join(names)}, as state() gives them")
        scaler = cls(state["kind"], missing=state["missing"])
        arrays = [
            as_real("Scaler.from_state", name, as_array("Scaler.from_state", name, state[name])) for name in names[3:]
        ]
        columns = None if state["columns"] is None else tuple(state["columns"])
        offset, scale = (array.astype(np.float64) for array in arrays)
        fits = offset.ndim == 1 and offset.shape == scale.shape and (columns is None or len(columns) == len(offset))
        if not fits or not offset.size or not np.isfinite([offset, scale]).all() or not (scale > 0).all():
            raise ValueError("Scaler.from_state: state has values that do not fit, expected those of state()")
        scaler.offset, scaler.scale, scaler.columns = offset, scale, columns
        return scaler

    def _fitted(self, where: str) -> tuple[Array, Array]:
        if self.offset is None or self.scale is None:
            raise RuntimeError(f"{where}: the scaler has no offset and scale yet, expected fit(series) first")
        return self.offset, self.scale

    def _refuse_missing(self, where: str, given: Series) -> None:
        if self.missing is None and has_missing(given.values):
            refuse_missing(where, "series", given, "none, or Scaler(missing='ignore')")

    def __repr__(self) -> str:
        missing = "" if self.missing is None else f", missing={self.missing!r}"
        fitted = "not fitted" if self.offset is None else f"features={len(self.offset)}"
        return f"Scaler({self.kind!r}{missing}; {fitted})"
