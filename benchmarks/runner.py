# SPDX-License-Identifier: Apache-2.0
"""Runs everything: the machine first, then worker processes peer by peer, memory and sweep; merges their results.

A repeat is one process for each peer and number of threads. All pairs get their first repeat before any gets its
second, so that when time runs out all figures come from about as many processes.
"""

import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from benchmarks import machine, memory, process
from benchmarks.cases import Case, by_name
from benchmarks.limits import floor_s, from_probe
from benchmarks.results import Results, merge
from benchmarks.terminal import Screen

# Shares of the remaining time: the relative time of a peer's import, compilation and calls.
WEIGHTS = {
    "torch": 4.0, "jax": 4.0, "torch-compiled": 3.0, "torch-bfloat16": 2.0, "numpy": 1.5, "torch-int8": 0.5,
    "onnxruntime-int8": 0.5, "own-torch": 2.0,
}  # fmt: skip
ONCE = {"numpy", "torch-compiled", "keras"}  # in the first repeat only: for context, or slow to compile
SLOW_S = 0.4  # a pair of calls that takes longer is measured in the first SLOW_REPEATS only
SLOW_REPEATS = 3
BUSY_CORES = 0.1


@dataclass(frozen=True)
class Plan:
    """What to run, and for how long."""

    cases: list[Case]
    peers: list[str]
    threads: list[int]
    repeats: int
    budget_s: float
    limit_s: float
    quick: bool
    extras: bool  # memory and sweep
    least: int = 3
    most: int = 15


