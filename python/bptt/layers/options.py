# SPDX-License-Identifier: Apache-2.0
"""What every recurrent layer can be asked for beside its sizes: checked here, handed to the kernels as a Setup."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from bptt._arrays import check_number, check_size
from bptt._locks import ForkSafeLock
from bptt.init import fresh_seed

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init


class LayerOptions(TypedDict, total=False):
    """The keyword arguments that all recurrent layers share; see `Recurrent`."""

    dtype: DTypeLike
    init: Init
    seed: int | None
    recurrent_dropout: float
    zoneout: float | tuple[float, float]
    clip_state: float | None
    clip_grad_per_step: float | None
    checkpoint: int | str | None
    learn_initial_state: bool


@dataclass
class Between:
    """Dropout, zoneout, clipping and checkpoints of a layer, checked; and the source of its masks."""

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
        seed: int | None,
        *,
        dropout: float,
        recurrent_dropout: float,
        zoneout: float | tuple[float, float],
        clip_state: float | None,
        clip_grad_per_step: float | None,
        checkpoint: int | str | None,
    ) -> Between:
        """Return the options, or raise what names the first wrong one."""
        pair = zoneout if isinstance(zoneout, tuple) and len(zoneout) == 2 else (zoneout, zoneout)
        if checkpoint not in (None, "sqrt"):
            if isinstance(checkpoint, str):
                raise ValueError(f"{where}: checkpoint has value {checkpoint!r}, expected None, 'sqrt' or an integer")
            checkpoint = check_size(where, "checkpoint", checkpoint)
        return cls(
            check_number(where, "dropout", dropout, 0.0, 1.0),
            check_number(where, "recurrent_dropout", recurrent_dropout, 0.0, 1.0),
            (check_number(where, "zoneout", pair[0], 0.0, 1.0), check_number(where, "zoneout", pair[1], 0.0, 1.0)),
            _bound(where, "clip_state", clip_state),
            _bound(where, "clip_grad_per_step", clip_grad_per_step),
            checkpoint,
            (fresh_seed() if seed is None else check_size(where, "seed", seed, least=0)) & _MASK,
        )

    @property
    def plain(self) -> bool:
        """Whether one layer hands its states on as they are, and computes nothing twice."""
        return (
            not (self.recurrent_dropout or any(self.zoneout))
            and math.isinf(self.clip_state)
            and math.isinf(self.clip_grad_per_step)
            and self.checkpoint is None
        )

    @property
    def random(self) -> bool:
        """Whether training draws masks."""
        return bool(self.dropout or self.recurrent_dropout or any(self.zoneout))

    def next_call(self) -> int:
        """A seed for the masks of one call of `forward`: the layer's seed, and how many calls there were."""
        with self._lock.held:
            self.calls += 1
            return mixed(self.seed, self.calls)

    def segment(self, steps: int) -> int:
        """Steps between checkpoints, 0 without."""
        if self.checkpoint is None:
            return 0
        return max(1, math.isqrt(steps)) if isinstance(self.checkpoint, str) else self.checkpoint

    def setup(self, seed: int, steps: int) -> dict[str, Any]:
        """The keyword arguments of a native Setup."""
        return {
            "zoneout": self.zoneout,
            "dropout": self.recurrent_dropout,
            "clip": self.clip_state,
            "clip_gradient": self.clip_grad_per_step,
            "seed": seed,
            "segment": self.segment(steps),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Between, (
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
        """What differs from the defaults, for `repr` of a layer."""
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


def _bound(where: str, name: str, value: float | None) -> float:
    if value is None:
        return math.inf
    bound = check_number(where, name, value)
    if bound <= 0:
        raise ValueError(f"{where}: {name} has value {value}, expected a number > 0 or None")
    return bound
