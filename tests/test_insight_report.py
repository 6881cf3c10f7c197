# SPDX-License-Identifier: Apache-2.0
"""The report: each figure against its definition, each rule on a model that calls for it, pictures, and `watch`."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.insight import watching
from bptt.insight.kernel import trajectories
from bptt.insight.rules import RULES
from bptt.insight.run import Run
from bptt.insight.weights import shares
from stacks import KINDS, make

T, B, I, H = 30, 3, 4, 7  # noqa: E741
mse = bptt.losses.mse


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def diagnosed(layer: Any, x: Any = None, lengths: Any = None) -> Any:
    x = normal(T, B, layer.input_size) if x is None else x
    width = layer.output_size * layer.num_directions
    return bptt.diagnose(layer, x, np.zeros((*x.shape[:2], width)), mse, lengths)


def rules_of(report: Any) -> dict[str, str]:
    return {each.rule: each.text for each in report.findings}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_kind_has_a_report(kind: str, bidirectional: bool) -> None:
    report = diagnosed(make(kind, I, bidirectional=bidirectional), lengths=[T, 20, 0])
    assert (report.truncation is None) == bidirectional
    assert list(report.kernels) == (["0_l0", "0_l0_reverse"] if bidirectional else ["0"])
    for facts in report.kernels.values():
        assert (facts.spectrum is None) == kind.startswith("slstm")
        assert facts.shares.sum() == pytest.approx(1, abs=1e-9)
        assert set(facts.units.matrices) == set(make(kind, I)._stack.structure.info.gates)
    json.dumps(report.to_dict())
    text = str(report)
    assert report.verdict.splitlines()[0] in text
    assert "nan" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_steps_share_the_gradient_of_the_weights(kind: str) -> None:
    """The sum of the gradients of all steps is what backward gives."""
    layer, x = make(kind, I), normal(T, B, I)
    run = Run("test", layer, x, np.zeros((T, B, layer.output_size)), mse)
    kernel, path = next(trajectories(layer, x, None))
    dsteps = run.steps(run.dy)["0"]
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, mse(y, np.zeros_like(y))[1])[2]
    start, stop = layer._stack.kernels.spans[0]
    full = np.array(grads.flat)[start:stop]
    each = [kernel.step_gradient(x[t], tuple(s[t] for s in path.before), tuple(d[t] for d in dsteps)) for t in range(T)]
    # Sums of T B terms, in another order.
    np.testing.assert_allclose(np.sum(each, axis=0), full, rtol=0, atol=1e-11 * (1 + np.abs(full).max()))
    expected = np.array(each) @ full / (full @ full)
    got = shares(kernel, path, dsteps, np.ones((T, B), bool))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_shares_of_a_tanh_layer_are_those_of_the_formula() -> None:
    layer, x = bptt.RNN(I, H, dtype="float64", seed=0), normal(T, 1, I)
    report = diagnosed(layer, x)
    y = layer(x)[0][:, 0]
    W, dh, parts = np.array(layer.params["weight_hh_l0"]), np.zeros(H), []
    for t in range(T - 1, -1, -1):
        da = (dh + 2 * y[t] / (T * H)) * (1 - y[t] ** 2)
        before = y[t - 1] if t else np.zeros(H)
        parts.append(np.concatenate([np.outer(da, x[t, 0]).ravel(), np.outer(da, before).ravel(), da]))
        dh = W.T @ da
    found = np.array(parts[::-1])
    total = found.sum(axis=0)
    np.testing.assert_allclose(report.kernels["0"].shares, found @ total / (total @ total), rtol=0, atol=1e-12)


def test_truncation_is_that_of_fit() -> None:
    """A step of SGD with lr 1 is minus the gradient; k steps at a time it is that of a chunk."""
    layer, x = bptt.GRU(I, H, dtype="float64", seed=0), normal(T, B, I)
    target = np.zeros((T, B, H))
    report = diagnosed(layer, x)
    cosines = report.truncation.cosines
    assert cosines[T] == pytest.approx(1, abs=1e-12)
    assert {1, 2, 4, 8, T} <= set(cosines)
    assert cosines[report.truncation.enough] >= 0.99
    assert all(value < 0.99 for k, value in cosines.items() if k < report.truncation.enough)
    gradients = {}
    for k in (T, 8):
        total, state = 0.0, None
        for start in range(0, T, k):
            part = slice(start, start + k)
            y, state, tape = layer.forward(x[part], state)
            total = total + layer.backward(tape, mse(y, target[part])[1] * len(y) / T)[2].flat
        gradients[k] = np.array(total)
    a, b = gradients[T], gradients[8]
    assert cosines[8] == pytest.approx(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)), abs=1e-12)


def test_matrices_and_time_constants() -> None:
    layer, x = bptt.LSTM(I, H, dtype="float64", seed=0, init="pytorch"), normal(T, B, I)
    units = diagnosed(layer, x).kernels["0"].units
    W = np.array(layer.params["weight_hh_l0"]).reshape(4, H, H)
    gates = layer.forward(x)[2].gates()
    for k, gate in enumerate("ifgo"):
        assert units.matrices[gate].radius == pytest.approx(np.abs(np.linalg.eigvals(W[k])).max())
        assert units.matrices[gate].norm == pytest.approx(np.linalg.svd(W[k])[1][0])
        low = -0.9 if gate == "g" else 0.1
        assert units.saturation[gate] == ((gates[gate] < low).mean(), (gates[gate] > 0.9).mean())
    np.testing.assert_allclose(units.time_constants, -1 / np.log(gates["f"]).mean(axis=(0, 1)), rtol=1e-12)
    projected = bptt.LSTM(I, H, proj_size=3, dtype="float64", seed=0)
    square = np.array(projected.params["weight_hh_l0"])[:H] @ np.array(projected.params["weight_hr_l0"])
    assert diagnosed(projected).kernels["0"].units.matrices["i"].norm == pytest.approx(np.linalg.svd(square)[1][0])
    assert diagnosed(bptt.RNN(I, H, seed=0)).kernels["0"].units.time_constants is None


def rnn(W: Any, nonlinearity: str = "tanh", bias: float = 0.0) -> bptt.RNN:
    layer = bptt.RNN(2, len(W), nonlinearity=nonlinearity, dtype="float64", seed=0)
    with layer.params.edit() as p:
        p["weight_hh_l0"] = W
        p["bias_l0"] = np.full(len(W), bias)
    return layer


def test_each_rule_speaks_where_it_should() -> None:
    eye = np.linalg.qr(normal(8, 8))[0]
    vanishing = rules_of(diagnosed(rnn(0.5 * eye), normal(200, B, 2)))
    assert vanishing["decay"].startswith("The gradient vanishes: it changes by a factor of 0.")
    assert "must vanish" in vanishing["bounds"]
    assert "is a simple RNN" in vanishing["memory"]
    assert "identity()" in vanishing["memory"]
    orthogonal = rules_of(diagnosed(rnn(eye), 0.01 * normal(20, B, 2)))
    assert "cannot grow, whatever the input, since the largest singular value of weight_hh is 1" in orthogonal["bounds"]
    assert "memory" not in orthogonal
    alternating = rnn(np.eye(8), "relu")  # each unit is inactive at some step: no step forgets all, all together do
    alternating.params["weight_ih_l0"] = np.where(np.arange(8)[:, None] < 4, [1.0, -2.0], [-2.0, 1.0])
    steps = np.zeros((40, B, 2))
    steps[::2, :, 0], steps[1::2, :, 1] = 1, 1
    assert "forgets its state entirely within" in rules_of(diagnosed(alternating, steps))["exponents"]
    assert "is stable" in vanishing["exponents"]
    assert "finite" not in vanishing
    assert diagnosed(rnn(0.9 * eye, "linear"), normal(20, B, 2)).verdict.startswith("The gradient fades")
    assert "is at the edge of chaos" in rules_of(diagnosed(rnn(np.eye(8), "linear")))["exponents"]
    exploding = rules_of(diagnosed(rnn(1.5 * eye, "linear")))
    assert "explodes" in exploding["decay"]
    assert "is chaotic" in exploding["exponents"]
    assert "may grow" in exploding["bounds"]
    assert "grows" in rules_of(diagnosed(rnn(1.05 * eye, "linear")))["decay"]
    noisy = rnn(3 * normal(36, 36) / 6)
    noisy.params["weight_ih_l0"] = 0.1 * np.ones((36, 2))
    chaotic = diagnosed(noisy, normal(200, B, 2))
    assert "is chaotic" in rules_of(chaotic)["exponents"]
    assert "explodes" in rules_of(chaotic)["decay"]
    dead = rnn(eye, "relu")
    dead.params["bias_l0"] = np.where(np.arange(8) < 2, -100.0, 0.0)
    assert rules_of(diagnosed(dead))["dead"] == "Layer 0: 2 of 8 units are never active."
    assert "h is saturated in 100%" in rules_of(diagnosed(rnn(0.1 * eye, bias=5.0)))["saturated"]
    large = rules_of(diagnosed(rnn(eye), 1e5 + 1e-2 * normal(20, B, 2)))
    assert "input of layer 0 is large: a feature has a root mean square of 1e+05" in large["inputs"]
    assert large["decay"] == "The gradient vanishes: nothing of it is left one step back."
    assert "inputs" not in vanishing
    gru = bptt.GRU(2, 8, seed=0)
    gru.params["bias_l0"] = np.where(np.arange(24) // 8 == 1, -5.0, 0.0)
    forgetful = rules_of(diagnosed(gru, normal(100, B, 2)))
    assert "remembers briefly" in forgetful["memory"]
    assert "init={'bias': bptt.init.chrono(100)}" in forgetful["memory"]
    assert "gate z is saturated" in forgetful["saturated"]
    assert "Truncation to " in forgetful["truncation"]
    nothing = rules_of(bptt.diagnose(gru, normal(100, B, 2), None, lambda y, t: (0.0, 0 * y)))
    assert "no gradient" in nothing["finite"]
    assert "too small" in nothing["decay"]

    def at_the_end(y: Any, target: Any) -> Any:
        dy = np.zeros_like(y)
        dy[-1] = 1.0
        return 0.0, dy

    assert (
        "comes from the last 10 of 100" in rules_of(bptt.diagnose(gru, normal(100, B, 2), None, at_the_end))["recent"]
    )


def test_shares_beyond_the_whole_are_said_in_words() -> None:
    report = diagnosed(bptt.GRU(2, 3, bidirectional=True, seed=0))

    def said(name: str, *ends: float) -> str:
        shares = np.full(T, (1 - sum(ends)) / (T - 6))
        shares[:3], shares[-3:] = ends[0] / 3, ends[1] / 3
        facts = dataclasses.replace(report.kernels[name], shares=shares)
        return rules_of(dataclasses.replace(report, kernels={name: facts})).get("recent", "")

    forward, reverse = report.kernels
    assert said(forward, 0, 0.95) == f"Layer {forward}: 95% of the weights' gradient comes from the last 3 of 30 steps."
    assert said(forward, 0, 1.01).endswith("comes from the last 3 of 30 steps; the others together work against it.")
    assert said(reverse, 1.0, 0).endswith("100% of the weights' gradient comes from the first 3 of 30 steps.")
    assert said(reverse, 0, 1.01) == said(forward, 1.01, 0) == ""


def test_the_docs_have_the_table_of_rules() -> None:
    text = (Path(__file__).parent.parent / "docs" / "insight.md").read_text("utf-8")
    table = [
        line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")
    ]  # and one of functions
    assert [name for name in table if not name.startswith("bptt.")] == list(RULES)


def test_what_is_not_measured_is_said() -> None:
    report = diagnosed(bptt.GRU(2, 3, zoneout=0.1, seed=0))
    assert len(report.notes) == 3
    assert str(report).count("not measured: ") == 3
    assert report.truncation is None
    assert report.kernels["0"].shares is None
    assert report.kernels["0"].spectrum is None
    last = bptt.Sequential(bptt.GRU(2, 3, seed=0), bptt.Last())
    (note,) = bptt.diagnose(last, normal(20, 2, 2), np.zeros((2, 3)), mse).notes  # as fit refuses it
    assert note == "truncation, since a model with one output for each row (Last) has no loss in each chunk"
    short = diagnosed(bptt.GRU(2, 3, seed=0), normal(1, 1, 2))
    assert short.verdict.startswith("The sequence of 1 steps is too short")
    assert "fewer than 10 steps" in short.notes[0]
    empty = diagnosed(bptt.GRU(2, 3, seed=0), normal(3, 2, 2), [0, 1])
    assert empty.kernels


def test_a_truncated_gradient_of_zero_is_not_enough() -> None:
    """x is zero but at step 0, the loss is that of step 1, and weight_ih is zero: its gradient takes two steps."""
    layer = bptt.RNN(1, 1, nonlinearity="linear", bias=False, dtype="float64")
    layer.params["weight_hh_l0"] = np.ones((1, 1))
    layer.params["weight_ih_l0"] = np.zeros((1, 1))
    x = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])[:, np.newaxis, np.newaxis]

    def second(y: Any, target: Any) -> Any:
        dy = np.zeros_like(y)
        dy[1] = 1.0
        return float(y[1].sum()), dy

    found = bptt.diagnose(layer, x, None, second).truncation
    assert found is not None
    assert found.enough == 2
    found = bptt.diagnose(layer, 0 * x, None, second).truncation
    assert found is not None
    assert found.enough is None


OPTIONS: list[dict[str, Any]] = [
    {"checkpoint": 3}, {"zoneout": 0.3}, {"recurrent_dropout": 0.3}, {"clip_state": 0.3}, {"clip_grad_per_step": 0.01},
    {"learn_initial_state": True}, {"bias": False}, {"num_layers": 2, "dropout": 0.3}, {"batch_first": True},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layers_with_options(options: dict[str, Any]) -> None:
    layer = bptt.LSTM(I, H, seed=0, **options)
    x = normal(B, T, I) if layer.batch_first else normal(T, B, I)
    report = diagnosed(layer, x, [T, 9, 20])
    assert all(np.isfinite(norm).all() and norm.any() for norm in report.flow.norms.values())
    assert 0 < report.flow.decay < 1.5
    assert str(report)
    assert len(bptt.watch(layer, x, np.zeros((*x.shape[:2], H)), mse).records[0].norms) == 2 * layer.num_layers


def test_weights_that_are_not_finite() -> None:
    layer = bptt.RNN(2, 3, seed=0)
    layer.params["weight_hh_l0"] = np.full((3, 3), np.nan)
    report = diagnosed(layer)
    assert [each.rule for each in report.findings] == ["finite", "decay", "bounds"]
    assert report.verdict.startswith("The loss is nan")
    assert "weight_hh is not finite" in report.verdict


def test_the_import_is_late() -> None:
    code = """
