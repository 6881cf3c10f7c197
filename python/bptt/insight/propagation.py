# SPDX-License-Identifier: Apache-2.0
"""The part of a gradient that travels: its norm by lag, the rate per step fitted to it, and the half-life.

For each row and start t*, r_k = |dL/ds_{t*-k}| / |dL/ds_{t*}| where the loss has a gradient at t* alone. ln r_k is
fitted by a line over k, one for each row and start; `decay` is e to the mean slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array

LOW, HIGH = 10, 90  # percentiles of a curve's band
# Student's t, 97.5 %, for 1 to 10 degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Lag(NamedTuple):
    """The relative norm at one lag: median, 10 % and 90 % quantile over rows and starts, and the number of these."""

    median: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class ByLag:
    """Relative norms by lag: arrays [K+1] `median`, `low`, `high`, `counts`; `by_lag[k]` is one `Lag`."""

    median: Array
    low: Array
    high: Array
    counts: Array

    def __len__(self) -> int:
        return len(self.median)

    def __getitem__(self, k: int) -> Lag:
        return Lag(float(self.median[k]), float(self.low[k]), float(self.high[k]), int(self.counts[k]))


@dataclass(frozen=True)
class Propagation:
    """How the gradient of one state, or of all, changes per step back in time.

    by_lag: relative norms by lag, 1 at lag 0.
    decay: the factor per step, below 1 where the gradient fades; NaN where there is too little to fit.
    decay_interval: its 95 % confidence interval by Student's t over rows (over starts where there is one row).
    half_life: steps after which half is left, ln 2 / -ln decay; infinite where nothing fades.
    """

    by_lag: ByLag
    decay: float
    decay_interval: tuple[float, float]

    @property
    def half_life(self) -> float:
        """Steps after which half of the gradient is left; infinite for decay >= 1, 0 for decay 0."""
        if self.decay == 0:
            return 0.0
        return (
            float(np.log(2) / -np.log(self.decay))
            if self.decay < 1
            else float("nan" if np.isnan(self.decay) else "inf")
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {
            "decay": self.decay,
            "decay_interval": list(self.decay_interval),
            "half_life": self.half_life,
            "by_lag": {name: getattr(self.by_lag, name).tolist() for name in ("median", "low", "high", "counts")},
        }


def propagation(norms: Array, least: float) -> Propagation:
    """From norms [starts,rows,K+1] by lag, NaN where a row has no such lag or no such start.

    least: norms below it are not used in the fit, since they have lost digits.
    """
    first = norms[:, :, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(first > 0, norms / first, np.nan)
    ratios[np.isnan(norms)] = np.nan
    last = np.flatnonzero(~np.isnan(ratios).all(axis=(0, 1)))
    ratios = ratios[:, :, : last[-1] + 1 if len(last) else 0]
    return Propagation(_by_lag(ratios), *_decay(ratios, norms, least))


def _by_lag(ratios: Array) -> ByLag:
    flat = ratios.reshape(ratios.shape[0] * ratios.shape[1], ratios.shape[2])
    if not flat.size:
        return ByLag(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, int))
    with np.errstate(invalid="ignore"):  # between two infinite ones
        low, median, high = np.nanpercentile(flat, (LOW, 50, HIGH), axis=0)
    return ByLag(median, low, high, (~np.isnan(flat)).sum(axis=0))


def _decay(ratios: Array, norms: Array, least: float) -> tuple[float, tuple[float, float]]:
    slopes = np.array(
        [
            [_slope(ratios[s, b], norms[s, b, : ratios.shape[2]], least) for b in range(norms.shape[1])]
            for s in range(norms.shape[0])
        ]
    ).reshape(norms.shape[:2])
    known = ~np.isnan(slopes)
    if not known.any():
        return float("nan"), (float("nan"), float("nan"))
    if np.isneginf(slopes[known]).all():
        return 0.0, (0.0, 0.0)
    slopes[np.isinf(slopes)] = np.nan
    rows = ~np.isnan(slopes).all(axis=0)
    values = np.nanmean(slopes[:, rows], axis=0) if rows.sum() > 1 else slopes[~np.isnan(slopes)]
    mean = float(values.mean())
    half = student(len(values) - 1) * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    with np.errstate(over="ignore"):
        return float(np.exp(mean)), (float(np.exp(mean - half)), float(np.exp(mean + half)))


def _slope(ratios: Array, norms: Array, least: float) -> float:
    """Of ln ratio over the lag, from lag 1 on where three lags are left; minus infinity where lag 1 is zero."""
    if len(ratios) < 2 or np.isnan(ratios[1]):
        return float("nan")
    if ratios[1] == 0:
        return float("-inf")
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.isfinite(ratios) & (norms >= least)))
    stop = int(bad[0]) if len(bad) else len(ratios)
    start = 1 if stop >= 4 else 0
    if stop - start < 2:
        return float("nan")
    k = np.arange(start, stop) - (start + stop - 1) / 2
    return float(k @ np.log(ratios[start:stop]) / (k @ k))


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (from 11 degrees on by its expansion, within 0.002)."""
    if freedom < 1:
        return float("inf")
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.372 / freedom + 2.82 / freedom**2
