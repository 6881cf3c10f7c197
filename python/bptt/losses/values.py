# SPDX-License-Identifier: Apache-2.0
"""Losses of numbers: of a point prediction, of a normal distribution, of quantiles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_array, as_floats, check_number, shape_error
from bptt._dispatch import core
from bptt.losses.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt._arrays import Array
    from bptt.losses.rows import RowsIn


def mse(prediction: RowsIn, target: RowsIn, mask: RowsIn | None = None, reduction: str = "mean") -> tuple[float, Array]:
    """Mean squared error.

        step loss = (1/F) sum_f (prediction - target)^2

    Args:
        prediction: [T,B,F] (or [B,T,F], or [B,F] for one step), or `Packed`. Computed in float64 if it is float64 or
            wider, other real numbers become float32.
        target: shaped as prediction, converted to its dtype.
        mask: booleans [T,B], shaped as prediction without F, True where the step counts; default None, all.
        reduction: "mean" (default) or "sum" of the step losses over all (t, b) that count.

    Returns: the loss, and its gradient with respect to the prediction, shaped as it is (of `Packed` rows their data), 0
        where masked.
    Raises: ValueError for a wrong shape, no step that counts or an unknown reduction; TypeError for a wrong dtype.

    >>> loss, dprediction = mse([[[1.0, 3.0]]], [[[1.0, 1.0]]])
    >>> loss, dprediction.tolist()
    (2.0, [[[0.0, 2.0]]])
    """
    rows = Rows("mse", "prediction", prediction, target, mask)
    F = rows.values.shape[1]
    goal = rows.goal(F)
    keep, scale = rows.kept(reduction)
    loss, dp = core.mse(rows.values, goal, keep, scale / F)
    return loss, rows.gradient(dp)


def mae(prediction: RowsIn, target: RowsIn, mask: RowsIn | None = None, reduction: str = "mean") -> tuple[float, Array]:
    """Mean absolute error.

        step loss = (1/F) sum_f |prediction - target|,   its gradient is 0 where both are equal

    Args, returns and errors are those of `mse`.

    >>> loss, dprediction = mae([[[1.0, 3.0]]], [[[1.0, 1.0]]])
    >>> loss, dprediction.tolist()
    (1.0, [[[0.0, 0.5]]])
    """
    rows = Rows("mae", "prediction", prediction, target, mask)
    F = rows.values.shape[1]
    goal = rows.goal(F)
    keep, scale = rows.kept(reduction)
    loss, dp = core.mae(rows.values, goal, keep, scale / F)
    return loss, rows.gradient(dp)


def huber(
    prediction: RowsIn,
    target: RowsIn,
    mask: RowsIn | None = None,
    reduction: str = "mean",
    *,
    delta: float = 1.0,
) -> tuple[float, Array]:
    """Huber's loss: half the squared error up to `delta`, linear beyond, so that outliers pull no harder than `delta`.

        step loss = (1/F) sum_f  e^2 / 2                      where |e| <= delta,   e = prediction - target
                                 delta (|e| - delta / 2)      elsewhere

    Args:
        delta: > 0, in the unit of the target, default 1.

    The other arguments, returns and errors are those of `mse`.
    Source: Huber 1964; PyTorch's HuberLoss.

    >>> loss, dprediction = huber([[[1.5, 3.0]]], [[[1.0, 1.0]]])
    >>> loss, dprediction.tolist()
    (0.8125, [[[0.25, 0.5]]])
    """
    rows = Rows("huber", "prediction", prediction, target, mask)
    F = rows.values.shape[1]
    goal = rows.goal(F)
    keep, scale = rows.kept(reduction)
    size = check_number("huber", "delta", delta)
    if size == 0:
        raise ValueError("huber: delta has value 0, expected a number above 0")
    loss, dp = core.huber(rows.values, goal, keep, scale / F, size)
    return loss, rows.gradient(dp)


def gaussian_nll(
    prediction: RowsIn, target: RowsIn, mask: RowsIn | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Negative log-likelihood of a normal distribution for each feature, whose mean and log-variance are predicted.

        step loss = (1/F) sum_f (s + (target - m)^2 exp(-s)) / 2,   m = prediction[..., :F],   s = prediction[..., F:]

    The constant log(2 pi) / 2 of each feature is left out, as in PyTorch. exp(s / 2) is the predicted standard
    deviation. s has no lower bound: a model that fits a target exactly is driven to s = -inf.

    Args:
        prediction: [T,B,2F] (or [B,T,2F], or [B,2F] for one step), or `Packed`: the means of the F features, then their
            log-variances.
        target: [T,B,F], converted to the dtype of the prediction.
        mask, reduction: as of `mse`.

    Returns: the loss, and its gradient with respect to the prediction, shaped as it is (of `Packed` rows their data), 0
        where masked.
    Raises: ValueError for a wrong shape, no step that counts or an unknown reduction; TypeError for a wrong dtype.
    Source: Nix & Weigend 1994; PyTorch's GaussianNLLLoss.

    >>> loss, dprediction = gaussian_nll([[1.0, 0.0]], [[3.0]])
    >>> loss, dprediction.tolist()
    (2.0, [[-2.0, -1.5]])
    """
    where = "gaussian_nll"
    rows = Rows(where, "prediction", prediction, target, mask)
    columns = rows.values.shape[1]
    if columns % 2:
        shape = (*rows.lead, columns)
        raise ValueError(
            f"{where}: prediction has shape {shape}, expected an even last axis: means, then log-variances"
        )
    F = columns // 2
    goal = rows.goal(F)
    keep, scale = rows.kept(reduction)
    loss, dp = core.gaussian_nll(rows.values, goal, keep, scale / F)
    return loss, rows.gradient(dp)


