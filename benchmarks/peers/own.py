# SPDX-License-Identifier: Apache-2.0
"""bptt under other conditions, in the place of a peer: one thread, float32, precision "highest", a shared machine.

The ratio peer / ours is then the gain from threads, the speed of float64 against float32, the gain of a precision, the
cost of a busy core.
"""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import bptt
from benchmarks.cases import Case
from benchmarks.peers import ours
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Array, Problem

SHARED_SHAPES = {(32, 100, 128, 128), (1, 100, 512, 512)}


class Wrapped(Task):
    """Another task, under a condition that holds from `begin` to `end`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.call, self.results, self.prepare = task.call, task.results, task.prepare  # type: ignore[method-assign]

    def call(self) -> None:
        """Replaced by the wrapped task's."""

    def results(self) -> dict[str, Array]:
        """Replaced by the wrapped task's."""
        return {}


class OneThreadTask(Wrapped):
    def begin(self) -> None:
        self._threads = bptt.get_num_threads()
        bptt.set_num_threads(1)

    def end(self) -> None:
        bptt.set_num_threads(self._threads)


class BusyTask(Wrapped):
    """While another process, pinned to one of our cores, computes."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._other.pid, {max(os.sched_getaffinity(0))})
        self.end()

    def begin(self) -> None:
        self._other.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._other.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self._other.kill()
        self._other.wait()


class BusyOneThreadTask(BusyTask):
    def begin(self) -> None:
        super().begin()
        self._threads = bptt.get_num_threads()
        bptt.set_num_threads(1)

    def end(self) -> None:
        super().end()
        if hasattr(self, "_threads"):
            bptt.set_num_threads(self._threads)


class OwnPeer(Peer):
    """Whatever arithmetic a case has."""

    arithmetic = ""


class OneThread(OwnPeer):
    """All threads against one, where a step is long enough to divide."""

    def refuses(self, case: Case, threads: int) -> str:
        if threads < 2:
            return "needs two threads"
        return "" if case.group == "table" and case.regime in ("compute", "bandwidth") else "is for long steps only"

    def make(self, problem: Problem) -> Task:
        return OneThreadTask(ours.make(problem))


class Busy(OwnPeer):
    """A quiet machine against one with a busy core."""

    task: type[Wrapped] = BusyTask

    def refuses(self, case: Case, threads: int) -> str:
        if threads < 2 or not hasattr(signal, "SIGSTOP"):
            return "needs two threads and a system that can stop a process"
        chosen = case.cell == "lstm" and (case.B, case.T, case.I, case.H) in SHARED_SHAPES
        return "" if chosen and case.group == "table" else "is for a few cases only"

    def make(self, problem: Problem) -> Task:
        return self.task(ours.make(problem))


class BusyOneThread(Busy):
    """A quiet machine with all threads against one thread on a machine with a busy core."""

    task = BusyOneThreadTask


class Highest(OwnPeer):
    """Another precision against "highest"."""

    def refuses(self, case: Case, threads: int) -> str:
        return "" if case.group == "precision" else "is for other precisions only"

    def make(self, problem: Problem) -> Task:
        return ours.make(Problem(replace(problem.case, precision="highest")))


class Float32(OwnPeer):
    """float64 against float32."""

    def refuses(self, case: Case, threads: int) -> str:
        return "" if case.dtype == "float64" else "is for float64 only"

    def make(self, problem: Problem) -> Task:
        return ours.make(Problem(replace(problem.case, dtype="float32")))
