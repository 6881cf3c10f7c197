# SPDX-License-Identifier: Apache-2.0
"""Where the gradient of the weights comes from: the share of each time step, and what truncation would lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.insight.kernel import Kernel, Trajectory
    from bptt.insight.run import Run

MOST_SPANS = 100  # longer sequences are divided into at most so many spans of equal length
GOOD = 0.99  # the cosine that is asked for
WIDEST = 64  # the smallest k tried is T / WIDEST
EXACT = 0.1  # of k: how near the bisection comes to the smallest


@dataclass(frozen=True)
class Truncation:
    """The cosine between the gradient with `fit(tbptt=k)` and the full one, by k; of all weights that depend on k.

    enough: the smallest k, but for a tenth of it, whose cosine is at least 0.99, found by doubling k and bisection.
        None where the full gradient is zero or not finite.
    """

    cosines: dict[int, float]
    enough: int | None

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {"cosines": {str(k): value for k, value in self.cosines.items()}, "enough": self.enough}


def shares(kernel: Kernel, path: Trajectory, dsteps: tuple[Array, ...], inside: Array) -> Array:
    """The share of each time step in the gradient of a kernel's weights, [T]: <dW_t, dW> / |dW|^2, which sum to 1.

    dsteps: the gradient of each state as it leaves each step; inside [T,B]: the steps within their row. Of more than
    100 steps, neighbours share what their span has. NaN where dW is zero.
    """
    T = len(path.x)
    length = -(-T // MOST_SPANS)
    spans = [np.arange(t, min(t + length, T)) for t in range(0, T, length)]
    total = np.zeros(0)
    for _ in range(2):  # the sum first, then its product with each part: all parts at once would need too much memory
        found = []
        sum_: Any = 0.0
        for span in spans:
            rows = inside[span]
            part = kernel.step_gradient(
                np.ascontiguousarray(path.x[span][rows]),
                tuple(np.ascontiguousarray(state[span][rows]) for state in path.before),
                tuple(np.ascontiguousarray(d[span][rows], np.float64) for d in dsteps),
            )
            if total.size:
                found.append(float(part @ total))
            else:
                sum_ = sum_ + part
        total = total if total.size else sum_
    square = float(total @ total)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.array(found) / square
    return np.concatenate([np.full(len(span), value / len(span)) for span, value in zip(spans, values, strict=True)])


def truncation(run: Run) -> Truncation:
    """The cosines of a run's gradient; see `why_no_truncation` for the runs that have none."""
    x, cosines = run.shown.taken(run.x), {}
    full = _truncated(run, x, run.T)
    size = float(np.linalg.norm(full))

    def cosine(k: int) -> float:
        if k not in cosines:
            part = full if k == run.T else _truncated(run, x, k)
            lengths = size * float(np.linalg.norm(part))
            cosines[k] = float(full @ part) / lengths if lengths > 0 else float("nan")
        return cosines[k]

    if not 0 < size < np.inf:
        return Truncation({run.T: float("nan")}, None)
    enough = max(1, run.T // WIDEST)
    below = 0 if enough == 1 else enough - 1
    while not cosine(enough) >= GOOD and enough < run.T:  # NaN is not enough either
        below, enough = enough, min(2 * enough, run.T)
    while enough - below > max(1, enough * EXACT):
        middle = (below + enough) // 2
        if cosine(middle) >= GOOD:
            enough = middle
        else:
            below = middle
    cosine(run.T)
    return Truncation(dict(sorted(cosines.items())), enough)


def why_no_truncation(run: Run) -> str:
    """Why a run has no truncated gradient to compare with, or an empty text."""
    if any(part.layer.bidirectional for part in run.parts):
        return "a bidirectional layer needs the whole sequence"
    if run.random:
        return "random masks would differ from pass to pass"
    if run.reduces_time:
        return "a model with one output for each row (Last) has no loss in each chunk"
    return ""


def _truncated(run: Run, x: Array, k: int) -> Array:
    """The gradient of the weights that the recurrence reaches, from chunks of k steps; x [T,B,...]."""
    names = [name for name in run.grads if "." not in name or int(name.partition(".")[0]) <= run.parts[-1].number]
    end = run.grads.span(names[0], names[-1])[1]
    total = np.zeros(end)
    state: Any = None
    for start in range(0, run.T, k):
        stop = min(start + k, run.T)
        piece, size = run.shown.given(x[start:stop]), stop - start
        lengths = None if run.lengths is None else np.clip(run.lengths - start, 0, size)
        _, after, tape = run.model.forward(piece, state, lengths)
        state = after
        dy = run.shown.given(run.in_time(run.dy)[start:stop])
        run.model.backward(tape, dy, grads=run.grads)
        total += run.grads.flat[:end]
    return total