def quantile(
    prediction: RowsIn,
    target: RowsIn,
    mask: RowsIn | None = None,
    reduction: str = "mean",
    *,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
) -> tuple[float, Array]:
    """Quantile loss (pinball loss): its minimum is at the quantiles of the target's distribution.

        step loss = (1/(F Q)) sum_f sum_q max(q e, (q - 1) e),   e = target - prediction

    The gradient is 0 where both are equal. Nothing keeps the predicted quantiles of a feature in order.

    Args:
        prediction: [T,B,F*Q], as a `Linear` gives it, the Q quantiles of a feature together, or [T,B,F,Q] (batch first,
            one step or `Packed` rows alike).
        target: [T,B,F], converted to the dtype of the prediction.
        mask, reduction: as of `mse`.
        quantiles: Q numbers in (0,1), default (0.1, 0.5, 0.9).

    Returns: the loss, and its gradient with respect to the prediction, shaped as it is (of `Packed` rows their data), 0
        where masked.
    Raises: ValueError for a wrong shape, no step that counts or a wrong option; TypeError for a wrong dtype.
    Source: Koenker & Bassett 1978.

    >>> loss, dprediction = quantile([[1.0, 2.0, 3.0]], [[2.5]])
    >>> round(loss, 4), np.round(dprediction, 4).tolist()
    (0.15, [[-0.0333, -0.1667, 0.0333]])
    """
    where = "quantile"
    levels = _levels(where, quantiles)
    packed: Any = prediction if hasattr(prediction, "batch_sizes") else None
    goal: Any = target
    given = as_array(where, "prediction", prediction if packed is None else packed.data)
    apart = given.ndim > 2 and given.ndim == 1 + np.ndim(
        goal.data if hasattr(goal, "batch_sizes") else as_array(where, "target", goal)
    )
    if apart and given.shape[-1] != len(levels):
        raise shape_error(where, "prediction", given, f"(..., {len(levels)}), one for each of the quantiles")
    flat = given.reshape(*given.shape[:-2], math.prod(given.shape[-2:])) if apart else given
    rows = Rows(where, "prediction", flat if packed is None else packed._replace(data=flat), target, mask)
    columns = rows.values.shape[1]
    if columns % len(levels):
        expected = f"a multiple of {len(levels)} quantiles in the last axis"
        raise ValueError(f"{where}: prediction has shape {(*rows.lead, columns)}, expected {expected}")
    F = columns // len(levels)
    targets = rows.goal(F)
    keep, scale = rows.kept(reduction)
    loss, dp = core.quantile(rows.values, targets, keep, scale / columns, levels)
    return loss, dp.reshape(given.shape)


def _levels(where: str, quantiles: Sequence[float]) -> list[float]:
    levels = as_floats(where, "quantiles", quantiles, np.float64)
    if levels.ndim != 1 or not levels.size:
        raise shape_error(where, "quantiles", levels, "(Q,), at least one")
    bad = levels[~((levels > 0) & (levels < 1))]
    if bad.size:
        raise ValueError(f"{where}: quantiles has the value {bad[0]}, expected numbers between 0 and 1")
    return [float(level) for level in levels]
