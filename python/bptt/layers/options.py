# SPDX-License-Identifier: Apache-2.0
"""What every recurrent layer can be asked for beside its sizes: described, checked, handed to the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import brief, check_number, check_seed, check_size
from bptt._locks import ForkSafeLock
from bptt.init import fresh_seed

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init


class LayerOptions(NamedTuple):
    """The arguments that all recurrent layers share, as they were given and in the order of the layers' signatures.

    What follows is part of each layer's docstring (`signature.described`):

    num_layers: L, stacked, default 1.
    batch_first: whether x and y are [B,T,.], default False.
    dropout: p, of what one layer hands to the next, in training, default 0 (Zaremba et al. 2014).
    bidirectional: whether there is a second direction (D = 2) that reads x from its end, default False.
    dtype: float32 (default) or float64.
    seed: integer >= 0, or None (default) for fresh weights and masks each time. Layers of the same shape need different
        seeds. Masks are a function of the seed and the number of calls of `forward`, not of threads or of the length of
        the batch.
    recurrent_dropout: p. In training the products of each step see h0 d, d ~ Bernoulli(1-p) / (1-p), drawn once for
        each sequence, layer, direction and unit (Gal & Ghahramani 2016). Default 0.
    zoneout: p, or (p_h, p_c). In training each unit keeps its old state with probability p, at inference s1 becomes
        p s0 + (1-p) s1, its expectation (Krueger et al. 2017). p_c is that of all states but h, which a unit keeps
        together. Default 0.
    clip_state: v, or None (default). States are clamped to [-v, v] as they leave a step, forward; beyond, their
        gradient is 0.
    clip_grad_per_step: v, or None (default). The gradients of the pre-activations are clamped to [-v, v] at each step,
        before they go on to x, the weights and the step before (Graves 2013).
    checkpoint: None (default), "sqrt" or a number of steps k: the tape keeps one state every k (or sqrt(T)) steps and
        `backward` computes the steps between again; the gradients are the same bits (Chen et al. 2016).
    learn_initial_state: whether the state at the start and after a reset is a parameter instead of zeros, default
        False: `initial_h_l0` [H] for each layer and direction, of an LSTM also `initial_c_l0`,
        of an SLSTM these, `initial_n_l0` (ones at first) and `initial_m_l0`.
    """

    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
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
class StateOptions:
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
    def check(cls, where: str, given: LayerOptions, dtype: np.dtype[Any]) -> StateOptions:
        """Return the options, or raise what names the first wrong one."""
        zoneout, checkpoint = given.zoneout, given.checkpoint
        pair = zoneout if isinstance(zoneout, tuple) and len(zoneout) == 2 else (zoneout, zoneout)
        if isinstance(checkpoint, str):
            if checkpoint != "sqrt":
                raise ValueError(
                    f"{where}: checkpoint has value {brief(checkpoint)}, expected None, 'sqrt' or an integer"
                )
        elif checkpoint is not None:
            checkpoint = check_size(where, "checkpoint", checkpoint)
        return cls(
            check_number(where, "dropout", given.dropout, 0.0, 1.0),
            check_number(where, "recurrent_dropout", given.recurrent_dropout, 0.0, 1.0),
            (check_number(where, "zoneout", pair[0], 0.0, 1.0), check_number(where, "zoneout", pair[1], 0.0, 1.0)),
            _bound(where, "clip_state", given.clip_state, dtype),
            _bound(where, "clip_grad_per_step", given.clip_grad_per_step, dtype),
            checkpoint,
            (fresh_seed() if given.seed is None else check_seed(where, given.seed)) & _MASK,
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


def _bound(where: str, name: str, value: float | None, dtype: np.dtype[Any]) -> float:
    """A bound on values of this dtype; infinity for None."""
    if value is None:
        return math.inf
    bound, least = check_number(where, name, value), float(np.finfo(dtype).tiny)
    if bound < least:  # the kernels would take it for 0
        raise ValueError(f"{where}: {name} has value {bound:g}, expected a number >= {least:.3g} ({dtype}) or None")
    return bound