import sys, bptt
assert "bptt.insight" not in sys.modules
assert {"diagnose", "gradient_flow", "insight", "lyapunov_exponents", "watch"} <= set(dir(bptt))
assert callable(bptt.diagnose) and bptt.insight.watch is bptt.watch
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model = bptt.Sequential(bptt.LSTM(2, 4, seed=0), bptt.RNN(4, 3, seed=0), bptt.Linear(3, 1, seed=0))
    x, target = normal(20, 2, 2), np.zeros((20, 2, 1))
    report = bptt.diagnose(model, x, target, mse)
    assert len(report.plot(tmp_path / "page.PNG").axes) == 6
    assert (tmp_path / "page.PNG").read_bytes().startswith(b"\x89PNG")
    assert report.flow.plot().axes
    assert bptt.watch(model, x, target, mse).plot().axes
    assert diagnosed(bptt.GRU(2, 3, zoneout=0.1)).plot().axes
    with pytest.raises(ValueError, match=r"plot: path has the ending \.xyz, expected one of \.png, \.svg, \.pdf"):
        report.plot(tmp_path / "page.xyz")
    with pytest.raises(OSError, match="cannot write"):
        report.plot(tmp_path / "missing" / "page.png")
    assert len(list(tmp_path.iterdir())) == 1
    nothing = bptt.diagnose(bptt.GRU(2, 3), normal(1, 1, 2), None, lambda y, t: (0.0, 0 * y))
    assert nothing.plot().axes


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"plot: matplotlib is not installed, .*'bptt\[plot\]'"):
        diagnosed(bptt.GRU(2, 3)).plot()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_takes_three_percent_of_the_time(monkeypatch: Any) -> None:
    clock = Clock()
    monkeypatch.setattr(watching, "perf_counter", clock)
    model, x, target = bptt.GRU(2, 3, seed=0), normal(6, 2, 2), np.zeros((6, 2, 3))

    def costly(y: Any, t: Any) -> Any:
        clock.now += 1.0  # a record takes a second
        return mse(y, t)

    watched = bptt.watch(model, x, target, costly)
    run, step = None, bptt.train.Step(1, 0, 0.0, 0.0, False, 1)
    watched.on_train_begin(run)
    for _ in range(1000):
        clock.now += 0.5
        watched.on_step(run, step)
        assert watched.spent_s <= 0.03 * max(watched.watched_s, 1e-9) + 1e-9
    assert 12 <= len(watched.records) - 1 <= 15  # of some 500 s
    clock.now += 1e6  # the user has lunch between two runs of fit
    watched.on_train_begin(run)
    clock.now += 0.5
    watched.on_step(run, step)
    assert watched.watched_s == 1001 * 0.5 + len(watched.records) - 1  # the first record was before the run
    assert [record.update for record in watched.records] == sorted({record.update for record in watched.records})


