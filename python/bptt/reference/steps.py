# SPDX-License-Identifier: Apache-2.0
"""One optimizer step over a flat array, with clipping: SGD, Adam, AMSGrad, NAdam, RMSprop, Adagrad, Lion."""

import numpy as np
from numpy.typing import ArrayLike

from bptt.reference.common import Array, f64


def _clip(step: str, g: Array, clip_norm: float | None, clip_value: float | None) -> tuple[float, bool, Array]:
    largest = float(np.abs(g).max(initial=0.0))
    norm = largest * float(np.linalg.norm(g / largest)) if 0 < largest < np.inf else largest  # squares stay in range
    if not np.isfinite(norm):
        raise FloatingPointError(f"{step}: the gradient has norm {norm}, expected a finite one")
    scaled = g / norm * clip_norm if clip_norm is not None and norm > clip_norm else g
    clamped = np.clip(scaled, -clip_value, clip_value) if clip_value is not None else scaled
    return norm, scaled is not g or bool((clamped != scaled).any()), clamped


def sgd_step(
    params: ArrayLike, grads: ArrayLike, velocity: ArrayLike, *, lr: float, momentum: float = 0.0,
    nesterov: bool = False, weight_decay: float = 0.0, clip_norm: float | None = None, clip_value: float | None = None,
) -> tuple[float, bool, Array, Array]:  # fmt: skip
    """g = clip(grads) + decay w,  v = momentum v + g,  w = w - lr v  (Nesterov: w - lr (g + momentum v)).

    clip: first the global norm, g min(1, clip_norm / |g|), then each element into [-clip_value, clip_value].
    Arrays [n], velocity zeros at first. Returns |grads| before clipping, whether it clipped, w, v.
    Raises FloatingPointError where |grads| is not finite. Source: Sutskever et al. 2013; Pascanu et al. 2013.

    >>> sgd_step([1.0, 1.0], [3.0, 4.0], [0.0, 0.0], lr=0.5, clip_value=2.0)
    (5.0, True, array([0., 0.]), array([2., 2.]))
    """
    w, v = f64(params), f64(velocity)
    norm, clipped, g = _clip("sgd_step", f64(grads), clip_norm, clip_value)
    g = g + weight_decay * w
    v = momentum * v + g
    return norm, clipped, w - lr * (g + momentum * v if nesterov else v), v


def adam_step(
    params: ArrayLike, grads: ArrayLike, m: ArrayLike, v: ArrayLike, step: int, *, lr: float = 1e-3, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, clip_norm: float | None = None,
    clip_value: float | None = None,
) -> tuple[float, bool, Array, Array, Array]:  # fmt: skip
    """m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w = (1 - lr decay) w - lr m' / (sqrt(v') + eps).

    m' = m / (1 - b1^step), v' = v / (1 - b2^step); step counts from 1; m, v zeros at first; clip, errors as `sgd_step`.
    0 / 0 is 0, so that with eps = 0 a weight without any gradient stays as it is.
    Returns |grads| before clipping, whether it clipped, w, m, v. Source: Kingma & Ba 2015; Loshchilov & Hutter 2019.

    >>> adam_step([1.0], [5.0], [0.0], [0.0], 1, lr=0.25, eps=0.0, beta1=0.5, beta2=0.5)
    (5.0, False, array([0.75]), array([2.5]), array([12.5]))
    """
    w, m, v = f64(params), f64(m), f64(v)
    norm, clipped, g = _clip("adam_step", f64(grads), clip_norm, clip_value)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    change = _quotient(m / (1 - beta1**step), np.sqrt(v / (1 - beta2**step)) + eps)
    return norm, clipped, (1 - lr * weight_decay) * w - lr * change, m, v


def _quotient(x: Array, y: Array) -> Array:
    """x / y; 0 / 0 is 0, so that with eps = 0 a weight without any gradient stays as it is."""
    return np.divide(x, y, out=np.zeros_like(x), where=(x != 0) | (y != 0))


