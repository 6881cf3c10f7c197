# SPDX-License-Identifier: Apache-2.0
"""The time of recurrent layers with each precision of products: `python -m benchmarks.precision`, three minutes.

The three layers of a case run in turn in one process, on one thread. Inference is a call, training is a forward and a
backward call after a change of the weights, which are then packed again. Printed is the least time of all rounds, that
of the processor, which other programs disturb less than the clock, and how many times as fast as "highest" it is, as a
Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import bptt
from benchmarks.machine import describe

PRECISIONS = ("highest", "high", "medium")
CELLS: dict[str, Any] = {"LSTM": bptt.LSTM, "GRU": bptt.GRU, "RNN": bptt.RNN}
STEPS = 64


def calls(layer: Any, x: Any, dy: Any, training: bool) -> Callable[[], object]:
    """One call of a case."""
    if not training:
        return lambda: layer(x)
    grads = layer.params.zeros_like()

    def train() -> None:
        layer.params.update(lambda buffer: None)  # they count as changed, as after an optimizer's step
        _, _, tape = layer.forward(x)
        layer.backward(tape, dy, None, grads)

    return train


def measure(cell: str, size: int, batch: int, training: bool, budget_s: float) -> list[float]:
    """The least milliseconds of each precision."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, STEPS, batch, size)).astype(np.float32)
    sides = [calls(CELLS[cell](size, size, seed=0, precision=precision), x, dy, training) for precision in PRECISIONS]
    for side in sides:
        side()
    best = [float("inf")] * len(sides)
    stop = time.perf_counter() + budget_s
    while time.perf_counter() < stop or float("inf") in best:
        for k, side in enumerate(sides):
            start = time.thread_time()
            side()
            best[k] = min(best[k], time.thread_time() - start)
    return [1e3 * each for each in best]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=[*CELLS], choices=[*CELLS])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 512], help="I = H")
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row of the table")
    args = parser.parse_args(arguments)
    bptt.set_num_threads(1)
    config = bptt.config()
    products = ", ".join(f"{each} {config[f'{each}_products']}" for each in PRECISIONS[1:])
    print(
        f"{describe()['processor']}; {products}; level {config['level']}, {config['compiler']}; 1 thread, T = {STEPS}\n"
    )
    print("| | I = H | B | highest, ms | high, ms | medium, ms | high | medium |\n|---|---|---|---|---|---|---|---|")
    for cell in args.cells:
        for training in (False, True):
            for size in args.sizes:
                for batch in args.batches:
                    ms = measure(cell, size, batch, training, args.seconds)
                    row = [f"{cell} {'training' if training else 'inference'}", str(size), str(batch)]
                    row += [f"{each:.2f}" for each in ms] + [f"{ms[0] / each:.2f}x" for each in ms[1:]]
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
