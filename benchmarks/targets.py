# SPDX-License-Identifier: Apache-2.0
"""What must be reached, in one table; and what of it a run has reached. Nothing is measured here."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import by_name
from benchmarks.peers import CONTEXT
from benchmarks.results import Results, geometric_mean

TRAINERS = ("torch", "torch-compiled", "jax")
INFERENCE = ("torch", "torch-compiled", "jax", "onnxruntime", "openvino")
Items = list[tuple[str, float]]  # what (case, threads, peer), value


@dataclass(frozen=True)
class Target:
    """A bound on every item, or on their geometric mean."""

    what: str
    bound: float
    items: Callable[[Results], Items]
    at_most: bool = False
    mean: bool = False
    unit: str = "x"

    def reached(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True)
class Verdict:
    """A target and a run: `value` is the worst item or the mean, None where nothing was measured."""

    target: Target
    value: float | None
    count: int
    misses: Items


def judge(results: Results) -> list[Verdict]:
    """Every target, in the order of the table."""
    verdicts = []
    for target in TARGETS:
        items = target.items(results)
        if not items:
            verdicts.append(Verdict(target, None, 0, []))
            continue
        values = [value for _, value in items]
        if target.mean:
            value, misses = geometric_mean(values), []
        else:
            value = max(values) if target.at_most else min(values)
            misses = sorted((i for i in items if not target.reached(i[1])), key=lambda i: i[1], reverse=target.at_most)
        verdicts.append(Verdict(target, value, len(items), misses))
    return verdicts


def _label(name: str, threads: int, peer: str = "") -> str:
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}{', ' if peer else ''}{peer}"


def against(mode: str, peers: tuple[str, ...]) -> Callable[[Results], Items]:
    """Ratios to the best of some peers, over the float32 shapes."""
    assert not CONTEXT & set(peers)

    def items(results: Results) -> Items:
        table, found = by_name(), []
        for ours in results.ours:
            case = table[ours.case]
            best = results.best(ours.case, ours.threads, peers)
            if case.mode == mode and case.group in ("table", "grid") and best:
                found.append((_label(ours.case, ours.threads, best.peer), best.ratio))
        return found

    return items


def fraction(regime: str) -> Callable[[Results], Items]:
    """Fractions of the machine's limit in one regime."""

    def items(results: Results) -> Items:
        table = by_name()
        return [
            (_label(o.case, o.threads), o.fraction)
            for o in results.ours
            if table[o.case].regime == regime and o.fraction is not None
        ]

    return items


def beside(prefix: str, peer: str) -> Callable[[Results], Items]:
    """Ratios peer / ours of the cases whose names start so."""

    def items(results: Results) -> Items:
        pairs = [p for p in results.pairs if p.peer == peer and p.case.startswith(prefix)]
        return [(_label(p.case, p.threads, peer), p.ratio) for p in pairs]

    return items


def busy_against_one_thread(results: Results) -> Items:
    """All threads beside a busy core over one thread beside it."""
    one = {(p.case, p.threads): p.ratio for p in results.pairs if p.peer == "own-busy-one-thread"}
    return [
        (_label(p.case, p.threads), p.ratio / one[p.case, p.threads])
        for p in results.pairs
        if p.peer == "own-busy" and (p.case, p.threads) in one
    ]


def stream_us(results: Results) -> Items:
    """Microseconds of one streaming step."""
    return [(_label(o.case, o.threads), o.time_s[1] * 1e6) for o in results.ours if o.case.startswith("lstm-stream")]


def memory(results: Results) -> Items:
    """Our peak over PyTorch's."""
    found = results.memory_bytes
    return [("LSTM B=64 T=128 I=128 H=256", found["ours"] / found["torch"])] if {"ours", "torch"} <= set(found) else []


def sweep(results: Results) -> Items:
    """The largest step between neighbouring sizes, of each table of a sweep that leaves none out."""
    if results.sweep.get("H", [])[:2] != [1, 2]:
        return []
    return [(name, table["worst"]) for name, table in results.sweep.get("tables", {}).items()]


TARGETS = [
    Target("training, every case, against the best peer", 1.25, against("train", TRAINERS)),
    Target("training, geometric mean, against the best peer", 3.5, against("train", TRAINERS), mean=True),
    Target("training, geometric mean, against PyTorch", 6, against("train", ("torch",)), mean=True),
    Target("inference, every case, against the best peer", 1.15, against("infer", INFERENCE)),
    Target("inference, geometric mean, against the best peer", 2, against("infer", INFERENCE), mean=True),
    Target("fraction of the limit, compute-bound (B >= 32, H >= 128)", 0.75, fraction("compute"), unit=""),
    Target("fraction of the limit, bandwidth-bound (B = 1, H >= 512)", 0.75, fraction("bandwidth"), unit=""),
    Target("fraction of the limit, latency-bound (B = 1, H <= 64)", 0.5, fraction("latency"), unit=""),
    Target("one streaming step, LSTM B = 1, H = 32", 2, stream_us, at_most=True, unit=" us"),
    Target("the same, against ONNX Runtime's call", 10, beside("lstm-stream", "onnxruntime")),
    Target("a whole training step, LSTM I=1 H=25 T=24 B=32, against PyTorch eager", 8, beside("lstm-step", "torch")),
    Target("the same, GRU I=16 H=64 T=16 B=4", 20, beside("gru-step", "torch")),
    Target("all threads against one, compute- and bandwidth-bound", 1.75, beside("", "own-one-thread")),
    Target("all threads, one core busy with another process, over quiet", 2.3, beside("", "own-busy"), at_most=True),
    Target("the same over one thread there", 1.15, busy_against_one_thread, at_most=True),
    Target("peak memory of a training step, over PyTorch's", 0.6, memory, at_most=True),
    Target("float64 training against our float32", 0.45, beside("lstm-train", "own-float32")),
    Target("sweep of sizes: time per rounded flop, over a neighbour's", 1.6, sweep, at_most=True),
]
