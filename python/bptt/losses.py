# SPDX-License-Identifier: Apache-2.0
"""Losses: value and gradient together. This module checks shapes and applies masks and reductions; sums are native.

The loss of a sequence is made of step losses, one for each unmasked pair (t, b):
    "mean"   their mean
    "sum"    their sum
Neither depends on the order of the axes, so that [B,T,...] gives the same as [T,B,...].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import as_floats, as_integers, as_mask, brief, check_shape, shape_error
from bptt._dispatch import core

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn

__all__ = ["cross_entropy", "mse"]


def cross_entropy(
    logits: ArrayIn, targets: ArrayIn, mask: ArrayIn | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Cross-entropy of the softmax of `logits`, in nats.

        step loss = -log p[target],   p = softmax(logits),   d step loss / d logits = p - onehot(target)

    Args:
        logits: [T,B,C] (or [B,T,C], or [B,C] for one step). Computed in float64 if it is float64 or wider, other
            real numbers become float32.
        targets: integers [T,B] in [0,C), shaped as logits without C; masked targets are ignored.
        mask: booleans, shaped as targets, True where the step counts; default None, all.
        reduction: "mean" (default) or "sum" of the step losses over all unmasked (t, b).

    Returns: the loss, and its gradient with respect to the logits, shaped as they are, 0 where masked.
    Raises: ValueError for a wrong shape, a target outside [0,C), no unmasked step or an unknown reduction; TypeError
        for a wrong dtype.

    >>> loss, dlogits = cross_entropy(np.zeros((1, 2, 2)), [[0, 1]])
    >>> round(loss, 4), dlogits.tolist()
    (0.6931, [[[-0.25, 0.25], [0.25, -0.25]]])
    """
    where = "cross_entropy"
    z, lead = _rows(where, "logits", logits)
    t = as_integers(where, "targets", targets)
    check_shape(where, "targets", t, lead)
    keep, scale = _mask_and_scale(where, lead, mask, reduction)
    loss, dz = core.cross_entropy(z, t.reshape(-1), None if keep is None else keep.reshape(-1), scale)
    return loss, dz.reshape(*lead, z.shape[1])


def mse(
    prediction: ArrayIn, target: ArrayIn, mask: ArrayIn | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Mean squared error.

        step loss = (1/F) sum_f (prediction - target)^2

    Args:
        prediction: [T,B,F] (or [B,T,F], or [B,F] for one step). Computed in float64 if it is float64 or wider, other
            real numbers become float32.
        target: shaped as prediction, converted to its dtype.
        mask: booleans [T,B], shaped as prediction without F, True where the step counts; default None, all.
        reduction: "mean" (default) or "sum" of the step losses over all unmasked (t, b).

    Returns: the loss, and its gradient with respect to the prediction, shaped as it is, 0 where masked.
    Raises: ValueError for a wrong shape, no unmasked step or an unknown reduction; TypeError for a wrong dtype.

    >>> loss, dprediction = mse([[[1.0, 3.0]]], [[[1.0, 1.0]]])
    >>> loss, dprediction.tolist()
    (2.0, [[[0.0, 2.0]]])
    """
    where = "mse"
    p, lead = _rows(where, "prediction", prediction)
    target = as_floats(where, "target", target, p.dtype)
    check_shape(where, "target", target, (*lead, p.shape[1]))
    keep, scale = _mask_and_scale(where, lead, mask, reduction)
    rows = None if keep is None else keep.reshape(-1)
    loss, dp = core.mse(p, target.reshape(p.shape), rows, scale / p.shape[1])
    return loss, dp.reshape(target.shape)


def _rows(where: str, name: str, value: ArrayIn) -> tuple[Array, tuple[int, ...]]:
    """[..., F] as [N, F], and the leading shape."""
    array = as_floats(where, name, value)
    if array.ndim < 2 or not array.shape[-1]:
        raise shape_error(where, name, array, "(T, B, features)")
    if not array.size:
        raise shape_error(where, name, array, "at least one step of at least one row")
    lead = array.shape[:-1]
    return array.reshape(math.prod(lead), array.shape[-1]), lead


def _mask_and_scale(
    where: str, lead: tuple[int, ...], mask: ArrayIn | None, reduction: str
) -> tuple[Array | None, float]:
    """The mask as booleans, and the weight of one step loss."""
    if not isinstance(reduction, str):
        raise TypeError(f"{where}: reduction has type {type(reduction).__name__}, expected 'mean' or 'sum'")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{where}: reduction has value {brief(reduction)}, expected 'mean' or 'sum'")
    if mask is None:
        keep, steps = None, math.prod(lead)
    else:
        keep = as_mask(where, "mask", mask)
        check_shape(where, "mask", keep, lead)
        steps = int(np.count_nonzero(keep))
    if not steps:
        raise ValueError(f"{where}: mask has no step that counts, expected at least one")
    return keep, 1 / steps if reduction == "mean" else 1.0
