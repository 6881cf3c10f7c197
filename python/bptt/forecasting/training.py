# SPDX-License-Identifier: Apache-2.0
"""How a series is divided, and the training and the measurement of a forecaster on its parts.

    | training part                  | validation part    | held-out part      |
      fits the network and scales      stops the training   is only measured

Nothing of a later part is used for an earlier purpose, so that the errors on the held-out part are those of a model
that has never seen it. A window may begin in the part before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import losses, optim
from bptt.callbacks import Callback, EarlyStopping
from bptt.data import batches, windows
from bptt.forecasting.model import Forecaster
from bptt.forecasting.peers import Errors, errors, naive, seasonal_naive, targets
from bptt.train import History, Step, fit

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["Judgement", "Parts", "Settings", "divide", "judge", "train", "training_rows", "windows_of"]

LEAST_WINDOWS = 8  # to train on
LONGEST_DEFAULT = 24  # of a horizon
ONE_BY_ONE = 1000  # rows; with 240, the longest default horizon is no longer limited by the rows
MOST_STEPS = 30_000  # of all windows that overlap: neighbouring windows of a long series differ little
MOST_ORIGINS = 2000
SMALLEST = 1e-150  # the squares of smaller numbers are 0
LEAST_ORIGINS = 10  # for the quantiles of an interval
QUANTILES = (0.1, 0.9)


@dataclass(frozen=True)
class Parts:
    """The rows [0, train) to train on, [train, test) that stop the training, [test, T) held out; and the window."""

    T: int
    train: int
    test: int
    season: int
    length: int
    horizon: int

    @property
    def origins(self) -> Array:
        """The rows from which the held-out part is forecast: all whose H targets are in it, or every k-th of many."""
        return np.arange(self.T - self.horizon - 1, self.test - 2, -self.stride)[::-1]

    @property
    def stride(self) -> int:
        """The steps from one origin to the next."""
        return -(-(self.T - self.horizon - self.test + 1) // MOST_ORIGINS)


@dataclass(frozen=True)
class Settings:
    """How to train.

    - `epochs`: at most so many passes; the run ends after `patience` of them without a better validation error.
    - `lr`: the first learning rate. `batch_size`: windows of an update. `clip_norm`: the largest gradient norm.
    - `weight_decay`: of AdamW, times the number of rows to train on.
    - `seed`: of the order of the windows.
    """

    epochs: int = 100
    lr: float = 2e-3
    patience: int = 15
    batch_size: int = 32
    clip_norm: float = 1.0
    weight_decay: float = 400.0  # divided by rows: as a prior, it weighs less with more data
    seed: int = 0


def divide(
    T: int,
    season: int = 1,
    horizon: int | None = None,
    length: int | None = None,
    validation: float = 0.15,
    test: float = 0.2,
) -> Parts:
    """Divide T rows in time.

    Args: horizon: default one season where it has 4 to 24 steps, else 12, but at most a tenth of the series. length:
        of the window, default two seasons, at least 24 steps, but at most 256 steps or one season, and a third of the
        training part without a season. validation, test: shares of the rows, or numbers of rows where they are at
        least 1; at least one horizon each; default 0.15 and 0.2.
    Raises: ValueError where less than 8 windows are left to train on; it says how many rows would do.

    >>> divide(309, season=11)
    Parts(T=309, train=201, test=247, season=11, length=24, horizon=11)
    """
    for name, value in (("validation", validation), ("test", test)):
        if value >= 1 and value != int(value):
            raise ValueError(f"--{name} has {value:g}, expected a share below 1 or a whole number of rows")
    if (validation if validation < 1 else 0) + (test if test < 1 else 0) >= 1:
        raise ValueError(
            f"--validation {validation:g} and --test {test:g} leave nothing, expected less than 1 together"
        )
    parts = _parts(T, season, horizon, length, validation, test)
    if _fits(parts):
        return parts
    least = _least(T + 1, lambda n: _fits(_parts(n, season, horizon, length, validation, test)))
    sizes = f"--horizon {parts.horizon} and --length {parts.length}" if length else f"--horizon {parts.horizon}"
    raise ValueError(f"the series has {T:,} rows, expected at least {least:,} for {sizes}")


def _least(first: int, fits: Callable[[int], bool]) -> int:
    """The least number of rows from `first` on that fits."""
    step = 1  # few rows: one by one, since a default horizon grows with them; many: by bisection
    while not fits(first):
        low, first = first, first + step
        step = step if first < ONE_BY_ONE else 2 * step
    return low + 1 + bisect_left(range(low + 1, first), True, key=fits) if step > 1 else first


def training_rows(T: int, horizon: int | None = None, validation: float = 0.15, test: float = 0.2) -> int:
    """The rows to train on that `divide` finds for every season: for what must be known before, as the season."""
    return _parts(T, LONGEST_DEFAULT, horizon, None, validation, test).train


def _parts(T: int, season: int, horizon: int | None, length: int | None, validation: float, test: float) -> Parts:
    H = horizon or min(season if 4 <= season <= LONGEST_DEFAULT else 12, max(1, T // 10))
    held_out, checked = (max(round(each * T) if each < 1 else int(each), H) for each in (test, validation))
    train = T - held_out - checked
    L = length or max(2, min(max(2 * season, 24), max(season, 256), (train - season) // 3))
    return Parts(T, train, T - held_out, season, L, H)


def _fits(parts: Parts) -> bool:
    return parts.train - parts.season - parts.length - parts.horizon + 1 >= LEAST_WINDOWS


def train(
    forecaster: Forecaster,
    values: Array,
    parts: Parts,
    settings: Settings | None = None,
    *,
    on_step: Callable[[Step], object] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> History:
    """Train with one call of `fit`; the forecaster then has the weights with the least validation error.

    The loss is the mean square error of the forecasts from every step of a window; on the validation part, of those
    from its last step. The learning rate falls along half a cosine; gradients are clipped.

    Raises: ValueError where the training part is constant; FloatingPointError where the loss is not finite.
    """
    settings = settings or Settings()
    least, most = values[: parts.train].min(), values[: parts.train].max()
    if least == most:
        has = f"the training part, {parts.train:,} rows, has the one value {values[0]:g}"
        raise ValueError(f"{has}, expected a series that varies: the forecast of a constant is that value")
    if most - least < SMALLEST:
        has = f"the training part, {parts.train:,} rows, has values from {least:g} to {most:g}"
        raise ValueError(f"{has}, expected a range of at least {SMALLEST:g}: give the series in a smaller unit")
    x, target = windows_of(forecaster, values[: parts.train])
    held = windows_of(forecaster, values[parts.train - forecaster.rows : parts.test])
    last = np.zeros(held[0].shape[:2], bool)
    last[-1] = True
    feed = batches(x, target, settings.batch_size, shuffle=True, seed=settings.seed, target_axis=1)
    return fit(
        forecaster.model,
        feed,
        loss=losses.mse,
        optimizer=optim.AdamW(
            settings.lr, weight_decay=settings.weight_decay / parts.train, clip_norm=settings.clip_norm
        ),
        epochs=settings.epochs,
        schedule=optim.schedules.cosine(settings.lr, settings.epochs * len(feed)),
        validation=(*held, last),
        callbacks=[EarlyStopping(settings.patience), *callbacks],
        on_step=on_step,
        progress=progress,
    )


def windows_of(forecaster: Forecaster, values: Array) -> tuple[Array, Array]:
    """Windows [L,N,2] of a part, and what to predict at each of their steps, [L,N,H]; not all where there are many.

    Raises: ValueError for fewer values than s + L + H.
    """
    W, H, season = forecaster.rows, forecaster.network.horizon, forecaster.season
    stride = min(forecaster.network.length, -(-(len(values) - W - H + 1) // max(LEAST_WINDOWS, MOST_STEPS // W)))
    z, ahead = windows(forecaster.scaler.transform(values), W, H, stride, each_step=True)
    base = forecaster.base(z[..., 0], np.arange(season, W))
    with np.errstate(over="ignore"):  # the loss says that it is infinite
        return forecaster.inputs(z[..., 0]), ((ahead[season:] - base) / forecaster.target_scale).astype(np.float32)


@dataclass(frozen=True)
class Judgement:
    """The errors on the held-out part, over all origins and steps ahead.

    `by_name`: of "this model", "naive" and, where there is a season, "seasonal naive". `forecasts`: the model's, [N,H].
    """

    by_name: dict[str, Errors]
    forecasts: Array

    @property
    def best_peer(self) -> str:
        """The peer with the least mean absolute error."""
        return min((name for name in self.by_name if name != "this model"), key=lambda name: self.by_name[name].mae)

    @property
    def ratio(self) -> float:
        """The mean absolute error of the model over that of the best peer; infinite where that is 0."""
        peer = self.by_name[self.best_peer].mae
        return self.by_name["this model"].mae / peer if peer else float("inf")


def judge(forecaster: Forecaster, values: Array, parts: Parts) -> Judgement:
    """Measure a forecaster and its peers on the held-out part, and give it the interval of its forecasts.

    The interval is made of the 10 % and 90 % quantiles of the errors of each step ahead; None for less than 10 origins.
    """
    origins, H, season = parts.origins, parts.horizon, forecaster.season
    target = targets(values, origins, H)
    forecasts = forecaster.predict(values, origins)
    found: dict[str, Any] = {"this model": forecasts, "naive": naive(values, origins, H)}
    if season > 1:
        found["seasonal naive"] = seasonal_naive(values, origins, H, season)
    enough = len(origins) >= LEAST_ORIGINS
    forecaster.interval = np.quantile(target - forecasts, QUANTILES, axis=0).T if enough else None
    return Judgement({name: errors(each, target) for name, each in found.items()}, forecasts)