def test_a_watch_does_not_disturb_training() -> None:
    x, target = normal(10, 4, 2), np.zeros((10, 4, 1))

    def trained(watched: bool) -> tuple[Any, Any]:
        model = bptt.Sequential(bptt.LSTM(2, 4, 2, dropout=0.3, seed=0), bptt.Linear(4, 1, seed=0))
        watch = bptt.watch(model, x, target, mse) if watched else None
        callbacks = [] if watch is None else [watch]
        bptt.fit(model, [(x, target)], loss=mse, optimizer=bptt.optim.Adam(), epochs=30, callbacks=callbacks)
        return copy.deepcopy(model.params.flat), watch

    flat, watched = trained(True)
    assert flat.tobytes() == trained(False)[0].tobytes()
    assert watched.records[0].update == 0
    assert set(watched.records[0].norms) == {"0_l0.h", "0_l0.c", "0_l1.h", "0_l1.c"}
    assert {name.partition(".")[0] for name in watched.records[0].saturation} == {"0_l0", "0_l1"}
    json.dumps(watched.to_dict())
    assert repr(watched).endswith("in 30 updates)")
    assert watched.records[-1].update == 30
    assert watched.records[0].loss != watched.records[-1].loss
    with pytest.raises(ValueError, match="watch: share has value -1"):
        bptt.watch(bptt.GRU(2, 1), x, target, mse, share=-1)
