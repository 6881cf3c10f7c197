# SPDX-License-Identifier: Apache-2.0
"""Two sides timed in turn, A B A B. Knows neither where the numbers go nor in which process a side runs."""

import gc
import time
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.peers.base import Task

SAMPLE_S = 0.5e-3  # the least length of a sample, which is the mean of as many calls as fit
MAX_CALLS = 500
WARM_S = 20e-3  # a call shorter than this is made once, untimed, before each sample, to fill the caches
SLOW_S = 0.1  # a call longer than this is not repeated to measure its length
PATIENCE_S = 10.0  # after this, one round is enough: on a shared machine a call can take a hundred times longer


@dataclass
class Rounds:
    """Seconds per call of ours and the peer, one pair for each round."""

    ours_s: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)


class Side(Protocol):
    """One of the two."""

    def timed(self, calls: int) -> float:
        """Seconds of a call, the mean of `calls` calls as the task makes them."""

    def sample(self, count: int, warm: bool) -> float:
        """The same, after an untimed call where `warm`."""


class Local:
    """A task in this process."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def timed(self, calls: int) -> float:
        return self.sample(calls, False)

    def sample(self, count: int, warm: bool) -> float:
        self.task.begin()
        if warm:
            _calls(self.task, 1)
        gc.disable()
        seconds = _calls(self.task, count) / count
        gc.enable()
        self.task.end()
        return seconds


def alternate(ours: Side, peer: Side, call_s: tuple[float, float], budget_s: float, least: int, most: int) -> Rounds:
    """Rounds until `budget_s` is spent, at least `least` and at most `most`, without warm-up calls.

    `call_s`: the seconds that a call of each took once.
    """
    pair = [(side, *_size(side, seconds)) for side, seconds in zip((ours, peer), call_s, strict=True)]
    rounds = Rounds()
    start = time.perf_counter()
    gc.collect()
    while _goes_on(len(rounds.ours_s), time.perf_counter() - start, budget_s, least, most):
        times = [side.sample(count, warm) for side, count, warm in pair]
        rounds.ours_s.append(times[0])
        rounds.peer_s.append(times[1])
    return rounds


def _goes_on(done: int, spent_s: float, budget_s: float, least: int, most: int) -> bool:
    if done < least:
        return done == 0 or spent_s < PATIENCE_S
    return done < most and spent_s < budget_s


def _size(side: Side, call_s: float) -> tuple[int, bool]:
    """The number of calls of a sample, and whether an untimed call precedes it; found by calling."""
    if call_s < SLOW_S:
        call_s = min(side.timed(1) for _ in range(3))
    return max(1, min(MAX_CALLS, round(SAMPLE_S / max(call_s, 1e-9)))), call_s < WARM_S


def _calls(task: Task, count: int) -> float:
    """Seconds of `count` calls, without what a task prepares for each."""
    clock, call, prepare = time.perf_counter, task.call, task.prepare
    if prepare is None:
        t0 = clock()
        for _ in range(count):
            call()
        return clock() - t0
    total = 0.0
    for _ in range(count):
        prepare()
        t0 = clock()
        call()
        total += clock() - t0
    return total
