# SPDX-License-Identifier: Apache-2.0
"""The picture of a `History`: losses, metrics of validations, gradient norm and learning rate over the updates.

history.py imports this module, so that the history is Any here.
"""

from __future__ import annotations

import math
import os
from typing import Any

from bptt._arrays import cut
from bptt._pictures import COLOURS, clean, figure, legend, written

__all__ = ["draw"]

_OURS, _VALIDATION, _LIMIT = COLOURS[0], COLOURS[1], COLOURS[5]
_METRICS = 3  # panels of metrics at most
_SMOOTHING_SHARE = 0.05  # of all updates, in the running mean


def draw(history: Any, path: str | os.PathLike[str] | None) -> Any:
    """The picture, as `History.plot` describes it."""
    if not len(history):
        raise ValueError("History.plot: history has no updates, expected at least one")
    metrics = list(history.validation[-1].metrics) if history.validation else []
    heights = [2.2, *[1.0 for _ in metrics[:_METRICS]], 1.0, 0.8]
    page = figure("History.plot", 8, 3.5 + sum(heights))
    loss, *others, norm, rate = page.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    steps = [number + 1 for number in history.step]
    _draw_loss(loss, history, steps)
    for axes, name in zip(others, metrics, strict=False):
        _draw_metric(axes, history, name)
    _draw_norm(norm, history, steps)
    rate.plot(steps, history.lr, color=_OURS)
    _label(rate, "learning rate", history.lr)
    if rate.get_yscale() == "linear":
        rate.set_ylim(bottom=0)
    rate.set_xlabel("updates")
    for axes in (loss, *others, norm, rate):
        axes.grid(alpha=0.25)
        clean(axes)
    return written("History.plot", page, path)


def _draw_loss(axes: Any, history: Any, steps: list[int]) -> None:
    values = history.loss
    smooth = len(values) >= 40
    axes.plot(steps, values, color=_OURS, alpha=0.25 if smooth else 1.0, label=None if smooth else "training")
    if smooth:
        axes.plot(steps, _smoothed(values), color=_OURS, label="training (running mean)")
    validations = [(each.step, each.loss) for each in history.validation if math.isfinite(each.loss)]
    if validations:
        step, best = min(validations, key=lambda each: each[1])
        label = f"validation (best {best:.4g} after {step})"
        axes.plot(*zip(*validations, strict=True), "o-", color=_VALIDATION, markersize=3, label=label)
        axes.plot(step, best, "o", color=_VALIDATION, markersize=10, fillstyle="none")
    _label(axes, "loss", [*values, *(loss for _, loss in validations)])
    axes.margins(y=0.12)
    title = repr(history)[len("History(") : -1].replace(", stopped: ", "\nstopped: ")
    axes.set_title("\n".join(cut(line, 100) for line in title.splitlines()), fontsize=10, loc="left")
    legend(axes)


def _draw_metric(axes: Any, history: Any, name: str) -> None:
    """A metric of the validations, on an axis that is never logarithmic: it may be a share."""
    values = [(each.step, each.metrics.get(name, math.nan)) for each in history.validation]
    axes.plot(*zip(*values, strict=True), "o-", color=_VALIDATION, markersize=3, label=f"last {values[-1][1]:.4g}")
    axes.set_ylabel(cut(f"validation {name}", 24))
    legend(axes)


def _draw_norm(axes: Any, history: Any, steps: list[int]) -> None:
    clipped = any(history.clipped)
    if clipped:
        axes.plot(
            steps, history.clipped_norm, color=_LIMIT, label=f"after clipping ({history.clip_rate:.0%} of updates)"
        )
    axes.plot(steps, history.grad_norm, color=_OURS, label="before clipping")
    if clipped:
        legend(axes)
    _label(axes, "gradient norm", history.grad_norm)


def _label(axes: Any, name: str, values: list[float]) -> None:
    """Name the axis; make it logarithmic where the values span more than a factor of 20."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log")
    axes.set_ylabel(name)


def _smoothed(values: list[float]) -> list[float]:
    """The mean of each value and its neighbours, as many on both sides; fewer near the ends."""
    half = max(1, round(len(values) * _SMOOTHING_SHARE / 2))
    means = []
    for k in range(len(values)):
        reach = min(half, k, len(values) - 1 - k)
        means.append(math.fsum(values[k - reach : k + reach + 1]) / (2 * reach + 1))
    return means
