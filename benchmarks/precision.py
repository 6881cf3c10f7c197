# SPDX-License-Identifier: Apache-2.0
"""The time of recurrent layers with each precision of products: `python -m benchmarks.precision`, four minutes.

All layers of a case run in turn in one process, on one thread; where PyTorch is installed, its float32 layer and the
faster of its two ways to bfloat16 (autocast, a bfloat16 module) are among them. Inference is a call, training is a
forward and a backward call after a change of the weights, which are then packed again. Printed is the least time of all
rounds, that of the processor, which other programs disturb less than the clock, as a Markdown table; how many times as
fast as "highest" each precision is, as "high" is as PyTorch's float32 and "medium" as its bfloat16; then the means.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from typing import Any

import bptt
from benchmarks.cases import CELLS, Case
from benchmarks.machine import describe
from benchmarks.peers import ours
from benchmarks.peers.base import Task
from benchmarks.problem import Problem
from benchmarks.results import geometric_mean
from benchmarks.timing import WARM_S

PRECISIONS = ("highest", "high", "medium")
TORCH = ("torch", "torch bfloat16")
GAINS = (("highest", "high"), ("highest", "medium"), ("torch", "high"), ("torch bfloat16", "medium"))
STEPS = 64
QUICK: dict[str, Any] = {"sizes": [128, 256], "batches": [32], "seconds": 1.5}


def torch_tasks(problem: Problem) -> dict[str, Task]:
    """PyTorch's layers; none where it is not installed."""
    try:
        from benchmarks.peers import torch_bfloat16, torch_eager
    except ImportError:
        return {}
    float32 = torch_eager.Train if problem.case.backward else torch_eager.Infer
    peer = torch_bfloat16.TorchBfloat16()
    peer.setup(1)
    tasks: dict[str, Task] = {TORCH[0]: float32(problem)}
    if peer.refuses(problem.case, 1):  # emulated here: seconds a call
        return tasks
    return {**tasks, TORCH[1]: peer.make(problem)}


def measure(case: Case, budget_s: float, peers: bool) -> dict[str, float]:
    """The least seconds of each side."""
    sides = {precision: ours.make(Problem(replace(case, precision=precision))) for precision in PRECISIONS}
    if peers:
        sides |= torch_tasks(Problem(case))
    best = dict.fromkeys(sides, float("inf"))
    stop, rounds = time.perf_counter() + budget_s, 0
    while rounds < 2 or time.perf_counter() < stop:  # the first is warm-up
        for name, task in sides.items():
            if best[name] < WARM_S:  # what the side before it left in the caches is not this one's
                seconds_of(task)
            seconds = seconds_of(task)
            best[name] = min(best[name], seconds) if rounds else seconds
        rounds += 1
    return best


def seconds_of(task: Task) -> float:
    """The processor's time of one call."""
    if task.prepare:
        task.prepare()
    start = time.thread_time()
    task.call()
    return time.thread_time() - start


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=[*CELLS], choices=[*CELLS])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 512], help="I = H")
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row of the table")
    parser.add_argument("--no-peers", action="store_true", help="without PyTorch")
    parser.add_argument("--quick", action="store_true", help="H = 128 and 256, B = 32: within 2 minutes")
    args = parser.parse_args(arguments)
    if args.quick:
        vars(args).update(QUICK)
    return args


def heading() -> str:
    config = bptt.config()
    products = ", ".join(f"{each} {config[f'{each}_products']}" for each in PRECISIONS[1:])
    try:
        import torch

        products += f"; PyTorch {torch.__version__}"
    except ImportError:
        pass
    return (
        f"{describe()['processor']}; {products}; level {config['level']}, {config['compiler']}; 1 thread, T = {STEPS}"
    )


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if hasattr(os, "sched_setaffinity"):  # PyTorch's backward call then stays on one processor, too
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bptt.set_num_threads(1)
    print(heading() + "\n")
    names = [f"{side}, ms" for side in (*PRECISIONS, *(() if args.no_peers else TORCH))]
    gains = [gain for gain in GAINS if not args.no_peers or gain[0] == "highest"]
    names += [f"{of}: {slow} / it" for slow, of in gains]
    print(f"| | I = H | B | {' | '.join(names)} |\n{'|---' * (3 + len(names))}|")
    found: dict[tuple[str, tuple[str, str]], list[float]] = {}
    for cell in args.cells:
        for mode in ("infer", "train"):
            for H in args.sizes:
                for B in args.batches:
                    times = measure(Case(cell, mode, B, STEPS, H, H), args.seconds, not args.no_peers)
                    print(row(cell, mode, H, B, times, names, gains), flush=True)
                    for gain in gains:
                        if gain[0] in times:
                            ratio = times[gain[0]] / times[gain[1]]
                            found.setdefault((mode, gain), []).append(ratio)
    print()
    for (mode, (slow, of)), ratios in sorted(found.items()):
        mean = f"{geometric_mean(ratios):.2f}x ({min(ratios):.2f}x to {max(ratios):.2f}x)"
        print(f'- {"training" if mode == "train" else "inference"}: "{of}" is {mean} as fast as {slow}')


def row(cell: str, mode: str, H: int, B: int, times: dict[str, float], names: list[str], gains: Any) -> str:
    cells = [f"{cell.upper()} {'training' if mode == 'train' else 'inference'}", str(H), str(B)]
    for name in names:
        if name.endswith(", ms"):
            seconds = times.get(name.removesuffix(", ms"))
            cells.append("-" if seconds is None else f"{1e3 * seconds:.2f}")
    cells += [f"{times[slow] / times[of]:.2f}x" if slow in times else "-" for slow, of in gains]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
