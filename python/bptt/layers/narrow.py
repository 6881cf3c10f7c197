# SPDX-License-Identifier: Apache-2.0
"""Parameters of which the weights are stored in fewer bits, for inference.

    int8      weight_ih and weight_hh [rows,K] become integers from -127 to 127 [rows,K] and a scale for each row, named
              weight_ih_l0_scale [rows]; weight = integer * scale, and scale is the row's largest magnitude / 127,
              rounded up to 17 bits, so that these products are exact
    bfloat16  they become the bits of bfloat16 [rows,K], as uint16

All other parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import brief
from bptt._dispatch import core
from bptt.params import Params

if TYPE_CHECKING:
    from bptt._arrays import Array

FORMATS = ("int8", "bfloat16")
_SCALE = "_scale"  # the end of a name


def check_format(where: str, weights: object) -> str:
    """One of FORMATS; TypeError or ValueError for anything else."""
    if not isinstance(weights, str):
        raise TypeError(f"{where}: weights has type {type(weights).__name__}, expected 'int8' or 'bfloat16'")
    if weights not in FORMATS:
        raise ValueError(f"{where}: weights has value {brief(weights)}, expected 'int8' or 'bfloat16'")
    return weights


class NarrowParams(Mapping[str, "np.ndarray[Any, Any]"]):
    """Mapping from names to read-only arrays: int8 or uint16 weights, scales, and float32 for all others.

    Args: params of a float32 layer; weights, one of FORMATS.
    """

    joined = False  # as of Params: in no buffer of others
    version = 0  # they never change

    def __init__(self, params: Params, weights: str) -> None:
        self.weights = weights
        self._shapes = params.shapes
        self._arrays: dict[str, Any] = {}
        for name, array in params.items():
            self._arrays |= _stored(name, np.array(array, subok=False), weights)
        self._protect()
        # Read by every call of a layer that learns its initial state; else only once, when the kernels take them.
        self._kept = self._floats() if any(name.startswith("initial_") for name in self._shapes) else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._protect()  # copies and pickles of arrays can be written to

    def _protect(self) -> None:
        for array in self._arrays.values():
            array.flags.writeable = False

    @property
    def plain(self) -> Array:
        """All parameters as float32 [n], in the layout of the layer they were made of."""
        return self._floats() if self._kept is None else self._kept

    def _floats(self) -> Array:
        params = Params(self._shapes)
        with params.edit() as p:
            for name, array in floats_of(self._arrays, self.weights).items():
                p[name] = array
        return params.plain

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.items())
        return f"NarrowParams({sizes})"


def floats_of(arrays: Mapping[str, Any], weights: str) -> dict[str, Array]:
    """The parameters in float32 that stored arrays stand for.

    Raises: ValueError for arrays that are not those of a NarrowParams.
    """
    found = {}
    for name, array in arrays.items():
        if not name.startswith("weight_ih") and not name.startswith("weight_hh"):
            found[name] = array
        elif not name.endswith(_SCALE):
            found[name] = _widened(name, array, arrays.get(name + _SCALE), weights)
        elif name.removesuffix(_SCALE) not in arrays:
            raise ValueError(f"array {brief(name)} has no weight")
    return found


def _stored(name: str, array: Array, weights: str) -> dict[str, Any]:
    """What is stored of one parameter."""
    if not name.startswith(("weight_ih", "weight_hh")):
        return {name: array}
    if weights == "bfloat16":
        return {name: core.to_bfloat16(array)}
    values, scales = core.to_int8(array)
    return {name: values, name + _SCALE: scales}


def _widened(name: str, array: Any, scales: Any, weights: str) -> Array:
    dtype = np.dtype(np.int8 if weights == "int8" else np.uint16)
    if array.dtype != dtype or array.ndim != 2:
        raise ValueError(
            f"array {name} has dtype {array.dtype} and shape {array.shape}, expected {dtype} and (rows, K)"
        )
    if weights == "bfloat16":
        wide: Array = (array.astype(np.uint32) << 16).view(np.float32)
        return wide
    if scales is None or scales.dtype != np.float32 or scales.shape != array.shape[:1]:
        raise ValueError(f"array {name} has no scales, expected float32 [{len(array)}]")
    floats: Array = array * scales[:, np.newaxis]
    return floats
