# SPDX-License-Identifier: Apache-2.0
"""What the units and matrices of one kernel look like: spectra, time constants, saturated gates, dead units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.insight.kernel import Kernel, Trajectory

MOST_UNITS = 1024  # beyond it, the spectral radius would take minutes
LOW, HIGH = 0.1, 0.9  # a sigmoid gate outside is saturated; a tanh beyond -0.9 and 0.9
STILL = 1e-6  # a unit whose h stays within this, relative to the largest |h| of the layer, never moves
# The gates of a cell by their range. An sLSTM's exponential gates have none.
_SIGMOID = {"lstm": "ifo", "gru": "rz", "slstm": "o"}
_TANH = {"lstm": "g", "gru": "n", "slstm": "z"}


@dataclass(frozen=True)
class Matrix:
    """A recurrent matrix [H,H]: of a gate, the largest of its heads, times weight_hr where h is projected.

    radius: the largest modulus of an eigenvalue, NaN for more than 1024 units; norm: the largest singular value.
    """

    radius: float
    norm: float


@dataclass(frozen=True)
class Units:
    """The units of one kernel over a batch.

    matrices: by gate. time_constants: [H], -1 / mean(ln f) in steps, of the forget gate of an LSTM or of z of a GRU;
    None for other cells. saturation: by gate, the shares of values at its low and at its high end. dead: the units that
    never move (of a ReLU: are never active).
    """

    matrices: dict[str, Matrix]
    time_constants: Array | None
    saturation: dict[str, tuple[float, float]]
    dead: Array

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {
            "matrices": {gate: {"radius": each.radius, "norm": each.norm} for gate, each in self.matrices.items()},
            "time_constants": None if self.time_constants is None else self.time_constants.tolist(),
            "saturation": {gate: list(shares) for gate, shares in self.saturation.items()},
            "dead": self.dead.tolist(),
        }


def units_of(kernel: Kernel, path: Trajectory, inside: Array) -> Units:
    """The units of a kernel; inside [T,B]: the steps that are within their row."""
    return Units(
        matrices_of(kernel), _time_constants(kernel, path, inside), saturation_of(kernel, path, inside),
        _dead(kernel, path, inside),
    )  # fmt: skip


def matrices_of(kernel: Kernel) -> dict[str, Matrix]:
    """The recurrent matrix of each gate."""
    one = kernel.structure
    H, N = one.hidden_size, one.num_heads
    blocks = kernel.weight("weight_hh").reshape(len(one.info.gates), N, H // N, -1)
    if one.proj_size:
        blocks = blocks @ kernel.weight("weight_hr")
    found = {}
    for gate, heads in zip(one.info.gates, blocks, strict=True):
        if not np.isfinite(heads).all():
            found[gate] = Matrix(float("nan"), float("nan"))
            continue
        radius = float(np.abs(np.linalg.eigvals(heads)).max()) if H // N <= MOST_UNITS else float("nan")
        found[gate] = Matrix(radius, float(np.linalg.norm(heads, 2, axis=(1, 2)).max()))
    return found


def _family(kernel: Kernel) -> str:
    return kernel.structure.cell.partition("_")[0]


def _time_constants(kernel: Kernel, path: Trajectory, inside: Array) -> Array | None:
    gate = {"lstm": "f", "gru": "z"}.get(_family(kernel))
    if gate is None:
        return None
    with np.errstate(divide="ignore"):
        constants: Array = 1 / np.abs(np.log(path.gates[gate][inside]).mean(axis=0))
    return constants


def saturation_of(kernel: Kernel, path: Trajectory, inside: Array) -> dict[str, tuple[float, float]]:
    """The shares of values at the low and at the high end of each gate's range, and of h of a tanh RNN."""
    family = _family(kernel)
    found = {}
    for gate, values in path.gates.items():
        if gate in _SIGMOID.get(family, "") or gate in _TANH.get(family, ""):
            low = LOW if gate in _SIGMOID[family] else -HIGH
            found[gate] = _shares(values[inside], low)
    if kernel.structure.cell == "rnn_tanh":
        found["h"] = _shares(path.after[0][inside], -HIGH)
    return found


def _shares(values: Array, low: float) -> tuple[float, float]:
    return float((values < low).mean()), float((values > HIGH).mean())


def _dead(kernel: Kernel, path: Trajectory, inside: Array) -> Array:
    h = path.after[0][inside]
    if kernel.structure.cell == "rnn_relu":
        return np.flatnonzero((h == 0).all(axis=0))
    if len(h) < 2:
        return np.zeros(0, int)
    return np.flatnonzero(np.ptp(h, axis=0) <= STILL * np.abs(h).max())
