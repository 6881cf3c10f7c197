# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent layers with `bptt.torch` and without: `python -m benchmarks.torch_backend`, three minutes.

Both run in turn in one process, on one thread. Training is a forward and a backward call of a layer whose weights have
changed; inference is a call under no_grad. Printed is the least time of all rounds, that of the processor, which other
programs disturb less than the clock, as a Markdown table. `--threads 2` measures the clock instead, on two threads of
each side: on a quiet machine alone.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch

import bptt.torch
from benchmarks.machine import describe

LAYERS: dict[str, Any] = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}
# name: T, B, I, H, layers, directions
SHAPES: dict[str, tuple[int, int, int, int, int, bool]] = {
    "small": (100, 16, 32, 64, 1, False),
    "middle": (100, 32, 128, 256, 1, False),
    "deep": (50, 32, 64, 128, 2, True),
    "packed": (100, 32, 64, 128, 1, False),
    "step B=1 H=64": (1, 1, 64, 64, 1, False),
    "step B=8 H=64": (1, 8, 64, 64, 1, False),
    "step B=32 H=64": (1, 32, 64, 64, 1, False),
    "step B=1 H=256": (1, 1, 64, 256, 1, False),
    "step B=8 H=256": (1, 8, 64, 256, 1, False),
    "step B=32 H=256": (1, 32, 64, 256, 1, False),
    "mixed T=1": (1, 32, 64, 128, 1, False),
    "mixed T=50": (50, 32, 64, 128, 1, False),
}


class Mixed(torch.nn.Module):  # type: ignore[misc]
    """A recurrent layer between two linear ones, whose operations leave PyTorch's threads spinning."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.first = torch.nn.Linear(layer.input_size, layer.input_size)
        self.last = torch.nn.Linear(layer.hidden_size, layer.hidden_size)

    def forward(self, x: Any) -> tuple[Any]:
        return (self.last(self.layer(self.first(x))[0]),)


def call(kind: str, shape: str, training: bool) -> Callable[[], object]:
    """One call of a case."""
    T, B, I, H, layers, both_ways = SHAPES[shape]  # noqa: E741
    torch.manual_seed(0)
    model = LAYERS[kind](I, H, layers, bidirectional=both_ways)
    if shape.startswith("mixed"):
        model = Mixed(model)
    x: Any = torch.randn(T, B, I)
    if shape == "packed":
        lengths = torch.linspace(T / 10, T, B).long().flip(0)
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    if not training:
        return lambda: model(x)
    weights = list(model.parameters())

    def train() -> None:
        with torch.no_grad():
            weights[0].mul_(1.0)  # they count as changed, as after an optimizer's step
        y = model(x)[0]
        data = y.data if shape == "packed" else y
        torch.autograd.grad(data, weights, torch.ones_like(data))

    return train


def measure(kind: str, shape: str, training: bool, budget_s: float, clock: Callable[[], float]) -> tuple[float, float]:
    """The least seconds of a call by PyTorch's operation, and by ours."""
    run, best = call(kind, shape, training), [math.inf, math.inf]
    with torch.set_grad_enabled(training):
        for _ in range(3):  # oneDNN compiles code for a new shape
            run()
        stop = time.perf_counter() + budget_s
        while time.perf_counter() < stop or math.inf in best:
            for side in (0, 1):
                if side:
                    bptt.torch.enable()
                start = clock()
                run()
                best[side] = min(best[side], clock() - start)
                bptt.torch.disable()
    return best[0], best[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", nargs="+", default=[*LAYERS], choices=[*LAYERS])
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=[*SHAPES])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    clock = time.thread_time if given.threads == 1 else time.perf_counter
    print(f"PyTorch {torch.__version__}, {given.threads} threads, {describe()}\n")
    print("| layer | shape | mode | PyTorch, ms | with bptt, ms | times as fast |\n|---|---|---|---|---|---|")
    logs: dict[bool, list[float]] = {True: [], False: []}
    for kind in given.layers:
        for shape in given.shapes:
            for training in (True, False):
                theirs, ours = measure(kind, shape, training, given.seconds, clock)
                logs[training].append(math.log(theirs / ours))
                mode = "training" if training else "inference"
                print(
                    f"| {kind} | {shape} | {mode} | {1e3 * theirs:.3f} | {1e3 * ours:.3f} | {theirs / ours:.2f} |",
                    flush=True,
                )
    for training, values in logs.items():
        mean = math.exp(sum(values) / len(values))
        print(f"\n{'training' if training else 'inference'}: {mean:.2f} times as fast in the geometric mean")


if __name__ == "__main__":
    main()
