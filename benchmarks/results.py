# SPDX-License-Identifier: Apache-2.0
"""The results of a run: rounds of all processes merged into medians, quartiles and ratios with intervals.

The ratio is the peer's time over ours, the median over rounds, each of which timed both. Its interval is a bootstrap
over processes and, within them, over rounds: 95 % of what other runs on this machine would have given.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.cases import Case, by_name
from benchmarks.limits import floor_s, from_probe
from benchmarks.peers import CONTEXT

RESAMPLES = 1000


@dataclass
class Pair:
    """Ours and one peer on a case with a number of threads. Times: first quartile, median, third."""

    case: str
    peer: str
    threads: int
    processes: int
    rounds: int
    ours_s: list[float]
    peer_s: list[float]
    ratio: float
    interval: list[float]
    parity: float


@dataclass
class Ours:
    """Our own figures of one case, over the rounds with all peers."""

    case: str
    threads: int
    time_s: list[float]
    flops: int
    floor_s: float | None

    @property
    def rate(self) -> float:
        """GF/s."""
        return self.flops / self.time_s[1] / 1e9

    @property
    def fraction(self) -> float | None:
        """Fraction of the machine's limit: floor / measured."""
        return None if self.floor_s is None else self.floor_s / self.time_s[1]


@dataclass
class Results:
    """All of a run; `about` is the machine, the versions and how it was run, as in the JSON."""

    about: dict[str, Any]
    pairs: list[Pair] = field(default_factory=list)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def by_case(self) -> dict[tuple[str, int], list[Pair]]:
        """The pairs of each case and number of threads, in the order of the table of cases. `pairs` is final then."""
        found: dict[tuple[str, int], list[Pair]] = {}
        for pair in self.pairs:
            found.setdefault((pair.case, pair.threads), []).append(pair)
        return found

    @cached_property
    def ours(self) -> list[Ours]:
        """One entry for each case and number of threads."""
        limits = {n: from_probe(self.about["probe"], n) for n in self.about["threads"]}
        table, found = by_name(), []
        for (name, threads), every in self.by_case.items():
            # Rounds with no competitor, or with ourselves on a busy machine, count only where there are no others.
            pairs = [p for p in every if p.peer not in CONTEXT and not p.peer.startswith("own-")] or every
            times = [float(np.median([p.ours_s[k] for p in pairs])) for k in range(3)]
            case = table[name]
            found.append(Ours(name, threads, times, case.flops, floor_s(case, limits[threads])))
        return found

    def best(self, name: str, threads: int, peers: Sequence[str]) -> Pair | None:
        """The fastest of these peers: the pair with the least ratio."""
        fitting = [p for p in self.by_case.get((name, threads), []) if p.peer in peers]
        return min(fitting, key=lambda p: p.ratio, default=None)

    def as_json(self) -> dict[str, Any]:
        """As it is written to the file."""
        return {
            **self.about,
            "pairs": [asdict(p) for p in self.pairs],
            "ours": [{**asdict(o), "gflops": round(o.rate, 3), "fraction": o.fraction} for o in self.ours],
            "memory_bytes": self.memory_bytes,
            "sweep": self.sweep,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Results":
        """Of what `as_json` made."""
        about = {k: v for k, v in data.items() if k not in ("pairs", "ours", "memory_bytes", "sweep")}
        return cls(about, [Pair(**p) for p in data["pairs"]], data["memory_bytes"], data["sweep"])


def merge(case: Case, peer: str, threads: int, processes: Sequence[dict[str, Any]]) -> Pair:
    """One pair out of the rounds of several processes, each {ours_s, peer_s, parity}."""
    ours = np.concatenate([p["ours_s"] for p in processes])
    theirs = np.concatenate([p["peer_s"] for p in processes])
    logs = [np.log(np.asarray(p["peer_s"]) / np.asarray(p["ours_s"])) for p in processes]
    return Pair(
        case.name,
        peer,
        threads,
        len(processes),
        len(ours),
        quartiles(ours),
        quartiles(theirs),
        _short(math.exp(float(np.median(np.concatenate(logs))))),
        interval(logs),
        max(p["parity"] for p in processes),
    )


def quartiles(values: Any) -> list[float]:
    """First quartile, median, third."""
    return [_short(float(v)) for v in np.quantile(values, [0.25, 0.5, 0.75])]


def interval(logs: Sequence[Any]) -> list[float]:
    """95 % of the resampled medians of paired log ratios, one array for each process."""
    random = np.random.default_rng(0)
    lengths = np.array([len(each) for each in logs])
    starts, flat = np.cumsum(lengths) - lengths, np.concatenate(logs)
    count = round(float(lengths.mean()))
    chosen = random.integers(0, len(logs), (RESAMPLES, len(logs), 1))
    within = (random.random((RESAMPLES, len(logs), count)) * lengths[chosen]).astype(int)
    medians = np.median(flat[starts[chosen] + within].reshape(RESAMPLES, -1), axis=1)
    return [_short(math.exp(float(v))) for v in np.quantile(medians, [0.025, 0.975])]


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(math.fsum(math.log(v) for v in values) / len(values))
