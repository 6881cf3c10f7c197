# SPDX-License-Identifier: Apache-2.0
"""Schedules: the learning rate of each step, counted from 0. Each is called as `schedule(step)` and can be pickled.

>>> schedule = cosine(lr=0.1, steps=100, warmup=10)
>>> schedule
cosine(lr=0.1, steps=100, warmup=10, final=0.0)
>>> [round(schedule(step), 3) for step in (0, 9, 10, 55, 100)]
[0.01, 0.1, 0.1, 0.05, 0.0]

A schedule is used by assigning what it returns to `optimizer.lr` before each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from bptt._arrays import check_number, check_size

__all__ = ["constant", "cosine", "exponential", "linear", "one_cycle", "step_decay", "warm_up"]


class _Schedule:
    """Checks the fields of a schedule: `steps`, `every` and `warmup` are counts, all others are numbers."""

    def __post_init__(self) -> None:
        where = f"schedules.{type(self).__name__}"
        for field in fields(self):  # type: ignore[arg-type]  # of the subclasses, which are dataclasses
            name, value = field.name, getattr(self, field.name)
            if name in ("steps", "every", "warmup"):
                value = check_size(where, name, value, least=0 if name == "warmup" else 1)
            elif name == "warmup_fraction":
                value = check_number(where, name, value, 0.0, 1.0)
            elif name != "schedule":
                value = check_number(where, name, value)
            object.__setattr__(self, name, value)

    def _step(self, step: Any) -> int:
        return check_size(f"schedules.{type(self).__name__}", "step", step, least=0)


@dataclass(frozen=True)
class constant(_Schedule):  # noqa: N801 (called like a function)
    """lr at every step.

    >>> constant(0.5)(1000)
    0.5
    """

    lr: float

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        self._step(step)
        return self.lr


@dataclass(frozen=True)
class step_decay(_Schedule):  # noqa: N801 (called like a function)
    """lr factor^floor(step / every). PyTorch's StepLR.

    >>> schedule = step_decay(lr=1.0, every=10, factor=0.5)
    >>> schedule(9), schedule(10), schedule(20)
    (1.0, 0.5, 0.25)
    """

    lr: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * _power(self.factor, self._step(step) // self.every)


@dataclass(frozen=True)
class exponential(_Schedule):  # noqa: N801 (called like a function)
    """lr factor^step. PyTorch's ExponentialLR.

    >>> exponential(lr=1.0, factor=0.5)(3)
    0.125
    """

    lr: float
    factor: float

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * _power(self.factor, self._step(step))


@dataclass(frozen=True)
class linear(_Schedule):  # noqa: N801 (called like a function)
    """From lr at step 0 in a straight line to `final` at step `steps` and after it. PyTorch's LinearLR.

    >>> schedule = linear(lr=1.0, steps=4)
    >>> [schedule(step) for step in (0, 1, 4, 5)]
    [1.0, 0.75, 0.0, 0.0]
    """

    lr: float
    steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        part = min(self._step(step), self.steps) / self.steps
        return (1 - part) * self.lr + part * self.final


@dataclass(frozen=True)
class cosine(_Schedule):  # noqa: N801 (called like a function)
    """A rise in a straight line to lr, then half a cosine wave down to `final` at step `steps` and after it.

        step < warmup:   lr (step + 1) / warmup
        after it:        final + (lr - final) (1 + cos(pi (step - warmup) / (steps - warmup))) / 2

    Without warm-up it is PyTorch's CosineAnnealingLR. Source: Loshchilov & Hutter 2017.

    >>> schedule = cosine(lr=1.0, steps=12, warmup=4)
    >>> [round(schedule(step), 3) for step in (0, 3, 4, 8, 12)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """

    lr: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup > self.steps:
            raise ValueError(f"schedules.cosine: warmup has value {self.warmup}, expected at most steps, {self.steps}")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        step = self._step(step)
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step >= self.steps:
            return self.final
        return _half_wave(self.lr, self.final, (step - self.warmup) / (self.steps - self.warmup))


@dataclass(frozen=True)
class one_cycle(_Schedule):  # noqa: N801 (called like a function)
    """Half a cosine wave up from lr / start_divisor to lr, then one down to lr / start_divisor / final_divisor.

    The peak is at step warmup_fraction * steps - 1, the end at step steps - 1 and after it. PyTorch's OneCycleLR calls
    these max_lr, total_steps, pct_start, div_factor and final_div_factor. Source: Smith & Topin 2019.

    >>> schedule = one_cycle(lr=1.0, steps=10)
    >>> [round(schedule(step), 3) for step in (0, 2, 9)]
    [0.04, 1.0, 0.0]
    """

    lr: float
    steps: int
    warmup_fraction: float = 0.3
    start_divisor: float = 25.0
    final_divisor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start_divisor", "final_divisor"):
            if getattr(self, name) == 0:
                raise ValueError(f"schedules.one_cycle: {name} has value 0, expected a positive number")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        step, end = self._step(step), self.steps - 1
        peak = max(self.warmup_fraction * self.steps - 1, 0.0)
        start = self.lr / self.start_divisor
        if step < peak:
            return _half_wave(start, self.lr, step / peak)
        if step >= end:
            return start / self.final_divisor
        return _half_wave(self.lr, start / self.final_divisor, (step - peak) / (end - peak))


@dataclass(frozen=True)
class warm_up(_Schedule):  # noqa: N801 (called like a function)
    """A rise in a straight line over the first `steps` steps, then another schedule, which starts at its step 0.

        step < steps:   schedule(0) (step + 1) / steps
        after it:       schedule(step - steps)

    >>> schedule = warm_up(exponential(lr=1.0, factor=0.5), steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.5]
    """

    schedule: Callable[[int], float]
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.schedule):
            has = f"schedule has type {type(self.schedule).__name__}"
            raise TypeError(f"schedules.warm_up: {has}, expected a function such as schedules.constant(1e-3)")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        step = self._step(step)
        if step < self.steps:
            return self.schedule(0) * (step + 1) / self.steps
        return self.schedule(step - self.steps)


def _power(factor: float, count: int) -> float:
    """factor^count, infinity beyond the range of float, which an optimizer then refuses by name."""
    try:
        return factor**count
    except OverflowError:
        return math.inf


def _half_wave(first: float, last: float, part: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * part)) / 2
