# SPDX-License-Identifier: Apache-2.0
"""A process of scaling.py: reads a job a line from stdin, writes its result a line to stdout. `ours` or `torch`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

GATES = {"LSTM": 4, "GRU": 3}
Arrays = tuple[Any, Any]


def data(job: dict[str, Any]) -> Arrays:
    """x and dy [T,B,H]."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, job["T"], job["B"], job["H"])).astype(np.float32)
    return x, dy


class Ours:
    """bptt: layers and native hooks."""

    def __init__(self) -> None:
        import bptt
        from bptt._dispatch import core

        self.bptt, self.core = bptt, core
        self.parts: dict[str, float] = {}

    def make(self, job: dict[str, Any]) -> Callable[[], object]:
        """A call of training; it leaves the least seconds of its halves in `parts`."""
        x, dy = data(job)
        layer = getattr(self.bptt, job["cell"])(job["H"], job["H"], seed=0)
        grads = layer.params.zeros_like()
        self.core.force_division(*job.get("division", (0, 0)))
        self.parts = {}

        def call() -> None:
            layer.params.update(lambda buffer: None)  # they count as changed, as after an optimizer's step
            start = time.perf_counter()
            _, _, tape = layer.forward(x)
            middle = time.perf_counter()
            layer.backward(tape, dy, None, grads)
            self.note("forward_s", middle - start)
            self.note("backward_s", time.perf_counter() - middle)

        return call

    def note(self, name: str, seconds: float) -> None:
        self.parts[name] = min(seconds, self.parts.get(name, seconds))

    def plans(self, job: dict[str, Any]) -> dict[str, Any]:
        """How the planner divides that case, with its estimates."""
        stack = self.core.Stack(job["cell"].lower(), "float32", job["H"], job["H"], True)
        ways = {"forward": stack.plan(job["T"], job["B"]), "backward": stack.plan(job["T"], job["B"], True)}
        return {name: {key: p[key] for key in ("groups", "members", "step_time_s")} for name, p in ways.items()}

    def barrier(self, job: dict[str, Any]) -> dict[str, Any]:
        """Seconds of a wait, threads pinned to one processor each."""
        threads = len(job["cpus"])
        self.core.barrier_time(threads, threads, 10, 1)  # now the workers are there
        pin_each(job["cpus"])
        return {"barrier_s": self.core.barrier_time(threads, threads, job["waits"], 10)}


class Torch:
    """PyTorch, eager."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(len(os.sched_getaffinity(0)))

    def make(self, job: dict[str, Any]) -> Callable[[], object]:
        x, dy = (self.torch.from_numpy(each) for each in data(job))
        x.requires_grad_()
        module = getattr(self.torch.nn, job["cell"])(job["H"], job["H"])

        def call() -> None:
            module.zero_grad()
            x.grad = None
            module(x)[0].backward(dy)

        return call


def pin_each(cpus: list[int]) -> None:
    """This process's threads, oldest first, to one processor each: the first is the caller, then the pool's."""
    tasks = sorted(int(name) for name in os.listdir("/proc/self/task"))
    for task, cpu in zip(tasks, cpus, strict=False):
        os.sched_setaffinity(task, {cpu})


def least(call: Callable[[], object], budget_s: float) -> float:
    """The least seconds of a call, of two at least."""
    best, stop, count = float("inf"), time.perf_counter() + budget_s, 0
    while count < 2 or time.perf_counter() < stop:
        start = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


def answer(side: Any, job: dict[str, Any], calls: dict[str, Callable[[], object]]) -> dict[str, Any]:
    """The result of one job."""
    if job["do"] == "barrier":
        return dict(side.barrier(job))
    key = json.dumps([job[name] for name in ("cell", "H", "B", "T")] + [job.get("division")])
    if key not in calls:
        calls.clear()
        calls[key] = side.make(job)
        calls[key]()
    if job.get("pin"):
        pin_each(job["cpus"])
    found: dict[str, Any] = {"s": least(calls[key], job["budget_s"])}
    if isinstance(side, Ours):
        found |= side.parts
        found["plan"] = side.plans(job)
    return found


def main() -> None:
    """`scaling_worker ours|torch CPUS`, with the processors as a list 0,1,2."""
    kind, cpus = sys.argv[1], [int(cpu) for cpu in sys.argv[2].split(",")]
    os.sched_setaffinity(0, cpus)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    try:
        side: Any = Ours() if kind == "ours" else Torch()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=out, flush=True)
        return
    print(json.dumps({"ready": True}), file=out, flush=True)
    calls: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        print(json.dumps(answer(side, json.loads(line), calls)), file=out, flush=True)


if __name__ == "__main__":
    main()
