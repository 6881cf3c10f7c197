# SPDX-License-Identifier: Apache-2.0
"""Our side in a second process: while it is timed, the peer's process is stopped.

Thread pools wait for their next work by spinning, some for longer than any pause that a benchmark would make (ONNX
Runtime's for tens of milliseconds): in one process, the peer's idle threads would run while ours is timed. The two
processes have the same cores and take turns; ours is not stopped, since its threads sleep 50 us after their last work.
Messages are pickles over stdin and stdout: (method, arguments) -> ("ok", result) or ("error", text).
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the peer's process imports this file before it is pinned, so that it loads no library
    from benchmarks.problem import Array

STOP_S = 0.3e-3  # until all threads of a process have stopped


class RemoteError(RuntimeError):
    """An exception of our side."""


class Remote:
    """Our side of one case after the other; a `Side` for timing.py."""

    def __init__(self, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.remote", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def make(self, case: str) -> None:
        """Make the task of a case and drop the last one."""
        self._call("make", case)

    def wait(self) -> float:
        """Wait until each processor is a whole core; return the seconds waited."""
        return float(self._call("wait"))

    def timed(self, calls: int) -> float:
        return float(self._call("timed", calls))

    def sample(self, count: int, warm: bool) -> float:
        return float(self._call("sample", count, warm))

    def results(self) -> dict[str, Array]:
        """The results of the last call."""
        results: dict[str, Array] = self._call("results")
        return results

    def close(self) -> None:
        """End the process; its time then counts as ours."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _call(self, method: str, *arguments: Any) -> Any:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        pickle.dump((method, arguments), to)
        to.flush()
        kind, value = pickle.load(back)
        if kind == "error":
            raise RemoteError(value)
        return value


class Ours:
    """The other end."""

    def __init__(self, threads: int) -> None:
        from benchmarks.steady import Cores

        self._cores = Cores(threads)

    def wait(self) -> float:
        with peer_stopped():
            return self._cores.wait()

    def make(self, name: str) -> None:
        from benchmarks import cases, timing
        from benchmarks.peers import ours
        from benchmarks.problem import Problem

        self._side = timing.Local(ours.make(Problem(cases.by_name()[name])))

    def timed(self, calls: int) -> float:
        with peer_stopped():
            return self._side.timed(calls)

    def sample(self, count: int, warm: bool) -> float:
        with peer_stopped():
            return self._side.sample(count, warm)

    def results(self) -> dict[str, Array]:
        return self._side.task.results()


@contextmanager
def peer_stopped() -> Iterator[None]:
    """Stop the process that started this one, where the system can."""
    if not hasattr(signal, "SIGSTOP"):
        yield
        return
    os.kill(os.getppid(), signal.SIGSTOP)
    try:
        time.sleep(STOP_S)
        yield
    finally:
        os.kill(os.getppid(), signal.SIGCONT)


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to stderr
    ours = Ours(int(sys.argv[1]))
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("ok", getattr(ours, method)(*arguments))
        except Exception as error:
            answer = ("error", f"{type(error).__name__}: {error}")
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    main()
