# SPDX-License-Identifier: Apache-2.0
"""The checks of a state that an optimizer is to take over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bptt._arrays import as_array, brief, first_of
from bptt.params import Params, check_like


def check_names(where: str, what: str, given: Any, expected: Collection[str]) -> None:
    """Raise unless `given` is a mapping with exactly these names, in any order."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: {what} has type {type(given).__name__}, expected a dict, as state_dict returns it")
    wanted = first_of([*expected], 80) if expected else "none"
    for name in expected:
        if name not in given:
            raise ValueError(f"{where}: {what} has no {brief(name)}, expected {wanted}")
    for name in given:
        if name not in expected:
            raise ValueError(f"{where}: {what} has {brief(name)}, expected {wanted}")


def moments_from(where: str, given: Mapping[str, Any], before: list[Params]) -> dict[str, Params]:
    """Moments from their arrays, which must be like each other and like the moments of before, in any order."""
    moments: dict[str, Params] = {}
    for name, arrays in given.items():
        moment = _moment(where, name, arrays)
        for other in [*before, *moments.values()][:1]:
            if moment.dtype != other.dtype or moment.shapes != other.shapes:
                check_names(where, name, moment, other)
                check_like(where, name, _sorted(moment), _sorted(other), "as in the steps so far and other moments")
            moment = reordered(moment, other)
        moments[name] = moment
    return moments


def reordered(moment: Params, params: Params) -> Params:
    """The same arrays in the order of `params`."""
    if moment.like(params):
        return moment
    new = params.zeros_like()
    for name, array in moment.items():
        new[name][...] = array
    return new


def _sorted(params: Params) -> Params:
    """Parameters of the same shapes in the order of their names."""
    return Params(dict(sorted(params.shapes.items())), params.dtype)


def _moment(where: str, name: str, given: Any) -> Params:
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: {name} has type {type(given).__name__}, expected {{parameter: array}}")
    arrays = {key: as_array(where, f"{name} of {key}", value) for key, value in given.items()}
    dtypes = {array.dtype for array in arrays.values()}
    if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        found = first_of(sorted(map(str, dtypes)))
        raise TypeError(f"{where}: {name} has dtypes {found}, expected float32 or float64 in all arrays")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: {name} of {key} has values that are not finite, expected finite ones")
    moment = Params({key: array.shape for key, array in arrays.items()}, *dtypes, writable=True)
    for key, array in arrays.items():
        moment[key][...] = array
    return moment
