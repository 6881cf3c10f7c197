# SPDX-License-Identifier: Apache-2.0
"""The even step of a series of dates, its arithmetic and its name.

Even means the same number of months (so that months of 28 to 31 days are even), or else the same time. A row number,
such as 0, 1, 2, is a date too: its step is a number.
"""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

__all__ = ["Step", "step_of", "steps_between"]

DAY_S, WEEK_S = 86400, 7 * 86400
UNITS = ((WEEK_S, "week"), (DAY_S, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True)
class Step:
    """From one date to the next: `months`, or `seconds`, or, for numbers, `count`; the others are 0.

    `day`: of months, the day on which they begin; in a shorter month it is the last one, so that 31 is the month's end.

    >>> Step(months=3).name, Step(seconds=1800).name, Step(months=12).season, Step(months=3).season
    ('3 months', '30 minutes', 1, 4)
    >>> Step(months=1, day=31).after(datetime(2024, 4, 30), 1).day
    31
    """

    months: int = 0
    seconds: float = 0.0
    count: int = 0
    day: int = 0

    @property
    def unit(self) -> tuple[float, str]:
        """How many of which unit: (3, "month"), (30, "minute"), (1, "row")."""
        if self.months:
            return (self.months / 12, "year") if self.months % 12 == 0 else (self.months, "month")
        if self.seconds:
            size, name = next(((size, name) for size, name in UNITS if self.seconds % size == 0), UNITS[-1])
            return self.seconds / size, name
        return self.count, "row"

    @property
    def name(self) -> str:
        """Such as "1 month" or "30 minutes"."""
        return self.times(1)

    def times(self, n: int) -> str:
        """The length of n steps, such as "24 hours"."""
        size, unit = self.unit
        return f"{n * size:,g} {unit}{'s' * (n * size != 1)}"

    @property
    def season(self) -> int:
        """The steps of a day, a week or a year, whichever comes next above the step; 1 where there is none."""
        if self.months:
            return 12 // self.months if 12 % self.months == 0 else 1
        for cycle_s in (DAY_S, WEEK_S):
            if 0 < self.seconds <= cycle_s / 4 and cycle_s % self.seconds == 0:
                return int(cycle_s / self.seconds)
        return 52 if self.seconds == WEEK_S else 1

    def after(self, last: Any, n: int) -> Any:
        """The date n steps after one.

        Raises: OverflowError or ValueError beyond the year 9999.
        """
        if self.months:
            year, month = divmod(last.year * 12 + last.month - 1 + n * self.months, 12)
            days = calendar.monthrange(year, month + 1)[1]
            return last.replace(year=year, month=month + 1, day=min(self.day or last.day, days))
        return last + (timedelta(seconds=n * self.seconds) if self.seconds else n * self.count)


def step_of(values: Sequence[Any]) -> tuple[Step, int | None]:
    """The most frequent step of at least two dates, and the first row that is not one such step after its predecessor.

    That row is None where all steps are even and ascend.

    >>> step_of([3, 4, 5, 7])
    (Step(months=0, seconds=0.0, count=1, day=0), 3)
    """
    candidates = [_of_numbers(values)] if isinstance(values[0], int) else [_of_months(values), _of_times(values)]
    uneven = [[k for k in range(1, len(values)) if not _follows(step, values, k)] for step in candidates]
    best = min(range(len(candidates)), key=lambda k: len(uneven[k]))
    return candidates[best], next(iter(uneven[best]), None)


def steps_between(step: Step, first: Any, last: Any) -> int:
    """How many steps lead from one date to another; 0 where no whole number of steps, forward, does.

    >>> steps_between(Step(months=1, day=31), datetime(2024, 1, 31), datetime(2024, 4, 30))
    3
    """
    if step.months:
        n, rest = divmod((last.year - first.year) * 12 + last.month - first.month, step.months)
    elif step.seconds:
        n, rest = divmod((last - first).total_seconds(), step.seconds)
    else:
        n, rest = divmod(last - first, step.count) if step.count else (0, 0)
    return int(n) if n > 0 and not rest and step.after(first, int(n)) == last else 0


def _of_numbers(values: Sequence[int]) -> Step:
    return Step(count=_most_frequent(b - a for a, b in pairwise(values)))


def _of_months(values: Sequence[datetime]) -> Step:
    months = [value.year * 12 + value.month for value in values]
    ends = all(value.day == calendar.monthrange(value.year, value.month)[1] for value in values)
    day = 31 if ends else max(value.day for value in values)
    return Step(_most_frequent(b - a for a, b in pairwise(months)), day=day)


def _of_times(values: Sequence[datetime]) -> Step:
    return Step(seconds=_most_frequent((b - a).total_seconds() for a, b in pairwise(values)))


def _most_frequent(steps: Any) -> Any:
    """The most frequent step forward; 0 where there is none."""
    ((step, _),) = Counter(step for step in steps if step > 0).most_common(1) or [(0, 0)]
    return step


def _follows(step: Step, values: Sequence[Any], k: int) -> bool:
    """Whether row k is one step after row k - 1."""
    if not (step.months or step.seconds or step.count):
        return False
    try:
        return bool(values[k] == step.after(values[k - 1], 1))
    except (OverflowError, ValueError):
        return False
