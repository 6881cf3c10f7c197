# SPDX-License-Identifier: Apache-2.0
"""The cost of each feature: the time of forward and full backward over that of the plain cell of the same size.

`python -m benchmarks.features` measures all of them in one run, plain and feature alternating, and writes the ratios
into the last columns of the table in docs/performance.md, whose rows are named like `FEATURES`. The plain cell has one
thread; features that use both cores have two where there are two. It takes two minutes.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import bptt

CELLS: dict[str, Callable[..., Any]] = {"LSTM": bptt.LSTM, "GRU": bptt.GRU, "RNN": bptt.RNN}
SIZES = ((32, 100, 128), (8, 100, 64), (1, 100, 64))  # B, T, I = H
ROUNDS = 15
TABLE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


@dataclass(frozen=True)
class Feature:
    """Options of a layer and of a call; `against`: options of the plain layer; `cells`: those that have the feature."""

    layer: dict[str, Any] = field(default_factory=dict)
    call: Callable[[np.random.Generator, int, int], dict[str, Any]] = lambda rng, T, B: {}
    against: dict[str, Any] = field(default_factory=dict)
    cells: tuple[str, ...] = ("LSTM", "GRU", "RNN")
    threads: int = 1


LSTM_ONLY, GRU_ONLY, GATED = ("LSTM",), ("GRU",), ("LSTM", "GRU")
FEATURES = {
    "several layers": Feature({"num_layers": 2}),
    "layers on two cores": Feature({"num_layers": 2}, against={"num_layers": 2}, threads=2),
    "both directions": Feature({"bidirectional": True}, threads=2),
    "dropout between layers": Feature({"num_layers": 2, "dropout": 0.2}, against={"num_layers": 2}),
    "lengths": Feature(call=lambda rng, T, B: {"lengths": rng.integers(1, T + 1, B)}),
    "resets": Feature(call=lambda rng, T, B: {"resets": rng.random((T, B)) < 0.02}),
    "learnt initial state": Feature({"learn_initial_state": True}),
    "peephole": Feature({"peephole": True}, cells=LSTM_ONLY),
    "coupled gates": Feature({"coupled": True}, cells=LSTM_ONLY),
    "projection": Feature({"proj_size": 32}, cells=LSTM_ONLY),
    "reset before the product": Feature({"reset_after": False}, cells=GRU_ONLY),
    "layer normalisation": Feature({"layer_norm": True}, cells=GATED),
    "recurrent dropout": Feature({"recurrent_dropout": 0.2}),
    "zoneout": Feature({"zoneout": 0.1}),
    "clip_state": Feature({"clip_state": 5.0}),
    "clip_grad_per_step": Feature({"clip_grad_per_step": 1.0}),
    "checkpoint": Feature({"checkpoint": "sqrt"}),
}


def step(cell: str, size: tuple[int, int, int], layer: dict[str, Any], call: dict[str, Any]) -> Callable[[], float]:
    """A function that runs forward and backward once and returns its seconds."""
    B, T, H = size
    x = np.random.default_rng(0).standard_normal((T, B, H)).astype(np.float32)
    made = CELLS[cell](H, H, seed=0, **layer)
    grads = made.params.zeros_like()
    dy = np.ones_like(made(x, **call)[0])

    def run() -> float:
        start = time.perf_counter()
        _, _, tape = made.forward(x, **call)
        made.backward(tape, dy, grads=grads)
        return time.perf_counter() - start

    return run


def ratio(cell: str, size: tuple[int, int, int], feature: Feature) -> float:
    """Time with the feature over time without, medians of alternating rounds."""
    B, T, _ = size
    call = feature.call(np.random.default_rng(1), T, B)
    plain, other = step(cell, size, feature.against, {}), step(cell, size, feature.layer, call)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 2):
        bptt.set_num_threads(1)
        times[0].append(min(plain() for _ in range(3)))
        bptt.set_num_threads(min(feature.threads, len(os.sched_getaffinity(0))))
        times[1].append(min(other() for _ in range(3)))
    return statistics.median(times[1][2:]) / statistics.median(times[0][2:])


def cells_of(line: str) -> list[str]:
    """The columns of a row of a Markdown table."""
    return [part.strip() for part in line.strip().strip("|").split("|")]


def main() -> int:
    """Measure and rewrite the table's last columns."""
    measured: dict[str, list[str]] = {}
    for name, feature in FEATURES.items():
        measured[name] = []
        for size in SIZES:
            values = [f"{ratio(cell, size, feature):.2f}" if cell in feature.cells else "-" for cell in CELLS]
            measured[name].append(" ".join(values))
        print(f"{name:26} " + "   ".join(measured[name]), flush=True)
    lines = TABLE.read_text("utf-8").splitlines()
    for k, line in enumerate(lines):
        parts = cells_of(line)
        if line.startswith("|") and parts[0] in measured:
            lines[k] = "| " + " | ".join(parts[: -len(SIZES)] + measured.pop(parts[0])) + " |"
    TABLE.write_text("\n".join(lines) + "\n", "utf-8")
    if measured:
        print(f"docs/performance.md has no row for {', '.join(measured)}", file=sys.stderr)
    return bool(measured)


if __name__ == "__main__":
    sys.exit(main())