def amsgrad_step(
    params: ArrayLike, grads: ArrayLike, m: ArrayLike, v: ArrayLike, v_max: ArrayLike, step: int, *, lr: float = 1e-3,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """`adam_step` with v_max = max(v_max, v) in the place of v in the last equation; without clipping.

    Returns w, m, v, v_max. Source: Reddi et al. 2018, with both biases corrected, as in PyTorch.

    >>> w, m, v, v_max = amsgrad_step([1.0], [1.0], [0.0], [0.0], [12.0], 1, lr=0.5, eps=0.0, beta1=0.5, beta2=0.25)
    >>> w.item(), v_max.item()
    (0.875, 12.0)
    """
    g = f64(grads)
    m = beta1 * f64(m) + (1 - beta1) * g
    v = beta2 * f64(v) + (1 - beta2) * g**2
    v_max = np.maximum(f64(v_max), v)
    change = _quotient(m / (1 - beta1**step), np.sqrt(v_max / (1 - beta2**step)) + eps)
    return (1 - lr * weight_decay) * f64(params) - lr * change, m, v, v_max


def nadam_step(
    params: ArrayLike, grads: ArrayLike, m: ArrayLike, v: ArrayLike, product: float, step: int, *, lr: float = 2e-3,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
    momentum_decay: float = 4e-3, decoupled: bool = False,
) -> tuple[Array, Array, Array, float]:  # fmt: skip
    """mu_k = b1 (1 - 0.96^(k momentum_decay) / 2), product = mu_1 ... mu_(step-1), 1 at first; g = grads + decay w.

    p = product mu_step,  p' = p mu_(step+1),  m and v as in `adam_step`,
    w = w - lr ((1 - mu_step) / (1 - p) g + mu_(step+1) / (1 - p') m) / (sqrt(v / (1 - b2^step)) + eps).
    decoupled: g = grads, and w = w - lr decay w first. Returns w, m, v, p. Source: Dozat 2016, as in PyTorch.

    >>> w, m, v, p = nadam_step([1.0], [1.0], [0.0], [0.0], 1.0, 1, lr=0.5, momentum_decay=0.0, beta1=0.0, eps=0.0)
    >>> round(w.item(), 12), p
    (0.5, 0.0)
    """
    w, g = f64(params), f64(grads)
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (step, step + 1))
    g, w = (g, (1 - lr * weight_decay) * w) if decoupled else (g + weight_decay * w, w)
    product = product * mu
    m = beta1 * f64(m) + (1 - beta1) * g
    v = beta2 * f64(v) + (1 - beta2) * g**2
    step_of = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
    return w - lr * _quotient(step_of, np.sqrt(v / (1 - beta2**step)) + eps), m, v, product


def rmsprop_step(
    params: ArrayLike, grads: ArrayLike, v: ArrayLike, m: ArrayLike, velocity: ArrayLike, *, lr: float = 1e-2,
    alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """g = grads + decay w,  v = alpha v + (1 - alpha) g^2,  m = alpha m + (1 - alpha) g.

    velocity = momentum velocity + g / (sqrt(v) + eps)  (centered: v - m^2 for v),  w = w - lr velocity.
    Returns w, v, m, velocity. Source: Tieleman & Hinton 2012; Graves 2013; as in PyTorch.

    >>> w, v, m, velocity = rmsprop_step([1.0], [2.0], [0.0], [0.0], [0.0], lr=0.5, alpha=0.75, eps=0.0)
    >>> w.item(), v.item(), velocity.item()
    (0.0, 1.0, 2.0)
    """
    w = f64(params)
    g = f64(grads) + weight_decay * w
    v = alpha * f64(v) + (1 - alpha) * g**2
    m = alpha * f64(m) + (1 - alpha) * g
    mean_square = np.maximum(v - m**2, 0) if centered else v
    velocity = momentum * f64(velocity) + _quotient(g, np.sqrt(mean_square) + eps)
    return w - lr * velocity, v, m, velocity


def adagrad_step(
    params: ArrayLike, grads: ArrayLike, v: ArrayLike, step: int, *, lr: float = 1e-2, lr_decay: float = 0.0,
    eps: float = 1e-10, weight_decay: float = 0.0,
) -> tuple[Array, Array]:  # fmt: skip
    """g = grads + decay w,  v = v + g^2,  w = w - lr / (1 + (step - 1) lr_decay) g / (sqrt(v) + eps).

    v starts as the initial accumulator value. Returns w, v. Source: Duchi et al. 2011; lr_decay as in PyTorch.

    >>> w, v = adagrad_step([1.0], [3.0], [16.0], 2, lr=1.0, lr_decay=1.0, eps=0.0)
    >>> round(w.item(), 12), v.item()
    (0.7, 25.0)
    """
    w = f64(params)
    g = f64(grads) + weight_decay * w
    v = f64(v) + g**2
    return w - lr / (1 + (step - 1) * lr_decay) * _quotient(g, np.sqrt(v) + eps), v


def lion_step(
    params: ArrayLike, grads: ArrayLike, m: ArrayLike, *, lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:  # fmt: skip
    """w = w - lr (sign(b1 m + (1 - b1) g) + decay w),  m = b2 m + (1 - b2) g;  sign(0) = 0.

    Returns w, m. Source: Chen et al. 2023.

    >>> w, m = lion_step([1.0, 1.0], [0.0, -3.0], [0.0, 1.0], lr=0.25, beta1=0.5, beta2=0.5)
    >>> w.tolist(), m.tolist()
    ([1.0, 1.25], [0.0, -1.0])
    """
    w, m, g = f64(params), f64(m), f64(grads)
    sign = np.sign(beta1 * m + (1 - beta1) * g)
    return w - lr * (sign + weight_decay * w), beta2 * m + (1 - beta2) * g
