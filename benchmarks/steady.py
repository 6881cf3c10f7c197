# SPDX-License-Identifier: Apache-2.0
"""Whether each processor is a whole core at the moment. Two processors of a virtual machine may for seconds be two
halves of one core, or one of them may stand still, without any counter that shows it.
"""

import time

import numpy as np

import bptt

ENOUGH = 0.8  # of the gain that so many cores should bring
PAUSE_S, PATIENCE_S = 0.2, 4.0


class Cores:
    """Products of ours on one thread and on all, which share nothing: the gain shows how many cores there are."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        bptt.set_num_threads(threads)
        self._linear = bptt.Linear(256, 256, init="zeros")
        self._x = np.zeros((2048, 256), np.float32)

    def wait(self) -> float:
        """Wait until they are whole, at most PATIENCE_S; return the seconds waited."""
        start = time.monotonic()
        while self._threads > 1 and not self._whole() and time.monotonic() - start < PATIENCE_S:
            time.sleep(PAUSE_S)
        return time.monotonic() - start

    def _whole(self) -> bool:
        one, all_ = self._best_s(1), self._best_s(self._threads)
        return one / all_ > ENOUGH * self._threads

    def _best_s(self, threads: int) -> float:
        bptt.set_num_threads(threads)
        best = float("inf")
        for _ in range(3):
            t0 = time.perf_counter()
            self._linear(self._x)
            best = min(best, time.perf_counter() - t0)
        bptt.set_num_threads(self._threads)
        return best
