# SPDX-License-Identifier: Apache-2.0
"""The harness itself: its arithmetic and its summaries, on made-up figures. `pytest benchmarks/test_harness.py`."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bptt
from benchmarks import cases, claims, parity, precision_losses, report, summary, timing
from benchmarks.cases import Case
from benchmarks.limits import floor_s, from_probe
from benchmarks.peers import ours
from benchmarks.peers.base import Peer, Task
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
    (found,) = summary.ratios(results, summary.sizes("train"))
    assert found.peer == "jax"
    assert found.value == pytest.approx(0.9)
    assert [each.label for each in summary.losses(results)] == [f"{CASE.name}, 1 thread, jax"]
    assert f"- {CASE.name}, 1 thread, jax: 0.90x" in report.lines(results, [])
    assert any("faster in**: 1 of 1 cases: LSTM B=32" in line for line in report.page(results, []))
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


def test_the_summary_has_ten_lines_and_says_what_was_not_measured() -> None:
    assert set(summary.NAMES) == set(summary.RIVALS)
    assert [line.split(": ", 1)[1] for line in summary.lines(made_up())] == ["not measured in this run."] * 10
    assert sum(line.startswith("- ") for line in report.page(made_up(), [])) == 10


def test_the_pages_in_docs_are_those_of_the_results_there() -> None:
    folder = Path(report.__file__).parents[1] / "docs" / "benchmarks"
    results = Results.from_json(json.loads((folder / "results.json").read_text("utf-8")))
    made = [f"{name}.png" for name in ("summary", "ratios", "roofline", "scaling", "sweep")]
    assert (folder / "README.md").read_text("utf-8").splitlines() == report.page(results, made)
    assert (folder / "report.md").read_text("utf-8").splitlines() == report.lines(results, made)


def test_precisions_are_compared_with_the_same_arithmetic() -> None:
    named = {case.precision: case for case in cases.all_cases() if case.group == "precision" and case.mode == "infer"}
    assert set(named) == {"high", "medium", "bfloat16", "int8"}
    for kind, precisions in {"full": ["high"], "bfloat16": ["medium", "bfloat16"], "int8": ["int8"], "": named}.items():
        peer = AnyPeer()
        peer.arithmetic = kind
        assert [precision for precision, case in named.items() if not peer.skips(case, 1)] == list(precisions)
    assert not any(case.mode == "train" for case in cases.all_cases() if case.precision in cases.QUANTIZED)
    name = named["medium"].name
    lost = made_up((name, "openvino-default", 0.8))
    assert f"- {name}, 1 thread, openvino-default: 0.80x" in report.lines(lost, [])
    results = made_up((name, "torch-bfloat16", 1.5), (name, "openvino-default", 1.2), (name, "own-highest", 1.7))
    assert summary.ratios(results, summary.counted) == [], "other arithmetic counts in its own line alone"
    assert '"medium" inference 1.20x (1.20x to 1.20x)' in "\n".join(summary.lines(results))
    results.about["bptt"] = {"medium_products": "fma"}
    assert '"medium" multiply as "highest"' in "\n".join(summary.lines(results))
    assert any("| medium | 1 |" in line and "(1.70x)" in line for line in report.lines(results, []))


class AnyPeer(Peer):
    def refuses(self, case: Case, threads: int) -> str:
        return ""

    def make(self, problem: Problem) -> Task:
        raise NotImplementedError


def test_pytorch_with_bptt_is_compared_with_pytorch_alone() -> None:
    results = made_up((CASE.name, "torch", 3.0), (CASE.name, "own-torch", 2.0))
    assert [each.value for each in summary.with_bptt(results)] == [1.5]
    assert "| LSTM training | 1 | 1 | 1.50 | 1.50 | 1.50 |" in report.lines(results, [])
    assert summary.with_bptt(made_up((CASE.name, "torch", 3.0))) == []


def test_one_time_step_at_every_size() -> None:
    short = [case for case in cases.all_cases() if case.group == "short"]
    assert len(short) == 3 * len(cases.SHORT_B) * len(cases.SHORT)
    assert {(case.T, case.mode) for case in short} == {(1, "train")}


def test_tolerances_grow_with_the_rounding_and_still_see_swapped_gates() -> None:
    def allowed(precision: str, name: str) -> float:
        return parity.tolerance(dataclasses.replace(CASE, precision=precision), name, 2.0**-23)

    for name in ("y", "dweight_hh_l0"):
        found = [allowed(precision, name) for precision in ("highest", "high", "medium")]
        assert found == sorted(found)
        assert found[-1] < 0.2
    assert allowed("medium", "y") == allowed("bfloat16", "y") < allowed("int8", "y")


def test_the_losses_of_precisions_say_whether_they_are_inside_the_seed_spread() -> None:
    seeds = precision_losses.seeds_of("0-1,4")
    assert seeds == [0, 1, 4]
    highest = dict(zip(seeds, (1.0, 2.0, 3.0), strict=True))  # mean 2, standard deviation 1
    found = {(s, p): v + d for s, v in highest.items() for p, d in (("highest", 0), ("high", 0.9), ("medium", 1.1))}
    high, medium = precision_losses.table("adding", "error", found, seeds)[-2:]
    assert "mean +0.9 from highest" in high
    assert "inside the seed spread" in high
    assert "outside the seed spread" in medium


def test_the_claims_that_the_docs_quote_are_commands() -> None:
    page = (Path(report.__file__).parents[1] / "docs" / "performance.md").read_text("utf-8")
    quoted = {name for line in re.findall(r"python -m benchmarks\.claims ([a-z ]+)`", page) for name in line.split()}
    assert quoted == set(claims.CLAIMS)


def test_a_short_claim_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    claims.main(["calls", "--rounds", "1"])
    assert "| clip_state |" in capsys.readouterr().out


def test_of_two_ways_to_bfloat16_the_one_that_runs_is_taken() -> None:
    pytest.importorskip("torch")
    from benchmarks.peers.torch_bfloat16 import fastest

    class Refused(Recorded):
        def call(self) -> None:
            raise RuntimeError("could not create a primitive")

    good, bad = Recorded("good", []), Refused("bad", [])
    assert fastest([lambda: bad, lambda: good]) is good
    with pytest.raises(RuntimeError, match="primitive"):
        fastest([lambda: bad])


def test_quantized_weights_are_measured_where_a_layer_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def quantize(self: bptt.LSTM, kind: str) -> bptt.LSTM:
        asked.append(kind)
        return self

    case = Case("lstm", "infer", 2, 3, 4, 5, group="precision", precision="int8")
    monkeypatch.setattr(bptt.LSTM, "quantize", quantize)
    task = ours.make(Problem(case))
    task.call()
    assert asked == ["int8"]
    plain = ours.make(Problem(dataclasses.replace(case, precision="highest")))
    plain.call()
    assert parity.check(case, {}, task.results(), plain.results()) == 0
