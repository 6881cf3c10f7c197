# SPDX-License-Identifier: Apache-2.0
"""Layers without a time axis: linear, embedding, dropout."""

import numpy as np
from numpy.typing import ArrayLike

from bptt.reference.common import Array, checked_ids, f64


def linear_forward(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """y = W x + b: x [...,I], weight [O,I], bias [O] or None -> y [...,O].

    >>> linear_forward([1.0, 2.0], [[3.0, 4.0]], [0.5]).tolist()
    [11.5]
    """
    return f64(x) @ f64(weight).T + (0.0 if bias is None else f64(bias))


def linear_backward(x: ArrayLike, weight: ArrayLike, dy: ArrayLike) -> tuple[Array, Array, Array]:
    """dx = dy W, dW = sum dy^T x, db = sum dy: dy [...,O] -> dx [...,I], dW [O,I], db [O].

    >>> [g.tolist() for g in linear_backward([[1.0, 2.0]], [[3.0, 4.0]], [[10.0]])]
    [[[30.0, 40.0]], [[10.0, 20.0]], [10.0]]
    """
    x, dy, batch = f64(x), f64(dy), tuple(range(np.ndim(x) - 1))
    return dy @ f64(weight), np.tensordot(dy, x, axes=(batch, batch)), dy.sum(axis=batch)


def embedding_forward(ids: ArrayLike, weight: ArrayLike) -> Array:
    """y = W[ids]: ids [...] in [0,V), weight [V,E] -> y [...,E].

    >>> embedding_forward([1, 0], [[1.0, 2.0], [3.0, 4.0]]).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    return f64(weight)[checked_ids("embedding_forward: ids", ids, np.shape(weight)[0])]


def embedding_backward(ids: ArrayLike, dy: ArrayLike, V: int) -> Array:
    """dW[v] = sum of dy where ids = v: dy [...,E] -> dW [V,E].

    >>> embedding_backward([1, 1], [[1.0], [2.0]], V=3).tolist()
    [[0.0], [3.0], [0.0]]
    """
    dW = np.zeros((V, np.shape(dy)[-1]))
    np.add.at(dW, checked_ids("embedding_backward: ids", ids, V), f64(dy))
    return dW


def dropout(x: ArrayLike, keep: ArrayLike, p: float) -> Array:
    """y = x keep / (1 - p) for a given mask keep, same shape as x; the map from dy to dx is the same (Srivastava 2014).

    >>> dropout([1.0, 2.0], [True, False], p=0.5).tolist()
    [2.0, 0.0]
    """
    return np.where(keep, f64(x), 0.0) * (1 / (1 - p) if p < 1 else 0.0)
