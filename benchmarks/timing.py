# SPDX-License-Identifier: Apache-2.0
"""Two tasks timed in turn, A B A B, in one process. Where the numbers go is not known here."""

import gc
import time
from dataclasses import dataclass, field

from benchmarks.peers.base import Task

SAMPLE_S = 0.5e-3  # a sample is at least so long: the mean of as many calls as that takes
MAX_CALLS = 500
WARM_S = 20e-3  # a call shorter than this is made once, untimed, before each sample: caches as in a loop of its own
SLOW_S = 0.1  # a call longer than this is not repeated to find out how long it takes
SETTLE_S = 60e-3  # OpenBLAS's workers spin for about 30 ms after a call, libgomp's for 10 to 20
PATIENCE_S = 10.0  # after this, one round is enough: a machine that is shared can make a call a hundred times longer


@dataclass
class Rounds:
    """Seconds per call of ours and the peer, one pair for each round."""

    ours_s: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)


def alternate(
    ours: Task, peer: Task, call_s: tuple[float, float], budget_s: float, least: int, most: int, threads: int
) -> Rounds:
    """Rounds until `budget_s` is spent, at least `least` and at most `most`; what warms up is not in them.

    `call_s`: the seconds that a call of each took once.
    """
    pair = [(task, *_size(task, seconds)) for task, seconds in zip((ours, peer), call_s, strict=True)]
    rounds = Rounds()
    start = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while _goes_on(len(rounds.ours_s), time.perf_counter() - start, budget_s, least, most):
            times = [_sample(task, count, warm, threads) for task, count, warm in pair]
            rounds.ours_s.append(times[0])
            rounds.peer_s.append(times[1])
    finally:
        gc.enable()
    return rounds


def _goes_on(done: int, spent_s: float, budget_s: float, least: int, most: int) -> bool:
    if done < least:
        return done == 0 or spent_s < PATIENCE_S
    return done < most and spent_s < budget_s


def timed(task: Task, calls: int) -> float:
    """Seconds of a call, the mean of `calls`, made as the task wants it."""
    task.begin()
    seconds = _calls(task, calls) / calls
    task.end()
    return seconds


def _size(task: Task, call_s: float) -> tuple[int, bool]:
    """How many calls make a sample, and whether it is preceded by an untimed one; found by calling."""
    if call_s < SLOW_S:
        call_s = min(timed(task, 1) for _ in range(3))
    return max(1, min(MAX_CALLS, round(SAMPLE_S / max(call_s, 1e-9)))), call_s < WARM_S


def _sample(task: Task, count: int, warm: bool, threads: int) -> float:
    task.begin()
    if threads > 1:
        settle()
    if warm:
        _calls(task, 1)
    seconds = _calls(task, count) / count
    task.end()
    return seconds


def _calls(task: Task, count: int) -> float:
    """Seconds of `count` calls; what a task prepares for each is not in them."""
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


def settle() -> None:
    """Wait until no thread of this process spins any more: the other side's idle workers would take our cores."""
    end = time.perf_counter() + SETTLE_S
    while time.perf_counter() < end:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(0.5e-3)
        if time.process_time() - busy < 0.3 * (time.perf_counter() - wall):
            return
