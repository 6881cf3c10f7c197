# SPDX-License-Identifier: Apache-2.0
"""What a run found, in one table: means, and the worst case of each kind. Nothing is measured here."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import by_name
from benchmarks.peers import CONTEXT
from benchmarks.results import Results, geometric_mean

TRAINERS = ("torch", "torch-compiled", "jax")
INFERENCE = ("torch", "torch-compiled", "jax", "onnxruntime", "openvino")
Items = list[tuple[str, float]]  # what (case, threads, peer), value


@dataclass(frozen=True)
class Figure:
    """One line: `of` makes a number of the values of all items, such as their least."""

    what: str
    items: Callable[[Results], Items]
    of: Callable[[list[float]], float] = min
    unit: str = "x"


@dataclass(frozen=True)
class Found:
    """A figure of one run: None where nothing was measured, and the number of cases."""

    figure: Figure
    value: float | None
    count: int


def summarise(results: Results) -> list[Found]:
    """Every figure, in the order of the table."""
    found = []
    for figure in FIGURES:
        values = [value for _, value in figure.items(results)]
        found.append(Found(figure, figure.of(values) if values else None, len(values)))
    return found


def losses(results: Results) -> Items:
    """The cases of the tables in which the best peer was faster, the worst first."""
    ratios = against("train", TRAINERS)(results) + against("infer", INFERENCE)(results)
    return sorted((item for item in ratios if item[1] < 1), key=lambda item: item[1])


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


def of_peer(prefix: str, peer: str) -> Callable[[Results], Items]:
    """Ratios peer / ours of the cases whose names start with `prefix`."""

    def items(results: Results) -> Items:
        pairs = [p for p in results.pairs if p.peer == peer and p.case.startswith(prefix)]
        return [(_label(p.case, p.threads, peer), p.ratio) for p in pairs]

    return items


def busy_against_one_thread(results: Results) -> Items:
    """All threads over one thread, both while another process keeps a core busy."""
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


FIGURES = [
    Figure("training, against the best peer, least", against("train", TRAINERS)),
    Figure("training, against the best peer, geometric mean", against("train", TRAINERS), geometric_mean),
    Figure("training, against PyTorch, geometric mean", against("train", ("torch",)), geometric_mean),
    Figure("inference, against the best peer, least", against("infer", INFERENCE)),
    Figure("inference, against the best peer, geometric mean", against("infer", INFERENCE), geometric_mean),
    Figure("fraction of the limit, compute-bound (B >= 32, H >= 128), least", fraction("compute"), unit=""),
    Figure("fraction of the limit, bandwidth-bound (B = 1, H >= 512), least", fraction("bandwidth"), unit=""),
    Figure("fraction of the limit, latency-bound (B = 1, H <= 64), least", fraction("latency"), unit=""),
    Figure("one streaming step, LSTM B = 1, H = 32, most", stream_us, max, " us"),
    Figure("the same, against ONNX Runtime's call, least", of_peer("lstm-stream", "onnxruntime")),
    Figure(
        "a whole training step, LSTM I=1 H=25 T=24 B=32, against PyTorch eager, least", of_peer("lstm-step", "torch")
    ),
    Figure("the same, GRU I=16 H=64 T=16 B=4, least", of_peer("gru-step", "torch")),
    Figure("all threads against one, compute- and bandwidth-bound, least", of_peer("", "own-one-thread")),
    Figure("all threads, one core busy with another process, over quiet, most", of_peer("", "own-busy"), max),
    Figure("the same over one thread there, most", busy_against_one_thread, max),
    Figure("peak memory of a training step, over PyTorch's", memory, max),
    Figure("float64 training against our float32, least", of_peer("lstm-train", "own-float32")),
    Figure("sweep of sizes: time per rounded flop, over a neighbour's, most", sweep, max),
]
