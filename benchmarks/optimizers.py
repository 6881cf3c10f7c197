# SPDX-License-Identifier: Apache-2.0
"""The time of one optimizer step, ours and PyTorch's: `python -m benchmarks.optimizers`, two minutes.

Each side runs in a process of its own, in turn with the other, since idle threads of one would take the cores of the
other. Parameters are float32, in 8 arrays. Ours includes the gradient's norm, which PyTorch's does not. Printed is the
least time of all rounds, as a Markdown table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

ARRAYS = 8
SIZES = (10_000, 10_000_000)
THREADS = (1, 2)
ROUNDS = 3

# name -> the class, of the same name in PyTorch, and its options
RULES: dict[str, tuple[str, dict[str, object]]] = {
    "SGD": ("SGD", {"lr": 1e-3}),
    "SGD, momentum": ("SGD", {"lr": 1e-3, "momentum": 0.9}),
    "Adam": ("Adam", {}),
    "Adam, amsgrad": ("Adam", {"amsgrad": True}),
    "NAdam": ("NAdam", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop, centered, momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {}),
    "Lion": ("Lion", {}),
}
FUSED = {"SGD", "SGD, momentum", "Adam", "Adam, amsgrad", "Adagrad"}  # that PyTorch has for the CPU
SIDES = ("ours", "torch", "fused")


def least_s(step: Callable[[], object]) -> float:
    """The least time of a step within about half a second."""
    best, stop = float("inf"), time.perf_counter() + 0.5
    while time.perf_counter() < stop:
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best


def our_step(name: str, size: int) -> Callable[[], object]:
    import bptt

    kind, options = RULES[name]
    params = bptt.Params({f"p{k}": (size // ARRAYS,) for k in range(ARRAYS)})
    rng, grads = np.random.default_rng(0), params.zeros_like()
    grads.flat[:] = rng.standard_normal(size, np.float32)
    with params.edit() as p:
        p.flat[:] = rng.standard_normal(size, np.float32)
    optimizer = getattr(bptt.optim, kind)(**options)
    return lambda: optimizer.step(params, grads)


def their_step(name: str, size: int, fused: bool) -> Callable[[], object] | None:
    import torch

    kind, options = RULES[name]
    if not hasattr(torch.optim, kind) or (fused and name not in FUSED):
        return None
    arrays = [torch.nn.Parameter(torch.randn(size // ARRAYS)) for _ in range(ARRAYS)]
    for array in arrays:
        array.grad = torch.randn(size // ARRAYS)
    step: Callable[[], object] = getattr(torch.optim, kind)(
        arrays, **options, **({"fused": True} if fused else {})
    ).step
    return step


def work(side: str, threads: int) -> None:
    """Measure one side and print the seconds as JSON."""
    if side == "ours":
        import bptt

        bptt.set_num_threads(threads)
    else:
        import torch

        torch.set_num_threads(threads)
    found: dict[str, float] = {}
    for size in SIZES:
        for name in RULES:
            step = our_step(name, size) if side == "ours" else their_step(name, size, side == "fused")
            if step is not None:
                step()
                found[f"{name} {size}"] = least_s(step)
    print(json.dumps(found))


def main() -> int:
    """Run all sides in turn and print the table."""
    print("| optimizer | parameters | threads | bptt | PyTorch | PyTorch, fused=True |\n|---|---|---|---|---|---|")
    for threads in THREADS:
        best: dict[tuple[str, str], float] = {}
        for _ in range(ROUNDS):
            for side in SIDES:
                command = [sys.executable, "-m", "benchmarks.optimizers", side, str(threads)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                for key, seconds in json.loads(output).items():
                    best[side, key] = min(seconds, best.get((side, key), seconds))
        for size in SIZES:
            for name in RULES:
                times = [best.get((side, f"{name} {size}")) for side in SIDES]
                shown = ["-" if t is None else f"{t * 1e6:.0f} us" if t < 1e-3 else f"{t * 1e3:.1f} ms" for t in times]
                print(f"| {name} | {size:,} | {threads} | {' | '.join(shown)} |", flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(sys.argv[1], int(sys.argv[2]))
    else:
        sys.exit(main())
