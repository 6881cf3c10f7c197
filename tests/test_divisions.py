# SPDX-License-Identifier: Apache-2.0
"""Calls divided by rows, by hidden units and by both: the same bits for each division, and which one is chosen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import state_options
from kernels import CELLS, DTYPES, Case, assert_same_bits, levels
from stacks import threads

LEVELS = levels()
every_level = pytest.mark.parametrize("core", LEVELS, ids=[core.level for core in LEVELS])
every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# groups x members: 2, 3, 4, 5, 8, 16 and 32 threads, more than there are rows or blocks of units among them.
DIVISIONS = [(1, 2), (3, 1), (2, 2), (1, 5), (2, 4), (4, 4), (16, 2)]


@contextmanager
def divided(core: Any, groups: int, members: int) -> Iterator[int]:
    """Divide all calls so; gives the number of threads."""
    core.force_division(groups, members)
    try:
        yield groups * members
    finally:
        core.force_division(0, 0)


@every_level
@every_cell
@every_dtype
def test_divisions_change_no_bit(core: Any, cell: str, dtype: str) -> None:
    """Steps of many rows in several chunks, and a single row, whose input products are made for a chunk at once."""
    for sizes in ((7, 33, 37, 41), (3, 1, 5, 70)):
        case = Case.random(cell, dtype, *sizes)
        one = case.run(core)
        for groups, members in DIVISIONS:
            with divided(core, groups, members) as n:
                assert_same_bits(case.run(core, n), one)


@every_cell
@pytest.mark.parametrize("name", ["all", "all, in segments", "learnt resets"])
def test_divisions_change_no_bit_of_a_call_with_options(cell: str, name: str) -> None:
    core = LEVELS[0]
    T, B = 5, 13
    case = Case.random(cell, "float32", T, B, 4, 19)
    setting = state_options.settings(T, B)[name]
    one = state_options.run(core, case, setting)
    for groups, members in DIVISIONS:
        with divided(core, groups, members) as n:
            assert_same_bits(state_options.run(core, case, setting, n), one)


@every_cell
def test_many_threads_change_no_bit(cell: str) -> None:
    """As the planner divides them."""
    core = LEVELS[0]
    case = Case.random(cell, "float32", 3, 70, 40, 130)
    one = case.run(core)
    for n in (4, 8, 16, 32):
        assert_same_bits(case.run(core, n), one)


def plan(n: int, T: int, B: int, H: int, *, cell: str = "lstm", backward: bool = False) -> dict[str, Any]:
    with threads(n, LEVELS[0]):
        return dict(LEVELS[0].Stack(cell, "float32", H, H, True).plan(T, B, backward))


def test_a_division_is_forced_as_far_as_the_shape_allows_it() -> None:
    core = LEVELS[0]
    with divided(core, 4, 8):
        assert {k: plan(32, 5, 64, 256)[k] for k in ("split", "groups", "members", "threads")} == {
            "split": "both", "groups": 4, "members": 8, "threads": 32,
        }  # fmt: skip
        one_row = plan(32, 5, 1, 256)
        assert (one_row["groups"], one_row["members"], one_row["hoisted"]) == (1, 8, True)
        assert plan(32, 5, 64, 256, cell="lstm_norm")["split"] == "batch"  # whole rows
        assert plan(31, 5, 64, 256)["threads"] <= 31  # not forced: too few threads
        assert plan(1, 5, 64, 256)["split"] == "none"


@pytest.mark.parametrize("division", [(0, 1), (1, 0), (-1, 2), (257, 1)])
def test_an_impossible_division_is_refused(division: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"force_division: has .+ groups of .+, expected 1 to 256 each"):
        LEVELS[0].force_division(*division)


@pytest.mark.parametrize("backward", [False, True])
def test_small_work_stays_on_few_threads(backward: bool) -> None:
    assert plan(64, 1, 1, 8, backward=backward)["threads"] == 1
    assert plan(64, 10, 1, 32, backward=backward)["threads"] <= 4
    assert plan(64, 100, 128, 1024, backward=backward)["threads"] >= 48


@pytest.mark.parametrize("backward", [False, True])
def test_many_threads_divide_both_ways(backward: bool) -> None:
    """Rows among groups whose members fit one cache, and never less than a block of units or a row for each thread."""
    for H, B in ((256, 32), (512, 32), (1024, 32), (512, 128), (1024, 128)):
        for n in (2, 3, 8, 16, 32, 64, 256):
            found = plan(n, 20, B, H, backward=backward)
            assert found["threads"] == found["groups"] * found["members"] <= n
            assert found["groups"] <= B
            assert found["members"] <= H / 4
    assert plan(32, 20, 32, 512, backward=backward)["split"] == "both"


def test_more_threads_are_never_estimated_to_be_slower() -> None:
    for H, B in ((16, 1), (64, 8), (128, 32), (512, 4), (512, 128)):
        times = [plan(n, 20, B, H)["step_time_s"] for n in (1, 2, 4, 8, 16, 32, 64)]
        assert all(later <= sooner * 1.05 for sooner, later in pairwise(times)), (H, B, times)


def test_a_wait_at_the_barrier_can_be_timed() -> None:
    core = LEVELS[0]
    assert 0 < core.barrier_time(2, 2, 100, 2) < 1
    assert 0 <= core.barrier_time(4, 1, 100, 1) < 1
    for wrong in ((0, 1, 1, 1), (4, 3, 1, 1), (300, 1, 1, 1), (2, 2, 0, 1)):
        with pytest.raises(ValueError, match=r"^barrier_time: got \d+ threads in teams of \d, expected 1 to 256"):
            core.barrier_time(*wrong)
    with pytest.raises(ValueError, match="set_processors: cores_per_cache is 0, expected 1 or more"):
        core.set_processors([], 0)


def test_one_caller_at_a_time_has_the_threads() -> None:
    """A call that finds the pool in use divides nothing, whatever was planned; the same bits."""
    core = LEVELS[0]
    case = Case.random("gru", "float32", 9, 33, 8, 70)
    one = case.run(core)
    results: list[dict[str, np.ndarray[Any, Any]]] = []
    with divided(core, 2, 2), threads(4, core):
        callers = [threading.Thread(target=lambda: results.append(case.run(core, 4))) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(results) == 4
    for result in results:
        assert_same_bits(result, one)
