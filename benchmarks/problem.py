# SPDX-License-Identifier: Apache-2.0
"""The data of one case: inputs, gradients and weights, the same for every library. Nothing is run here.

x [T,B,I], dy [T,B,H], weights by our names: weight_ih_l0 [G*H,I], weight_hh_l0 [G*H,H], bias_l0 [G*H], and for a GRU
bias_hn_l0 [H]; gates in PyTorch's order. A step case has also head_weight [1,H], head_bias [1] and target [T,B,1].
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case

Array = NDArray[Any]

LEARNING_RATE = 1e-3
CLIP_NORM = 1.0


class Problem:
    """Arrays drawn from a generator that is seeded by cell and sizes: the same in every process, mode and dtype."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._random = np.random.Generator(np.random.Philox(zlib.crc32(f"{case.cell}-{case.shape}".encode())))
        self._dtype = np.dtype(case.dtype)
        T, B, I, H, rows = case.T, case.B, case.I, case.H, case.gates * case.H  # noqa: E741
        self.x, self.dy = self._normal(T, B, I), self._normal(T, B, H)
        bound = H**-0.5  # PyTorch's default initialisation
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih_l0": (rows, I),
            "weight_hh_l0": (rows, H),
            "bias_l0": (rows,),
        }
        if case.cell == "gru":
            shapes["bias_hn_l0"] = (H,)
        self.weights = {name: self._uniform(bound, *shape) for name, shape in shapes.items()}
        self.head_weight, self.head_bias = self._uniform(bound, 1, H), self._uniform(bound, 1)
        self.target = self._normal(T, B, 1)

    def _normal(self, *shape: int) -> Array:
        return self._random.standard_normal(shape).astype(self._dtype)

    def _uniform(self, bound: float, *shape: int) -> Array:
        return self._random.uniform(-bound, bound, shape).astype(self._dtype)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return ("h", "c") if self.case.cell == "lstm" else ("h",)
