# SPDX-License-Identifier: Apache-2.0
"""Growth rates of products of matrices by repeated QR factorisation, and how well they are known. No network is here.

    A_s = M_s Q_{s-1},   A_s = Q_s R_s,   lambda_i = mean over s of ln |R_s[i,i]|

Source: Benettin et al. 1980; Geist et al. 1990.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt._arrays import Array


def log_growth(apply: Callable[[int, Array], Array], start: Array, steps: int) -> Array:
    """ln |R[i,i]| of each step, [steps,...,k].

    Args: apply(s, Q) gives M_s Q for Q [...,n,k], stacked matrices of orthonormal columns; start: Q_0; steps.
    A value is minus infinity where the step's matrix has no such direction: its column is, but for rounding, a
    combination of those before: smaller than n eps times the largest element.
    """
    n, k = start.shape[-2:]
    logs = np.empty((steps, *start.shape[:-2], k))
    Q = start
    noise = n * np.finfo(start.dtype).eps
    for s in range(steps):
        A = apply(s, Q)
        Q, R = np.linalg.qr(A)
        sizes = np.abs(np.diagonal(R, axis1=-2, axis2=-1))
        largest = np.abs(A).max(axis=(-2, -1))[..., np.newaxis]  # no sum of squares, which might overflow
        with np.errstate(divide="ignore"):
            logs[s] = np.log(np.where(sizes <= noise * largest, 0.0, sizes))  # NaN stays NaN
    return logs


def orthonormal(rng: np.random.Generator, *shape: int) -> Array:
    """Random matrices [...,n,k] with orthonormal columns, the same number of each kind of direction."""
    return np.linalg.qr(rng.standard_normal(shape))[0]


def mean_and_error(logs: Array, blocks: int = 20) -> tuple[Array, Array]:
    """The mean of values [steps,rows,k] over steps and rows, and its standard error, [k] each.

    The error is that of the means of about `blocks` blocks of consecutive steps, at least two for each row: their
    values are nearly independent where those of neighbouring steps are not. NaN where the mean is infinite or there are
    fewer than two steps.
    """
    steps, rows, k = logs.shape
    mean = logs.mean(axis=(0, 1))
    per_row = min(steps, max(2, -(-blocks // rows)))
    if per_row < 2:
        return mean, np.full(k, np.nan)
    parts = np.array([part.mean(axis=0) for part in np.array_split(logs, per_row)]).reshape(per_row * rows, k)
    error = np.full(k, np.nan)
    finite = np.isfinite(mean)
    error[finite] = parts[:, finite].std(axis=0, ddof=1) / np.sqrt(len(parts))
    return mean, error
