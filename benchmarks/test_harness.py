# SPDX-License-Identifier: Apache-2.0
"""The harness itself: its arithmetic and its summaries, on made-up figures. `pytest benchmarks/test_harness.py`."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, parity, peers, report, summary, timing
from benchmarks.cases import Case
from benchmarks.limits import floor_s, from_probe
from benchmarks.peers.base import Task
from benchmarks.problem import Array, Problem
from benchmarks.results import Results, geometric_mean, interval, merge
from benchmarks.sweep import steps

PROBE = {
    "peak_gflops": {"1": 100.0, "2": 190.0},
    "read_gbs": [[16, 100.0, 90.0], [64, 50.0, 50.0], [1024, 10.0, 20.0]],
    "round_trip_us": 0.2,
    "how": "made up",
}
CASE = cases.by_name()["lstm-train-B32-T100-I128-H128"]


def test_names_are_unique_and_every_i_and_odd_size_is_there() -> None:
    table = cases.all_cases()
    assert len({case.name for case in table}) == len(table)
    assert {case.I for case in table} >= set(range(1, 11))
    assert {case.H for case in table} >= {25, 50, 100, 200, 300, 650}
    assert {case.B for case in table} >= {3, 5, 20, 96}
    assert min(case.T for case in table if case.mode == "train") == 1
    assert set(cases.quick_cases()) < set(table)


def test_flops_of_an_lstm() -> None:
    assert CASE.flops == 3 * 2 * 32 * 100 * 4 * 128 * 256
    assert cases.by_name()["lstm-infer-B32-T100-I128-H128"].flops == CASE.flops / 3


def test_bandwidth_lies_between_its_neighbours_and_never_rises_with_the_size() -> None:
    limits = from_probe(PROBE, 1)
    assert limits.bandwidth(32 * 1024, alone=True) == pytest.approx(math.sqrt(100e9 * 50e9))
    assert limits.bandwidth(1, alone=True) == 100e9
    assert limits.bandwidth(2**30, alone=True) == 10e9
    both = from_probe(PROBE, 2)
    assert both.bandwidth(2**20, alone=False) == 10e9, "no core is faster with another busy than alone"


def test_floor_on_one_core_by_hand() -> None:
    case = Case("rnn", "train", 1, 10, 64, 64)  # 16 KiB of weights: 16384 / 100e9 s, more than the FMAs and the chain
    per_step = 16384 / 100e9
    parallel = case.flops - 2 * 2 * 10 * 64 * 64
    assert floor_s(case, from_probe(PROBE, 1)) == pytest.approx(2 * 10 * per_step + parallel / 100e9)


def test_floor_on_two_cores_takes_the_best_way() -> None:
    one, two = (floor_s(CASE, from_probe(PROBE, n)) for n in (1, 2))
    assert one is not None
    assert two is not None
    assert one / 1.9 == pytest.approx(two), "the batch is divided: 190 against 100 GF/s"


def test_merging_keeps_pairs_together() -> None:
    ours = [1.0, 2.0, 4.0]
    process = {"ours_s": ours, "peer_s": [3 * t for t in ours], "parity": 0.1}
    pair = merge(CASE, "torch", 1, [process, process])
    assert [pair.ratio, *pair.interval] == pytest.approx([3, 3, 3])
    assert (pair.processes, pair.rounds, pair.ours_s[1]) == (2, 6, 2.0)


def test_interval_covers_the_spread_between_processes() -> None:
    assert interval([np.log([2.0, 2.0]), np.log([4.0, 4.0])]) == pytest.approx([2, 4])
    assert geometric_mean([2, 8]) == pytest.approx(4)


def made_up(*ratios: tuple[str, str, float]) -> Results:
    """Results in which ours takes a second."""
    about: dict[str, Any] = {
        "probe": PROBE, "threads": [1], "machine": {"processor": "", "cores": 2, "caches": [], "memory_gib": 1,
        "system": "", "python": ""}, "when": "", "minutes": 0, "quick": False, "repeats": 1, "bptt": {},
        "versions": {}, "other_programs_cores": None, "waited_s": 0.0, "missing": {}, "not_possible": {}, "failed": [],
        "out_of_time": [],
    }  # fmt: skip
    table = cases.by_name()
    return Results(about, [
        merge(table[name], peer, 1, [{"ours_s": [1.0], "peer_s": [ratio], "parity": 0.0}])
        for name, peer, ratio in ratios
    ])  # fmt: skip


def test_the_best_peer_counts_and_a_loss_is_named() -> None:
    results = made_up((CASE.name, "torch", 2.0), (CASE.name, "jax", 0.9), (CASE.name, "numpy", 0.5))
    found = summary.summarise(results)[0]
    assert found.value == pytest.approx(0.9)
    assert found.count == 1
    assert [what for what, _ in summary.losses(results)] == [f"{CASE.name}, 1 thread, jax"]
    assert f"- {CASE.name}, 1 thread, jax: 0.90x" in report.lines(results, [])
    assert summary.losses(made_up((CASE.name, "torch", 1.0))) == []


def test_results_survive_their_file() -> None:
    results = made_up((CASE.name, "torch", 2.0))
    assert Results.from_json(results.as_json()) == results


def test_parity_sees_swapped_gates_and_missing_gradients() -> None:
    problem = Problem(CASE)
    names = parity.required(CASE, problem.weights)
    good = {name: np.ones((512, 2), np.float32) * np.arange(1, 513, dtype=np.float32)[:, None] for name in names}
    assert parity.check(CASE, problem.weights, good, good) == 0
    swapped = {**good, "dweight_hh_l0": np.roll(good["dweight_hh_l0"], 128, axis=0)}
    with pytest.raises(parity.ParityError, match="dweight_hh_l0 differs"):
        parity.check(CASE, problem.weights, good, swapped)
    with pytest.raises(parity.ParityError, match="the peer lacks dx"):
        parity.check(CASE, problem.weights, good, {k: v for k, v in good.items() if k != "dx"})


def test_parity_refuses_what_is_not_a_number() -> None:
    case = dataclasses.replace(CASE, mode="infer")
    bad = {"y": np.array([np.nan], np.float32)}
    with pytest.raises(parity.ParityError):
        parity.check(case, {}, bad, {"y": np.ones(1, np.float32)})


class Recorded(Task):
    """Writes down when it is called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def call(self) -> None:
        self.log.append(self.name)

    def results(self) -> dict[str, Array]:
        return {}


def test_rounds_alternate() -> None:
    log: list[str] = []
    rounds = timing.alternate(timing.Local(Recorded("a", log)), timing.Local(Recorded("b", log)), (1.0, 1.0), 0.0, 3, 3)
    assert "".join(log) == "ababab", "slow tasks are called once for a sample"
    assert len(rounds.ours_s) == len(rounds.peer_s) == 3


def test_steps_between_neighbours() -> None:
    found = np.exp(steps(np.array([[1.0, 2.0], [1.0, 1.0]])))
    assert found[1, 0, 1] == pytest.approx(2)  # from H0 to H1
    assert found[0, 1, 1] == pytest.approx(0.5)  # from B0 to B1


def test_the_summary_names_peers_that_exist_and_can_be_empty() -> None:
    assert set(summary.TRAINERS) | set(summary.INFERENCE) <= set(peers.PEERS)
    assert all(found.value is None for found in summary.summarise(made_up()))
