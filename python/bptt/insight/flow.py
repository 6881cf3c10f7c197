# SPDX-License-Identifier: Apache-2.0
"""Gradient flow: the norm of the gradient of every state, and how fast it changes on its way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.insight.propagation import Propagation, propagation
from bptt.insight.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from bptt._arrays import Array, ArrayIn
    from bptt.insight.propagation import ByLag
    from bptt.insight.run import Steps
    from bptt.train.model_and_loss import Loss, Model

STARTS = 4  # steps t* of each row


@dataclass(frozen=True)
class GradientFlow:
    """What `gradient_flow` found.

    loss: its value.
    norms: of dL/dh_t and dL/dc_t over all rows and units, [T] each, by name: "0.h" is state h of layer 0,
        "0_l1_reverse.h" that of the second stacked layer's reverse direction.
    whole: the propagated part of all states together; layers: that of each kernel, by name, "0" or "0_l1_reverse".
    by_lag, decay, decay_interval, half_life: those of `whole`.
    """

    loss: float
    norms: dict[str, Array]
    whole: Propagation
    layers: dict[str, Propagation]

    @property
    def by_lag(self) -> ByLag:
        """The norm by lag, relative to that at lag 0, of all states together."""
        return self.whole.by_lag

    @property
    def decay(self) -> float:
        """The factor per step."""
        return self.whole.decay

    @property
    def decay_interval(self) -> tuple[float, float]:
        """Its 95 % confidence interval."""
        return self.whole.decay_interval

    @property
    def half_life(self) -> float:
        """Steps after which half of the gradient is left; infinite where it does not fade."""
        return self.whole.half_life

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {
            "loss": self.loss,
            "norms": {name: norm.tolist() for name, norm in self.norms.items()},
            "whole": self.whole.to_dict(),
            "layers": {name: each.to_dict() for name, each in self.layers.items()},
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """A picture: norms over time, and by lag. Returns matplotlib's Figure, written to `path` where it is given.

        Raises: ModuleNotFoundError without matplotlib, which the extra `plot` installs.
        """
        from bptt.insight.pictures import flow_picture

        return flow_picture(self, path)

    def __str__(self) -> str:
        low, high = self.decay_interval
        lines = [
            f"gradient flow over {len(next(iter(self.norms.values())))} steps, loss {self.loss:.4g}",
            f"  per step back: factor {self.decay:.4g} ({low:.4g} to {high:.4g}), half-life {self.half_life:.3g} steps",
        ]
        for name, norm in self.norms.items():
            lines.append(f"  |dL/d{name.rpartition('.')[2]}| of layer {name.rpartition('.')[0]}: "
                         f"{norm[0]:.3g} at the first step, {norm[-1]:.3g} at the last")  # fmt: skip
        return "\n".join(lines)


def gradient_flow(model: Model, x: ArrayIn, target: Any, loss: Loss, lengths: ArrayIn | None = None) -> GradientFlow:
    """How gradients travel back in time through a model: do they vanish, do they explode?

        norms      |dL/ds_t| for each state s and step t, from one backward pass
        by_lag     |dL_{t*}/ds_{t*-k}| / |dL_{t*}/ds_{t*}|: of the loss at one step t* alone, by the lag k

    The first shows what training uses; since every step's loss adds to it, it hides how fast a gradient fades. The
    second is the propagated part alone, for up to 4 steps t* of each row, from its last step with a gradient to its
    middle (around the middle for a bidirectional model, whose reverse direction goes the other way).

    Args:
        model: a `Sequential` or a recurrent layer. It stays as it is; dropout and zoneout act as in training.
        x, target, lengths: one batch, as of `fit`: [T,B,...] ([B,T,...] with batch_first).
        loss: function of (y, target), or (y, target, mask) where lengths are given, that returns (value, dy).

    Returns: `GradientFlow`, with `.norms`, `.by_lag`, `.decay`, `.half_life` and `.plot(path)`.
    Raises: TypeError and ValueError for arguments that do not fit; what the layers and the loss raise.
    Source: Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013.

    >>> import numpy as np, bptt
    >>> rnn = bptt.RNN(2, 8, nonlinearity="linear", seed=0)
    >>> rnn.params["weight_hh_l0"] = 0.9 * rnn.params["weight_hh_l0"]  # 0.9 times an orthogonal matrix
    >>> x = np.random.default_rng(0).standard_normal((50, 4, 2))
    >>> flow = gradient_flow(rnn, x, np.zeros((50, 4, 8)), bptt.losses.mse)
    >>> round(flow.decay, 4), round(flow.half_life, 2), round(flow.by_lag[10].median, 4)  # 0.9 ** 10
    (0.9, 6.58, 0.3487)
    >>> flow.norms["0.h"].shape
    (50,)
    """
    return flow_of(Run("gradient_flow", model, x, target, loss, lengths))


def flow_of(run: Run) -> GradientFlow:
    """The flow of a run."""
    whole = run.steps(run.dy)
    squares = _squares_by_lag(run)
    least = 1e6 * float(np.finfo(run.model.params.dtype).tiny)
    return GradientFlow(
        run.loss,
        norms_of(run, whole),
        propagation(np.sqrt(np.sum(list(squares.values()), axis=0)), least),
        {name: propagation(np.sqrt(each), least) for name, each in squares.items()},
    )


def norms_of(run: Run, steps: Steps) -> dict[str, Array]:
    """The norm of each state's gradient at each step, [T], by name."""
    norms: dict[str, Array] = {}
    for name, states in steps.items():
        for state, gradient in zip(_states(run, name), states, strict=True):
            norms[f"{name}.{state}"] = np.sqrt(_square(gradient).sum(axis=1))
    return norms


