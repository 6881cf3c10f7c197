# SPDX-License-Identifier: Apache-2.0
"""The options that change states and gradients between steps and layers: checked, and passed to the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bptt._arrays import brief, check_number, check_seed, check_size
from bptt._locks import ForkSafeLock


@dataclass
class StateOptions:
    """Dropout, zoneout, clipping and checkpoints of a network, checked; and the source of its masks."""

    dropout: float
    recurrent_dropout: float
    zoneout: tuple[float, float]
    clip_state: float
    clip_grad_per_step: float
    checkpoint: int | str | None
    seed: int
    calls: int = 0
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False, compare=False)

    @classmethod
    def check(
        cls,
        where: str,
        dtype: np.dtype[Any],
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        checkpoint: int | str | None = None,
        seed: int | None = None,
    ) -> StateOptions:
        """Return the options, or raise an error that names the first wrong one."""
        pair = zoneout if isinstance(zoneout, (tuple, list)) and len(zoneout) == 2 else (zoneout, zoneout)
        if isinstance(checkpoint, str):
            if checkpoint != "sqrt":
                raise ValueError(
                    f"{where}: checkpoint has value {brief(checkpoint)}, expected None, 'sqrt' or an integer"
                )
        elif checkpoint is not None:
            checkpoint = check_size(where, "checkpoint", checkpoint)
        return cls(
            check_number(where, "dropout", dropout, 0.0, 1.0),
            check_number(where, "recurrent_dropout", recurrent_dropout, 0.0, 1.0),
            (check_number(where, "zoneout", pair[0], 0.0, 1.0), check_number(where, "zoneout", pair[1], 0.0, 1.0)),
            _bound(where, "clip_state", clip_state, dtype),
            _bound(where, "clip_grad_per_step", clip_grad_per_step, dtype),
            checkpoint,
            check_seed(where, seed) & _MASK,
        )

    @property
    def plain(self) -> bool:
        """Whether a layer hands on its states and its outputs as they are, and computes nothing twice."""
        return (
            not (self.dropout or self.recurrent_dropout or any(self.zoneout))
            and math.isinf(self.clip_state)
            and math.isinf(self.clip_grad_per_step)
            and self.checkpoint is None
        )

    @property
    def random(self) -> bool:
        """Whether training draws masks."""
        return bool(self.dropout or self.recurrent_dropout or any(self.zoneout))

    def next_call(self) -> int:
        """A seed for the masks of one call of `forward`, from the layer's seed and the number of calls."""
        with self._lock.held:
            self.calls += 1
            return mixed(self.seed, self.calls)

    def segment(self, steps: int) -> int:
        """Steps between checkpoints, 0 without."""
        if self.checkpoint is None:
            return 0
        return max(1, math.isqrt(steps)) if isinstance(self.checkpoint, str) else self.checkpoint

    def arguments(self) -> dict[str, Any]:
        """The arguments of a layer that ask for these options, as JSON has them."""
        return {
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "zoneout": list(self.zoneout),
            "clip_state": None if math.isinf(self.clip_state) else self.clip_state,
            "clip_grad_per_step": None if math.isinf(self.clip_grad_per_step) else self.clip_grad_per_step,
            "checkpoint": self.checkpoint,
            "seed": self.seed,
        }

    def call_options(self, seed: int, steps: int) -> dict[str, Any]:
        """The keyword arguments of a native CallOptions."""
        return {
            "zoneout": self.zoneout,
            "dropout": self.recurrent_dropout,
            "clip": self.clip_state,
            "clip_gradient": self.clip_grad_per_step,
            "seed": seed,
            "segment": self.segment(steps),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return StateOptions, (
            self.dropout,
            self.recurrent_dropout,
            self.zoneout,
            self.clip_state,
            self.clip_grad_per_step,
            self.checkpoint,
            self.seed,
            self.calls,
        )

    def __str__(self) -> str:
        """The options that differ from the defaults, for `repr` of a layer."""
        zoneout = self.zoneout[0] if self.zoneout[0] == self.zoneout[1] else self.zoneout
        parts = [
            f", {name}={value!r}"
            for name, value in (
                ("dropout", self.dropout),
                ("recurrent_dropout", self.recurrent_dropout),
                ("zoneout", zoneout),
                ("checkpoint", self.checkpoint),
            )
            if value
        ]
        for name in ("clip_state", "clip_grad_per_step"):
            if not math.isinf(getattr(self, name)):
                parts.append(f", {name}={getattr(self, name)!r}")
        return "".join(parts)


_MASK = (1 << 64) - 1


def mixed(seed: int, number: int) -> int:
    """A 64-bit seed from another one and a number (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (seed + number * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _bound(where: str, name: str, value: float | None, dtype: np.dtype[Any]) -> float:
    """A bound on values of this dtype; infinity for None."""
    if value is None:
        return math.inf
    bound, least = check_number(where, name, value), float(np.finfo(dtype).tiny)
    if bound < least:  # the kernels would treat it as 0
        raise ValueError(f"{where}: {name} has value {bound:g}, expected a number >= {least:.3g} ({dtype}) or None")
    return bound