@dataclass
class Collected:
    """The results of the processes, by (case, peer, threads)."""

    rounds: dict[tuple[str, str, int], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # cases that ours does not know yet
    failed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def slow(self) -> set[tuple[str, str, int]]:
        """Which pairs of calls take longer than SLOW_S."""
        return {
            key
            for key, processes in self.rounds.items()
            if min(processes[0]["ours_s"]) + min(processes[0]["peer_s"]) > SLOW_S
        }


class Runner:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.found = Collected()
        self.memory_bytes: dict[str, int] = {}
        self.sweep: dict[str, Any] = {}
        self._began = time.time()
        processes = sum(
            len(plan.threads) for r in range(plan.repeats) for peer in plan.peers if r == 0 or peer not in ONCE
        )
        self._screen = Screen(processes * len(plan.cases))
        self._neighbours = process.Neighbours()
        self._table = by_name()

    def run(self) -> Results:
        """Run everything; Ctrl-C ends it early and keeps the results so far."""
        threads, level = max(self.plan.threads), _level()
        self._screen.note("measuring the machine ...")
        probes = [machine.probe(threads, level, self.plan.quick)]
        self._say_limits(probes[0])
        self._limits = {n: from_probe(probes[0], n) for n in self.plan.threads}
        self._neighbours.mark()
        self._screen.header()
        try:
            with tempfile.TemporaryDirectory(prefix="bptt-bench-") as cache:
                for repeat in range(self.plan.repeats):
                    self._repeat(repeat, cache)
                    if repeat == 0 and self.plan.extras:
                        self._extras()
            probes.append(machine.probe(threads, level, self.plan.quick))
        except KeyboardInterrupt:
            self._screen.note("interrupted: the report has what was measured until now")
        self._screen.close()
        return self._results(machine.merge(probes))

    def _left_s(self) -> float:
        return self._began + self.plan.limit_s - time.time()

    def _repeat(self, repeat: int, cache: str) -> None:
        slow = self.found.slow() if repeat >= SLOW_REPEATS else set()
        units = [(p, n) for n in self.plan.threads for p in self.plan.peers if p not in self.found.missing]
        units = [(p, n) for p, n in units if repeat == 0 or p not in ONCE]
        for k, (peer, threads) in enumerate(units):
            weights = [WEIGHTS.get(p, 1.0) for p, _ in units[k:]]
            share_s = max(0.0, self._left_s()) * weights[0] / sum(weights)
            if (repeat and share_s < 2) or peer in self.found.missing:
                continue
            cases = [c.name for c in self.plan.cases if (c.name, peer, threads) not in slow]
            job = process.Job(
                peer, threads, cases, self.plan.budget_s, self.plan.least, self.plan.most, time.time() + share_s
            )
            self._screen.progress(f"repeat {repeat + 1} of {self.plan.repeats}, {peer}, {threads} threads: starting")
            for event in process.events(job, cache):
                self._take(event, job, repeat)
            share = self._neighbours.mark()
            if repeat == 0 and share is not None and share > BUSY_CORES:
                self._screen.note(f"  (other programs used {share:.1f} cores meanwhile)")

    def _take(self, event: dict[str, Any], job: process.Job, repeat: int) -> None:
        """One event of a worker into `found` and onto the screen."""
        kind, name = event["event"], event.get("case", "")
        where = f"{name}, {job.peer}, {job.threads} threads"
        if kind == "hello":
            self.found.versions.update(event["versions"])
            self.found.config = event["config"]
            if event["note"]:
                self.found.notes[job.peer] = event["note"]
        elif kind == "missing":
            self.found.missing[job.peer] = event["why"]
            self._screen.note(f"skipped: {job.peer} is not here ({event['why']})")
        elif kind == "begin":
            self._screen.progress(f"repeat {repeat + 1} of {self.plan.repeats}: {where}")
        elif kind == "rounds":
            self.found.rounds[name, job.peer, job.threads].append(event)
            if repeat == 0:
                case = self._table[name]
                pair = merge(case, job.peer, job.threads, [event])
                self._screen.row(pair, case.flops, floor_s(case, self._limits[job.threads]))
        elif kind == "failed":
            self.found.failed.append(f"{where}: {event['why']}")
            self._screen.note(f"FAILED: {where}: {event['why']}")
        elif kind == "late" and repeat == 0:
            self.found.late.append(where)
        elif kind == "impossible" and name not in self.found.refused:
            if event["why"] not in self.found.refused.values():
                self._screen.note(f"skipped: {name} and its like: {event['why']}")
            self.found.refused[name] = event["why"]
        if kind in ("rounds", "failed", "late", "refused", "impossible"):
            self._screen.progress(f"repeat {repeat + 1} of {self.plan.repeats}: {where}", done=1)

    def _extras(self) -> None:
        for library in memory.LIBRARIES:
            if library in self.found.missing:
                continue
            self._screen.progress(f"peak memory, {library}")
            try:
                self.memory_bytes[library] = int(process.script("memory", library))
            except (RuntimeError, ValueError, OSError) as error:
                self.found.failed.append(str(error))
        stride = 13 if self.plan.quick else 1
        self._screen.progress("sweep over H and B")
        try:
            self.sweep = json.loads(process.script("sweep", str(stride)))
        except (RuntimeError, ValueError, OSError) as error:
            self.found.failed.append(str(error))
        self._neighbours.mark()

    def _say_limits(self, probe: dict[str, Any]) -> None:
        peaks = ", ".join(f"{rate:.0f} GF/s on {n}" for n, rate in probe["peak_gflops"].items())
        reads = ", ".join(f"{kib} KiB {one:.0f}" for kib, one, _ in probe["read_gbs"][1::2])
        self._screen.note(f"peak: {peaks} core(s); round trip between cores {probe['round_trip_us']:.2f} us")
        self._screen.note(f"reads, GB/s of one core: {reads}\nby: {probe['how']}")

    def _results(self, probe: dict[str, Any]) -> Results:
        about = {
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "minutes": round((time.time() - self._began) / 60, 1),
            "quick": self.plan.quick,
            "machine": machine.describe(),
            "probe": probe,
            "threads": self.plan.threads,
            "bptt": self.found.config,
            "notes": self.found.notes,
            "versions": dict(sorted(self.found.versions.items())),
            "repeats": self.plan.repeats,
            "other_programs_cores": self._neighbours.mean(),
            "waited_s": round(sum(e["waited_s"] for events in self.found.rounds.values() for e in events), 1),
            "missing": self.found.missing,
            "not_possible": self.found.refused,
            "failed": self.found.failed,
            "out_of_time": self.found.late,
        }
        pairs = [merge(self._table[c], p, n, rounds) for (c, p, n), rounds in self.found.rounds.items()]
        order = {name: k for k, name in enumerate(self._table)}
        pairs.sort(key=lambda pair: (order[pair.case], pair.threads, self.plan.peers.index(pair.peer)))
        return Results(about, pairs, self.memory_bytes, self.sweep)


def _level() -> str:
    """The instruction-set level that bptt uses here: the machine is measured at the same."""
    import bptt

    return str(bptt.config()["level"])
