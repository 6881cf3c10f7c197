# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/performance.md that are no part of the report: `python -m benchmarks.claims NAME ...`.

Each is printed as it stands there, below a line that names the machine. Times are forward and full backward in float32;
sides that are compared take turns. Tables of two cores have medians by the clock, and want a machine that does nothing
else; the others have the least time of the processor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import bptt
from benchmarks.features import CELLS, FEATURES, step
from benchmarks.machine import describe

Call = Callable[[], object]
Sides = dict[str, tuple[int, Call]]
CALLS = 50  # of less than a clock can measure
SLOW_S = 0.2


def compared(sides: Sides, rounds: int) -> dict[str, float]:
    """Seconds of each side (number of threads, call); each is called three times a round, of which the least counts."""
    alone = all(threads == 1 for threads, _ in sides.values())
    clock, of = (time.thread_time, min) if alone else (time.perf_counter, statistics.median)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, (threads, call) in sides.items():
            bptt.set_num_threads(threads)
            least = float("inf")
            for _ in range(3):
                start = clock()
                call()
                least = min(least, clock() - start)
                if least > SLOW_S:
                    break
            times[name].append(least)
    return {name: float(of(values[1:])) for name, values in times.items()}


def grid(header: list[str], rows: list[list[str]]) -> None:
    print("\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)) + "\n", flush=True)


def calls(rounds: int) -> None:
    """What a call costs at T = 1, B = 1, I = H = 64, one thread, plainly and with one feature; microseconds."""
    names = [
        "clip_state",
        "clip_grad_per_step",
        "zoneout",
        "recurrent dropout",
        "resets",
        "learnt initial state",
        "lengths",
    ]
    size, rows = (1, 1, 64), []
    for name in names:
        cells = [name]
        for cell in CELLS:
            call = FEATURES[name].call(np.random.default_rng(1), 1, 1)
            plain, other = step(cell, size, {}, {}), step(cell, size, FEATURES[name].layer, call)
            sides: Sides = {"plain": (1, many(plain)), "other": (1, many(other))}
            found = compared(sides, rounds)
            plain_us, other_us = (1e6 * found[side] / CALLS for side in ("plain", "other"))
            cells.append(f"{plain_us:.1f} + {max(0.0, other_us - plain_us):.1f}")
        rows.append(cells)
    grid(["microseconds at T = 1", *CELLS], rows)


def many(call: Call) -> Call:
    """CALLS calls."""

    def run() -> None:
        for _ in range(CALLS):
            call()

    return run


def directions(rounds: int) -> None:
    """Both directions on two cores over one direction on one."""
    rows = []
    for B, T, H in ((1, 100, 32), (1, 100, 64), (1, 100, 128), (1, 1000, 64), (8, 100, 64), (8, 100, 128)):
        cells = [f"{B} {T} {H}"]
        for cell in CELLS:
            one, both = step(cell, (B, T, H), {}, {}), step(cell, (B, T, H), {"bidirectional": True}, {})
            found = compared({"one": (1, one), "both": (2, both)}, rounds)
            cells.append(f"{found['both'] / found['one']:.2f}")
        rows.append(cells)
    grid(["B T H", *CELLS], rows)


def one_after_the_other(cell: str, size: tuple[int, int, int]) -> Call:
    """Forward and backward of two layers, each on all cores."""
    B, T, H = size
    x = np.random.default_rng(0).standard_normal((T, B, H)).astype(np.float32)
    first, second = CELLS[cell](H, H, seed=0), CELLS[cell](H, H, seed=1)
    grads = [layer.params.zeros_like() for layer in (first, second)]
    dy = np.ones((T, B, H), np.float32)

    def run() -> None:
        h, _, tape = first.forward(x)
        _, _, tape_of_second = second.forward(h)
        dh, _, _ = second.backward(tape_of_second, dy, grads=grads[1])
        first.backward(tape, dh, grads=grads[0])

    return run


def layers(rounds: int) -> None:
    """Two layers on two cores over two layers on one; in brackets one layer after the other, each on both cores."""
    rows = []
    for B, T, H in ((1, 100, 32), (1, 100, 64), (1, 100, 128), (1, 1000, 32), (4, 100, 64), (8, 100, 64)):
        cells = [f"{B} {T} {H}"]
        for cell in CELLS:
            both = step(cell, (B, T, H), {"num_layers": 2}, {})
            sides: Sides = {
                "one": (1, both), "two": (2, both), "in turn": (2, one_after_the_other(cell, (B, T, H)))
            }  # fmt: skip
            found = compared(sides, rounds)
            cells.append(f"{found['one'] / found['two']:.2f}x ({found['one'] / found['in turn']:.2f})")
        rows.append(cells)
    grid(["B T H", *CELLS], rows)


def packed_by_torch(cell: str, T: int, B: int, I: int, H: int, lengths: Any) -> Call:  # noqa: E741
    """Forward and backward of PyTorch's layer on pack_padded_sequence, unsorted."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    torch.set_num_threads(1)
    layer = getattr(torch.nn, cell)(I, H)
    x = torch.randn(T, B, I, requires_grad=True)

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        y, _ = layer(pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False))
        y.data.sum().backward()

    return run


def packed(rounds: int) -> None:
    """Ragged batches, lengths uniform in 1..T, one thread: ours, PyTorch's packed sequences, and ours on the padded."""
    rows = []
    for B, T, H in ((32, 100, 128), (32, 1000, 64)):
        lengths = np.random.default_rng(1).integers(1, T + 1, B)
        cells, over = [f"{B} {T} {H} {H}"], []
        for cell in ("LSTM", "GRU"):
            sides: Sides = {
                "ours": (1, step(cell, (B, T, H), {}, {"lengths": lengths})),
                "padded": (1, step(cell, (B, T, H), {}, {})),
                "torch": (1, packed_by_torch(cell, T, B, H, H, lengths)),
            }
            found = compared(sides, min(rounds, 3) if T > 100 else rounds)
            ours, theirs = found["ours"], found["torch"]
            cells += [f"{1e3 * ours:.1f} ms", f"{1e3 * theirs:,.0f} ms", f"{theirs / ours:.1f}x"]
            over.append(f"{ours / found['padded']:.2f}")
        rows.append([*cells, ", ".join(over)])
    grid(["B T I H", "LSTM", "PyTorch", "", "GRU", "PyTorch", "", "over padded"], rows)


def checkpoints(rounds: int) -> None:
    """Memory besides x, y and gradients, and time, of T = 100,000, B = 1, I = H = 64 with and without checkpoints."""
    T, B, H = 100_000, 1, 64
    rows = []
    for cell in ("LSTM", "GRU"):
        plain: dict[str, Any] = {}
        sqrt = {"checkpoint": "sqrt"}
        mb = [CELLS[cell](H, H, **options).estimate_memory(T, B) / 1e6 for options in (plain, sqrt)]
        sides: Sides = {
            "plain": (1, step(cell, (B, T, H), plain, {})), "sqrt": (1, step(cell, (B, T, H), sqrt, {}))
        }  # fmt: skip
        found = compared(sides, min(rounds, 3))
        rows.append([cell, f"{mb[0]:.0f} MB", f"{mb[1]:.1f} MB", f"{found['sqrt'] / found['plain']:.2f}"])
    grid(["", "memory", 'checkpoint="sqrt"', "time over plain"], rows)


CLAIMS: dict[str, Callable[[int], None]] = {
    "calls": calls, "directions": directions, "layers": layers, "packed": packed, "checkpoints": checkpoints
}  # fmt: skip
TWO_CORES = {"directions", "layers"}


def main(arguments: list[str] | None = None) -> int:
    shown = ", ".join(f"{name}: {(claim.__doc__ or '').splitlines()[0]}" for name, claim in CLAIMS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=shown)
    parser.add_argument("names", nargs="+", choices=[*CLAIMS, "all"])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    config = bptt.config()
    print(f"{describe()['processor']}, level {config['level']}, {config['compiler']}, bptt {config['version']}\n")
    for name in [*CLAIMS] if "all" in args.names else args.names:
        if name in TWO_CORES and cores < 2:
            print(f"{name}: this machine has one core, two are needed\n", file=sys.stderr)
            continue
        print(f"{name}. {(CLAIMS[name].__doc__ or '').splitlines()[0]}\n", flush=True)
        try:
            CLAIMS[name](args.rounds)
        except ImportError as error:
            print(f"{name}: {error}\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
