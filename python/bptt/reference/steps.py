# SPDX-License-Identifier: Apache-2.0
"""One optimizer step over a flat array: SGD and Adam, with clipping."""

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
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    divisor = np.sqrt(v_hat) + eps
    change = np.divide(m_hat, divisor, out=np.zeros_like(w), where=(m_hat != 0) | (divisor != 0))
    return norm, clipped, (1 - lr * weight_decay) * w - lr * change, m, v
