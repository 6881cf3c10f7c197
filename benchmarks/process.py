# SPDX-License-Identifier: Apache-2.0
"""Starts a worker, sends it a job and reads its events; starts it again after a case that killed it."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import used_s
from benchmarks.worker import environment

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 60.0  # beyond the job's `until`, before a worker counts as hung
RESTARTS = 5


@dataclass(frozen=True)
class Job:
    """The job that worker.py reads."""

    peer: str
    threads: int
    cases: list[str]
    budget_s: float
    least: int
    most: int
    until: float


def events(job: Job, cache: str) -> Iterator[dict[str, Any]]:
    """The worker's events; a dead process becomes the event `failed` of the case it was at."""
    for _ in range(RESTARTS):
        done: list[str] = []
        at = ""
        last = ""
        for event in _one_process(job, cache):
            if event["event"] == "exit":
                last = event["why"]
                continue
            if "case" in event:
                at = event["case"] if event["event"] == "begin" else ""
                if event["event"] != "begin":
                    done.append(event["case"])
            yield event
        if not last:
            return
        yield {"event": "failed", "case": at, "why": last}
        job = replace(job, cases=[name for name in job.cases if name not in {*done, at}])
        if not at or not job.cases:
            return


def _one_process(job: Job, cache: str) -> Iterator[dict[str, Any]]:
    """The events of one process, then `exit` with a reason if it did not end well."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment(job.threads, cache)},
        )
        watchdog = threading.Timer(max(1.0, job.until - time.time()) + GRACE_S, worker.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            with worker.stdin:
                json.dump(asdict(job), worker.stdin)
            for line in worker.stdout:
                yield json.loads(line)
            code = worker.wait()
        finally:
            watchdog.cancel()
            worker.kill()
            worker.wait()
        if code:
            errors.seek(0)
            lines = [line.strip() for line in errors.read().splitlines() if line.strip()] or ["no message"]
            yield {"event": "exit", "why": f"process ended with code {code}: {lines[-1][:200]}"}


def script(module: str, *arguments: str, threads: int = 1, timeout_s: float = 600) -> str:
    """The output of another module of this package, run in a new process."""
    with tempfile.TemporaryDirectory() as cache:
        result = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment(threads, cache)},
            timeout=timeout_s,
            check=False,
        )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{module} {' '.join(arguments)}: {lines[-1][:200]}")
    return result.stdout


class Neighbours:
    """The number of cores that other programs kept busy during the run."""

    def __init__(self) -> None:
        self._shares: list[tuple[float, float]] = []  # seconds, cores
        self._begin()

    def _begin(self) -> None:
        self._wall, self._all, self._own = time.monotonic(), used_s(), _own_s()

    def mark(self) -> float | None:
        """Cores that others used since the last mark, once all our processes of that time have ended."""
        seconds, everyone, own = time.monotonic() - self._wall, used_s(), _own_s()
        share = None
        if everyone is not None and self._all is not None and seconds > 1:
            share = max(0.0, (everyone - self._all - (own - self._own)) / seconds)
            self._shares.append((seconds, share))
        self._begin()
        return share

    def mean(self) -> float | None:
        """Over all of the run, weighted by time."""
        total = sum(seconds for seconds, _ in self._shares)
        return round(sum(s * share for s, share in self._shares) / total, 3) if total else None


def _own_s() -> float:
    return sum(os.times()[:4])  # of this process and of those that it waited for
