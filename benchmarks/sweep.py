# SPDX-License-Identifier: Apache-2.0
"""Finds sizes slower than their neighbours: ours, one thread, all H and B: `python -m benchmarks.sweep [stride]`.

It compares the time per flop, with H rounded up to the vector: H = 17 may cost as much as H = 32. `worst` is the
largest factor between sizes that differ by one in H or in B, where the larger size has the larger time per flop;
`worst_small` is that where the smaller size has it, which shows the fixed cost of a call and of a step.
Prints JSON: {T, I, H, B, tables: {lstm-train: {seconds [B][H], worst, where, worst_small, where_small}}}.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks.cases import CELLS, Case
from benchmarks.peers import ours
from benchmarks.peers.base import Task
from benchmarks.problem import Array, Problem

T, I = 16, 8  # noqa: E741
MOST_H, MOST_B = 130, 20
CALLS, CALLS_AGAIN, AGAIN = 5, 15, 1.4


def best_s(task: Task, calls: int) -> float:
    """The least time of a call, without disturbances."""
    best = float("inf")
    for _ in range(calls):
        if task.prepare:
            task.prepare()
        t0 = time.perf_counter()
        task.call()
        best = min(best, time.perf_counter() - t0)
    return best


def flops(case: Case, lanes: int) -> float:
    """With H rounded up to whole vectors."""
    H = -(-case.H // lanes) * lanes
    return 2.0 * case.B * case.T * case.gates * H * (case.I + H) * (3 if case.backward else 1)


def steps(per_flop: Array) -> Array:
    """log of the ratio to the smaller neighbour, [2,B,H]: first in B, then in H; 0 where there is none."""
    logs = np.log(per_flop)
    found = np.zeros((2, *logs.shape))
    found[0, 1:], found[1, :, 1:] = np.diff(logs, axis=0), np.diff(logs, axis=1)
    return found


def measure(cell: str, mode: str, sizes_b: list[int], sizes_h: list[int], lanes: int) -> dict[str, Any]:
    """One table; a large step between neighbours is measured again before it counts."""
    grid = [[Case(cell, mode, B, T, I, H) for H in sizes_h] for B in sizes_b]
    seconds = np.array([[best_s(ours.make(Problem(case)), CALLS) for case in row] for row in grid])
    scale = np.array([[flops(case, lanes) for case in row] for row in grid])
    for _ in range(2):
        suspect = np.abs(steps(seconds / scale)) > np.log(AGAIN)
        again = suspect.any(axis=0)
        again[:-1] |= suspect[0, 1:]
        again[:, :-1] |= suspect[1][:, 1:]
        for b, h in np.argwhere(again):
            seconds[b, h] = min(seconds[b, h], best_s(ours.make(Problem(grid[b][h])), CALLS_AGAIN))
    found = steps(seconds / scale)
    _, up_b, up_h = np.unravel_index(int(found.argmax()), found.shape)
    _, low_b, low_h = np.unravel_index(int(found.argmin()), found.shape)
    return {
        "seconds": [[float(f"{t:.4g}") for t in row] for row in seconds],
        "worst": round(float(np.exp(found.max())), 3),
        "where": f"to B={sizes_b[up_b]} H={sizes_h[up_h]}",
        "worst_small": round(float(np.exp(-found.min())), 3),
        "where_small": f"before B={sizes_b[low_b]} H={sizes_h[low_h]}",
    }


def main(stride: int) -> None:
    import bptt

    bptt.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    lanes = int(bptt.config()["float32_lanes"])
    sizes_b, sizes_h = list(range(1, MOST_B + 1, stride)), list(range(1, MOST_H + 1, stride))
    tables = {f"{cell}-{mode}": measure(cell, mode, sizes_b, sizes_h, lanes)
              for cell in CELLS for mode in ("infer", "train")}  # fmt: skip
    print(json.dumps({"T": T, "I": I, "B": sizes_b, "H": sizes_h, "lanes": lanes, "tables": tables}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
