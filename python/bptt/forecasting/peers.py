# SPDX-License-Identifier: Apache-2.0
"""What a forecast is compared with: the last value, and the value of one season ago. And how long a season is.

Series [T] float64; forecasts of N origins [N,H]. The forecast from origin t knows the values up to row t and is of the
rows t + 1 to t + H.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["Errors", "errors", "naive", "season_of", "seasonal_naive", "targets"]

LEAST_CORRELATION = 0.2  # of a series with itself one season ago
LEAST_DEVIATIONS = 3.5
LONGEST_SEASON = 1000


class Errors(NamedTuple):
    """Mean absolute error and root mean square error, over all origins and steps ahead."""

    mae: float
    rmse: float


def errors(forecast: Array, target: Array) -> Errors:
    """The errors of forecasts [N,H].

    >>> errors(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    Errors(mae=1.0, rmse=1.4142135623730951)
    """
    difference = forecast - target
    return Errors(float(np.abs(difference).mean()), float(np.sqrt((difference**2).mean())))


def targets(values: Array, origins: Array, horizon: int) -> Array:
    """The values [N,H] that follow each origin."""
    found: Array = values[origins[:, np.newaxis] + np.arange(1, horizon + 1)]
    return found


def naive(values: Array, origins: Array, horizon: int) -> Array:
    """The last value, at each step ahead: [N,H]."""
    return np.repeat(values[origins][:, np.newaxis], horizon, axis=1)


def seasonal_naive(values: Array, origins: Array, horizon: int, season: int) -> Array:
    """The last known value of the same place in the season, [N,H] of values [T]; [N,H,B] of B series [T,B].

    >>> seasonal_naive(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3]), horizon=5, season=3).tolist()
    [[2.0, 3.0, 4.0, 2.0, 3.0]]
    """
    ahead = np.arange(1, horizon + 1)
    back = ahead - season * -(-ahead // season)  # of step h: at most 0
    found: Array = values[origins[:, np.newaxis] + back]
    return found


def season_of(values: Array, usual: int = 1) -> tuple[int, float]:
    """The length of the season in a series, and the correlation of the series with itself one season ago.

    A straight line is taken out first. `usual`, the length that the dates suggest, is taken where the correlation has a
    peak there; else the length of the highest peak, which is at most a third of the series: a season that has been seen
    less than three times is not one. A peak counts from a correlation of 0.2, and of 3.5 times the standard deviation
    that it has in noise, 1 / sqrt(T - lag). Where there is none: (1, 0.0).

    >>> season_of(np.sin(np.arange(100) * 2 * np.pi / 7) + 0.1 * np.arange(100))[0]
    7
    """
    T = len(values)
    t = np.arange(T)
    longest = min(T // 3, LONGEST_SEASON)
    if longest < 3:
        return 1, 0.0
    rest = values - np.polyval(np.polyfit(t, values, 1), t)
    power = float((rest**2).mean())
    if power <= 1e-20 * float((values**2).mean()):  # a straight line has no season
        return 1, 0.0
    lags = np.arange(longest + 1)
    spectrum = np.abs(np.fft.rfft(rest, 2 * T)) ** 2
    correlation = np.fft.irfft(spectrum)[: longest + 1] / (T - lags) / power
    inner = correlation[1:-1]
    least = np.maximum(LEAST_CORRELATION, LEAST_DEVIATIONS / np.sqrt(T - lags[1:-1]))
    # the first value below zero ends the peak at lag 0, which every smooth series has
    below = int(np.argmax(correlation < 0)) if (correlation < 0).any() else longest
    peaks = 1 + np.flatnonzero((inner >= correlation[:-2]) & (inner > correlation[2:]) & (inner >= least))
    if usual in peaks:
        return usual, float(correlation[usual])
    peaks = peaks[peaks > below]
    if not len(peaks):
        return 1, 0.0
    best = int(peaks[np.argmax(correlation[peaks])])
    # multiples of a season are peaks of about the same height: the shortest of them is the season
    close = peaks[correlation[peaks] >= 0.9 * correlation[best]]
    season = int(close[0])
    return season, float(correlation[season])
