# SPDX-License-Identifier: Apache-2.0
"""Losses: a value and a gradient together."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.reference.common import Array, check_shapes, checked_ids, f64

Loss = tuple[float, Array]


def _mask(loss: str, shape: tuple[int, ...], mask: ArrayLike | None, reduction: str) -> tuple[NDArray[np.bool_], float]:
    keep = np.ones(shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    check_shapes(loss, {"mask": keep}, {"mask": shape})
    if not keep.any():
        raise ValueError(f"{loss}: mask has no True element, expected at least one")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{loss}: reduction is {reduction!r}, expected 'mean' or 'sum'")
    return keep, 1.0 / int(keep.sum()) if reduction == "mean" else 1.0


def cross_entropy(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean"
) -> Loss:
    """Loss -scale sum log softmax(logits)[target] over the unmasked (t, b), and its gradient.

    Args: logits [T,B,C] (or [B,C]); targets [T,B] in [0,C); mask [T,B], True where the element counts, default all.
        reduction "mean": scale = 1 / number of unmasked (t, b); "sum": scale = 1.
    Returns: the loss and its gradient, shaped as logits, zero where masked (masked values are never read).
    Raises: ValueError where all is masked, a shape does not fit, a target is no class; for another reduction.

    >>> cross_entropy([[0.0, 0.0]], [1])[1].tolist()
    [[0.5, -0.5]]
    """
    logits, targets = f64(logits), np.array(targets)
    keep, scale = _mask("cross_entropy", logits.shape[:-1], mask, reduction)
    check_shapes("cross_entropy", {"targets": targets}, {"targets": keep.shape})
    z = logits[keep]  # [N,C]
    hit = np.arange(len(z)), checked_ids("cross_entropy: targets", targets[keep], z.shape[1])
    z -= z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    dz = np.exp(log_p)
    dz[hit] -= 1
    gradient = np.zeros_like(logits)
    gradient[keep] = scale * dz
    return -scale * float(log_p[hit].sum()), gradient


def mse(prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean") -> Loss:
    """Loss scale sum mean_F (prediction - target)^2 over the unmasked (t, b), and its gradient.

    Args: prediction and target [T,B,F] (or [B,F]); mask, reduction, returns and errors are those of `cross_entropy`.

    >>> mse([[1.0, 3.0]], [[1.0, 1.0]])
    (2.0, array([[0., 2.]]))
    """
    prediction, target = f64(prediction), f64(target)
    check_shapes("mse", {"target": target}, {"target": prediction.shape})
    keep, scale = _mask("mse", prediction.shape[:-1], mask, reduction)
    e = prediction[keep] - target[keep]  # [N,F]
    gradient = np.zeros_like(prediction)
    gradient[keep] = 2 * scale / e.shape[1] * e
    return scale / e.shape[1] * float((e**2).sum()), gradient
