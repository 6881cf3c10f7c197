# SPDX-License-Identifier: Apache-2.0
"""PyTorch in bfloat16: float32 weights under torch.autocast, as its documentation recommends, or the whole module in
bfloat16. Both are tried for each case and the faster one is measured.
"""

import time
from collections.abc import Callable

import torch

from benchmarks.cases import Case
from benchmarks.peers.base import Peer, Task
from benchmarks.peers.torch_eager import by_our_names, make_module
from benchmarks.problem import Array, Problem

EMULATED_FLOPS = 5e8  # the most of a case where the processor has no such instructions
SLOW_S = 0.2


class Bfloat16(Task):
    """A forward call, and a backward call where the case trains."""

    def __init__(self, problem: Problem, autocast: bool) -> None:
        self._case, self._autocast = problem.case, autocast
        dtype = torch.float32 if autocast else torch.bfloat16
        self._module = make_module(problem).to(dtype)
        self._x, self._dy = (torch.from_numpy(array).to(dtype) for array in (problem.x, problem.dy))
        if problem.case.backward:
            self._x.requires_grad_()
            self.prepare = self._forget

    def _forget(self) -> None:
        self._module.zero_grad()
        self._x.grad = None

    def call(self) -> None:
        with torch.inference_mode(not self._case.backward), torch.autocast("cpu", torch.bfloat16, self._autocast):
            self._y, _ = self._module(self._x)
        if self._case.backward:
            self._y.backward(self._dy.to(self._y.dtype))

    def results(self) -> dict[str, Array]:
        found = {"y": self._y.detach().float().numpy()}
        if self._case.backward:
            assert self._x.grad is not None
            grads = {name: p.grad.float() for name, p in self._module.named_parameters()}
            named = by_our_names(self._case.cell, self._case.H, grads)
            found |= {"dx": self._x.grad.float().numpy(), **{f"d{name}": g for name, g in named.items()}}
        return found


def seconds(task: Task) -> float:
    """The time of a call: the least of four where they are short."""
    best = float("inf")
    for _ in range(4):
        if task.prepare:
            task.prepare()
        start = time.perf_counter()
        task.call()
        best = min(best, time.perf_counter() - start)
        if best > SLOW_S:
            break
    return best


def fastest(made: list[Callable[[], Task]]) -> Task:
    """Of those that run on this processor: oneDNN has no kernels for some."""
    found: list[tuple[float, Task]] = []
    errors = []
    for make in made:
        try:
            task = make()
            found.append((seconds(task), task))
        except RuntimeError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return min(found, key=lambda each: each[0])[1]


class TorchBfloat16(Peer):
    distributions = ("torch",)
    arithmetic = "bfloat16"

    def setup(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def note(self) -> str:
        return "the faster of autocast and a bfloat16 module" + ("" if self._native else "; emulated on this processor")

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode not in ("infer", "train"):
            return "is measured on whole sequences"
        if not self._native and case.flops > EMULATED_FLOPS:
            return "would take seconds a call, since bfloat16 is emulated on this processor"
        return ""

    def make(self, problem: Problem) -> Task:
        return fastest([lambda: Bfloat16(problem, True), lambda: Bfloat16(problem, False)])