def _states(run: Run, name: str) -> tuple[str, ...]:
    number = int(name.partition("_")[0])
    states: tuple[str, ...] = run.layers[number]._stack.structure.info.states
    return states


def _square(gradient: Array) -> Array:
    """Sums over units, [T,B], of squares in float64."""
    squares: Array = np.einsum("tbh,tbh->tb", gradient, gradient, dtype=np.float64)
    return squares


def _squares_by_lag(run: Run) -> dict[str, Array]:
    """The squared norm at each lag, [starts,B,T], by kernel; NaN where there is none."""
    starts = _starts(run)
    found = {name: np.full((len(starts), run.B, run.T), np.nan) for name in run.names()}
    ends = np.full(run.B, run.T) if run.lengths is None else run.lengths
    for s, at in enumerate(starts):
        rows = np.flatnonzero(at >= 0)
        chosen = np.zeros((run.T, run.B), bool)
        chosen[at[rows], rows] = True
        steps = run.steps(run.dy if run.reduces_time else run.only_at(chosen))
        for name, states in steps.items():
            squares = np.sum([_square(state) for state in states], axis=0)
            for b in rows:
                t = at[b]
                line = squares[t : ends[b], b] if name.endswith("_reverse") else squares[t::-1, b]
                found[name][s, b, : len(line)] = line
    return found


def _starts(run: Run) -> Array:
    """Steps t* of each row, [starts,B], -1 where a row has no more."""
    if run.reduces_time:
        last = np.full(run.B, run.T) if run.lengths is None else run.lengths
        return last[np.newaxis] - 1
    gradient = run.in_time(run.dy)
    there = (gradient != 0).reshape(run.T, run.B, -1).any(axis=2)
    both = any(part.layer.bidirectional for part in run.parts)
    starts = np.full((STARTS, run.B), -1)
    for b in range(run.B):
        steps = np.flatnonzero(there[:, b])
        if len(steps):
            ends = (0.75, 0.25) if both else (1.0, 0.5)
            places = np.unique(np.round(np.linspace(*ends, STARTS) * (len(steps) - 1)).astype(int))[::-1]
            starts[: len(places), b] = steps[places]
    return starts
