# SPDX-License-Identifier: Apache-2.0
"""Watches our own kernels for regressions: `pytest benchmarks --benchmark-only`, two runs compared as README.md says.

No peers: the times of two versions of bptt on one machine. One thread, so that runs compare.
"""

from collections.abc import Iterator
from typing import Any

import pytest

import bptt
from benchmarks.cases import Case, all_cases, quick_cases
from benchmarks.peers import ours
from benchmarks.problem import Problem

MOST_FLOPS = 2e9
CASES = [
    case
    for case in all_cases()
    if not ours.lacks(case)
    and case.flops < MOST_FLOPS
    and (case in quick_cases() or (case.group == "table" and case.cell != "rnn"))
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = bptt.get_num_threads()
    bptt.set_num_threads(1)
    yield
    bptt.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_speed(benchmark: Any, case: Case) -> None:
    task = ours.make(Problem(case))
    benchmark.group = f"{case.cell} {case.mode}"
    if task.prepare is None:
        benchmark(task.call)
    else:
        benchmark.pedantic(task.call, setup=task.prepare, rounds=25, warmup_rounds=2)
    if benchmark.stats:
        benchmark.extra_info["gflops"] = case.flops / benchmark.stats.stats.median / 1e9
