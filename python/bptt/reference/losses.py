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
    logits: ArrayLike,
    targets: ArrayLike,
    mask: ArrayLike | None = None,
    reduction: str = "mean",
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Loss:
    """Loss scale sum_(t,b) sum_j -a_j log softmax(logits)_j over the (t, b) that count, and its gradient.

        a_j = w_j ((1 - s) [j = target] + s / C)

    Args: logits [T,B,C] (or [B,C]); targets [T,B] in [0,C); mask [T,B], True where the element counts, default all;
        class_weights w [C], default 1; label_smoothing s; ignore_index, a target that does not count.
        reduction "mean": scale = 1 / sum of w[target] over the (t, b) that count; "sum": scale = 1.
    Returns: the loss and its gradient, shaped as logits, zero where masked (masked values are never read).
    Raises: ValueError where all is masked, a shape does not fit, a target is no class; for another reduction.

    >>> cross_entropy([[0.0, 0.0]], [1])[1].tolist()
    [[0.5, -0.5]]
    """
    logits, targets = f64(logits), np.array(targets)
    check_shapes("cross_entropy", {"targets": targets}, {"targets": logits.shape[:-1]})
    keep, _ = _mask("cross_entropy", logits.shape[:-1], mask, reduction)
    if ignore_index is not None:
        keep &= targets != ignore_index
    z = logits[keep]  # [N,C]
    C = z.shape[1]
    w = np.ones(C) if class_weights is None else f64(class_weights)
    classes = checked_ids("cross_entropy: targets", targets[keep], C)
    a = w * ((1 - label_smoothing) * np.eye(C)[classes] + label_smoothing / C)
    scale = 1.0 if reduction == "sum" else 1.0 / float(w[classes].sum())
    z -= z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    gradient = np.zeros_like(logits)
    gradient[keep] = scale * (a.sum(axis=1, keepdims=True) * np.exp(log_p) - a)
    return -scale * float((a * log_p)[a > 0].sum()), gradient


def bce_with_logits(
    logits: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    reduction: str = "mean",
    *,
    pos_weight: ArrayLike = 1.0,
) -> Loss:
    """Loss scale sum mean_F -w t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)), and its gradient.

    Args: logits z and target t in [0,1], [T,B,F] (or [B,F]); pos_weight w, a number or [F]; the others and errors are
        those of `mse`.

    >>> bce_with_logits([[0.0]], [[1.0]])[1].tolist()
    [[-0.5]]
    """
    z, t, w = f64(logits), f64(target), f64(pos_weight)
    p = 1 / (1 + np.exp(-z))
    value = w * t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)
    return _mean_of_features("bce_with_logits", value, (1 - t) * p - w * t * (1 - p), mask, reduction)


def mse(prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean") -> Loss:
    """Loss scale sum mean_F (prediction - target)^2 over the unmasked (t, b), and its gradient.

    Args: prediction and target [T,B,F] (or [B,F]); mask [T,B], True where the element counts, default all; reduction
        "mean": scale = 1 / number of unmasked (t, b); "sum": scale = 1.
    Returns: the loss and its gradient, shaped as prediction, zero where masked.
    Raises: ValueError where all is masked or a shape does not fit; for another reduction.

    >>> mse([[1.0, 3.0]], [[1.0, 1.0]])
    (2.0, array([[0., 2.]]))
    """
    e = _error("mse", prediction, target)
    return _mean_of_features("mse", e**2, 2 * e, mask, reduction)


def mae(prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean") -> Loss:
    """Loss scale sum mean_F |prediction - target|, and its gradient. Args, returns and errors are those of `mse`.

    >>> mae([[1.0, 3.0]], [[1.0, 1.0]])
    (1.0, array([[0. , 0.5]]))
    """
    e = _error("mae", prediction, target)
    return _mean_of_features("mae", np.abs(e), np.sign(e), mask, reduction)


def huber(
    prediction: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    reduction: str = "mean",
    *,
    delta: float = 1.0,
) -> Loss:
    """Loss scale sum mean_F of e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = prediction - target.

    Args, returns and errors are those of `mse`.

    >>> huber([[1.5, 3.0]], [[1.0, 1.0]])
    (0.8125, array([[0.25, 0.5 ]]))
    """
    e = _error("huber", prediction, target)
    value = np.where(np.abs(e) <= delta, e**2 / 2, delta * (np.abs(e) - delta / 2))
    return _mean_of_features("huber", value, np.clip(e, -delta, delta), mask, reduction)


def gaussian_nll(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean"
) -> Loss:
    """Loss scale sum mean_F (s + (m - target)^2 exp(-s)) / 2, and its gradient.

    Args: prediction [T,B,2F], the means m of the features, then their log-variances s; target [T,B,F]; the others,
        returns and errors are those of `mse`.

    >>> gaussian_nll([[1.0, 0.0]], [[3.0]])
    (2.0, array([[-2. , -1.5]]))
    """
    m, s = np.split(f64(prediction), 2, axis=-1)
    e = _error("gaussian_nll", m, target)
    value, gradient = (s + e**2 * np.exp(-s)) / 2, np.stack([e * np.exp(-s), (1 - e**2 * np.exp(-s)) / 2])
    loss, dm = _mean_of_features("gaussian_nll", value, gradient[0], mask, reduction)
    return loss, np.concatenate([dm, _mean_of_features("gaussian_nll", value, gradient[1], mask, reduction)[1]], -1)


def quantile(
    prediction: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    reduction: str = "mean",
    *,
    quantiles: ArrayLike = (0.1, 0.5, 0.9),
) -> Loss:
    """Loss scale sum mean_F mean_Q max(q e, (q - 1) e), e = target - prediction, and its gradient.

    Args: prediction [T,B,F*Q], the Q quantiles of a feature together; target [T,B,F]; the others, returns and errors
        are those of `mse`.

    >>> round(quantile([[1.0, 2.0, 3.0]], [[2.5]])[0], 4)
    0.15
    """
    p, q = f64(prediction), f64(quantiles)
    e = -_error("quantile", p, np.repeat(f64(target), len(q), axis=-1))
    q = np.tile(q, p.shape[-1] // len(q))  # of each column
    gradient = np.where(e > 0, -q, np.where(e < 0, 1 - q, 0.0))
    return _mean_of_features("quantile", np.maximum(q * e, (q - 1) * e), gradient, mask, reduction)


def _error(loss: str, prediction: ArrayLike, target: ArrayLike) -> Array:
    """prediction - target, of one shape."""
    prediction, target = f64(prediction), f64(target)
    check_shapes(loss, {"target": target}, {"target": prediction.shape})
    return prediction - target


def _mean_of_features(loss: str, value: Array, slope: Array, mask: ArrayLike | None, reduction: str) -> Loss:
    """The loss of values [..., F] and its gradient, slope [..., F] times their weight."""
    keep, scale = _mask(loss, value.shape[:-1], mask, reduction)
    scale /= value.shape[-1]
    gradient = np.zeros_like(slope)
    gradient[keep] = scale * slope[keep]
    return scale * float(value[keep].sum()), gradient
