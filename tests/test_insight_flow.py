# SPDX-License-Identifier: Apache-2.0
"""Gradient flow: exact decays, norms against gradients of initial states, forms of batches, what stays as it was."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.insight.flow import STARTS
from bptt.insight.propagation import propagation, student
from stacks import DTYPES, KINDS, make, parts, states_of, threads, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
T, B, I, H = 12, 3, 4, 7  # noqa: E741


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def given(dy: Any) -> Any:
    """A loss with this gradient."""
    return lambda y, target, mask=None: (float((y * dy).sum()), dy * np.ones_like(y))


@pytest.mark.parametrize("rho", [0.9, 1.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scaled_rotation_gives_powers(rho: float, dtype: str) -> None:
    layer = bptt.RNN(2, 6, nonlinearity="linear", dtype=dtype, seed=0)
    layer.params["weight_hh_l0"] = rho * np.linalg.qr(normal(6, 6))[0]
    x = normal(60, 3, 2)
    flow = bptt.gradient_flow(layer, x, np.zeros((60, 3, 6)), bptt.losses.mse)
    eps = float(np.finfo(dtype).eps)
    # One step rounds sums of H + 1 terms, and the weights, to eps: k steps are off by k (H + 2) eps at most.
    np.testing.assert_allclose(flow.by_lag.median, rho ** np.arange(60), rtol=60 * 8 * eps)
    assert flow.by_lag[7].rows == 3 * STARTS
    assert abs(flow.decay / rho - 1) < 8 * eps
    low, high = flow.decay_interval
    assert low - 8 * eps <= rho <= high + 8 * eps
    assert high - low < 100 * eps
    assert flow.half_life == (pytest.approx(math.log(2) / -math.log(0.9), rel=100 * eps) if rho < 1 else math.inf)


def tail_gradients(layer: Any, x: Any, dy: Any, t: int) -> list[Any]:
    """The gradient of each state of one layer as it leaves step t: what the steps behind give, and dy itself."""
    final, tape = layer.forward(x[: t + 1])[1], None
    state = list(parts(final))
    got = [np.zeros_like(s[0]) for s in state]
    if t + 1 < len(x):
        tape = layer.forward(x[t + 1 :], whole(state))[2]
        got = [s[0] for s in parts(layer.backward(tape, dy[t + 1 :])[1])]
    got[0] = got[0] + dy[t]
    return got


@every_kind
def test_norms_are_those_of_gradients_of_the_states(kind: str) -> None:
    layer, x = make(kind, I), normal(T, B, I)
    dy = normal(T, B, layer.output_size, seed=1)
    flow = bptt.gradient_flow(layer, x, None, given(dy))
    assert list(flow.norms) == [f"0.{name}" for name in states_of(kind)]
    for t in range(T):
        for norm, gradient in zip(flow.norms.values(), tail_gradients(layer, x, dy, t), strict=True):
            # Sums in another order, of some 10 H terms of order one through T steps.
            assert norm[t] == pytest.approx(np.linalg.norm(gradient), rel=1e-11, abs=1e-11)


@every_kind
def test_lags_are_those_of_a_gradient_at_one_step(kind: str) -> None:
    layer, x = make(kind, I), normal(T, 1, I)
    dy = np.zeros((T, 1, layer.output_size))
    dy[9] = 1.0
    flow = bptt.gradient_flow(layer, x, None, given(dy))
    size = [
        math.sqrt(sum(float((g**2).sum()) for g in tail_gradients(layer, x[:10], dy[:10], t))) for t in range(9, -1, -1)
    ]
    np.testing.assert_allclose(flow.by_lag.median, np.array(size) / size[0], rtol=1e-10)
    assert len(flow.by_lag) == 10
    assert flow.by_lag[3].rows == 1


def test_decay_agrees_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    layer = bptt.RNN(I, H, dtype="float64", seed=0)
    x = normal(T, B, I)
    flow = bptt.gradient_flow(layer, x, np.zeros((T, B, H)), bptt.losses.mse)
    cell = torch.nn.RNNCell(I, H, dtype=torch.float64)
    cell.load_state_dict({k.removesuffix("_l0"): torch.tensor(v) for k, v in layer.to_torch_state_dict().items()})
    h, states = torch.zeros(B, H, dtype=torch.float64), []
    for row in torch.tensor(x):
        h = cell(row, h)
        h.retain_grad()
        states.append(h)
    (torch.stack(states) ** 2).mean().backward()
    expected = [float(h.grad.norm()) for h in states]
    np.testing.assert_allclose(flow.norms["0.h"], expected, rtol=1e-11)


def model(**options: Any) -> bptt.Sequential:
    return bptt.Sequential(
        bptt.Embedding(10, I, dtype="float64", seed=0),
        bptt.LSTM(I, H, 2, bidirectional=True, dtype="float64", seed=0, **options),
        bptt.Dropout(0.0),
        bptt.GRU(2 * H, 5, dtype="float64", seed=0, **options),
        bptt.Linear(5, 10, dtype="float64", seed=0),
    )


def test_a_model_of_several_layers() -> None:
    ids, lengths = np.random.default_rng(0).integers(0, 10, (T, B)), [12, 5, 0]
    flow = bptt.gradient_flow(model(), ids, ids, bptt.losses.cross_entropy, lengths)
    names = ["1_l0", "1_l0_reverse", "1_l1", "1_l1_reverse", "3"]
    assert list(flow.layers) == names
    assert list(flow.norms) == [f"{name}.{s}" for name in names[:4] for s in "hc"] + ["3.h"]
    assert all(norm.shape == (T,) and np.isfinite(norm).all() for norm in flow.norms.values())
    assert flow.norms["1_l0_reverse.c"][0] == 0  # nothing follows the reverse direction's last step
    turned = model(batch_first=True)
    turned.load_state_dict(model().state_dict())
    same = bptt.gradient_flow(turned, ids.T, ids.T, bptt.losses.cross_entropy, lengths)
    assert same.decay == pytest.approx(flow.decay, rel=1e-12)
    # The loss sums rows in another order.
    for name, norm in same.norms.items():
        np.testing.assert_allclose(norm, flow.norms[name], rtol=1e-12)
    # A row beyond its length has no gradient, and other rows do not count for it.
    alone = bptt.gradient_flow(model(), ids[:5, 1:2], ids[:5, 1:2], bptt.losses.cross_entropy)
    assert alone.norms["3.h"].shape == (5,)
    text = str(flow)
    assert "layer 1_l1_reverse" in text
    json.dumps(flow.to_dict())


def test_rows_without_a_batch_axis() -> None:
    layer, x = bptt.GRU(I, H, dtype="float64", seed=0), normal(T, 1, I)
    one = bptt.gradient_flow(layer, x[:, 0], np.zeros((T, H)), bptt.losses.mse)
    whole = bptt.gradient_flow(layer, x, np.zeros((T, 1, H)), bptt.losses.mse)
    np.testing.assert_array_equal(one.norms["0.h"], whole.norms["0.h"])
    assert one.decay == whole.decay


def test_a_model_that_gives_one_output_for_a_sequence() -> None:
    rnn = bptt.RNN(2, 5, nonlinearity="linear", dtype="float64", seed=0)
    rnn.params["weight_hh_l0"] = 0.8 * np.linalg.qr(normal(5, 5))[0]
    last = bptt.Sequential(rnn, bptt.Last(), bptt.Linear(5, 1, dtype="float64", seed=0))
    flow = bptt.gradient_flow(last, normal(30, 4, 2), np.zeros((4, 1)), bptt.losses.mse)
    assert flow.decay == pytest.approx(0.8, rel=1e-12)
    assert flow.by_lag[3].rows == 4


def test_the_model_stays_as_it_was() -> None:
    def dropping() -> bptt.Sequential:
        return bptt.Sequential(
            bptt.GRU(I, H, 2, dropout=0.5, zoneout=0.2, seed=0), bptt.Dropout(0.5, seed=0), bptt.Linear(H, 1, seed=0)
        )

    x = normal(T, B, I).astype(np.float32)
    used, fresh = dropping(), dropping()
    before = copy.deepcopy(used.params.flat)
    bptt.gradient_flow(used, x, np.zeros((T, B, 1)), bptt.losses.mse)
    assert used.params.flat.tobytes() == before.tobytes()
    assert used.forward(x)[0].tobytes() == fresh.forward(x)[0].tobytes()


def test_threads_change_no_bit() -> None:
    layer, x = bptt.LSTM(16, 64, 2, seed=0), normal(20, 33, 16)
    found = []
    for n in (1, 2, 3):
        with threads(n):
            flow = bptt.gradient_flow(layer, x, np.zeros((20, 33, 64)), bptt.losses.mse)
            found.append((flow.decay, [norm.tobytes() for norm in flow.norms.values()]))
    assert found[0] == found[1] == found[2]


def test_gradients_that_end_or_overflow() -> None:
    zero = bptt.gradient_flow(bptt.GRU(2, 3, seed=0), normal(9, 2, 2), None, given(0.0))
    assert math.isnan(zero.decay)
    assert math.isnan(zero.half_life)
    assert len(zero.by_lag) == 0
    dead = bptt.RNN(2, 3, nonlinearity="relu", seed=0)
    dead.params["bias_l0"] = np.full(3, -100.0)
    flow = bptt.gradient_flow(dead, normal(9, 2, 2), None, given(1.0))
    assert (flow.decay, flow.half_life, flow.by_lag[1].median) == (0.0, 0.0, 0.0)
    huge = bptt.RNN(2, 3, nonlinearity="linear", seed=0)
    huge.params["weight_hh_l0"] = 1e3 * np.eye(3)
    flow = bptt.gradient_flow(huge, np.zeros((60, 2, 2)), None, given(1.0))
    assert flow.decay == pytest.approx(1e3, rel=1e-4)
    report = bptt.diagnose(huge, np.zeros((60, 2, 2)), None, given(1.0))
    assert [each.rule for each in report.findings][:2] == ["finite", "decay"]
    assert "overflow" in report.verdict
    for steps in (1, 2):
        short = bptt.gradient_flow(bptt.GRU(2, 3, seed=0), normal(steps, 2, 2), None, given(1.0))
        assert math.isnan(short.decay) == (steps == 1)


def test_the_interval_covers_the_rate() -> None:
    """Rows whose rates are normal: 95 % of the intervals hold the mean; of 100, within 4 standard deviations."""
    rng, hits = np.random.default_rng(0), 0
    k = np.arange(6)
    for _ in range(100):
        rates = -0.1 + 0.02 * rng.standard_normal(6)
        low, high = propagation(np.exp(rates[:, np.newaxis] * k)[np.newaxis], 0.0).decay_interval
        hits += low < math.exp(-0.1) < high
    assert abs(hits - 95) < 4 * math.sqrt(100 * 0.95 * 0.05)
    assert student(0) == math.inf
    assert [round(student(n), 2) for n in (1, 10, 11, 30, 1000)] == [12.71, 2.23, 2.2, 2.04, 1.96]


RNN = bptt.RNN(2, 3, seed=0)
X, Y = np.ones((5, 2, 2)), np.ones((5, 2, 3))
mse = bptt.losses.mse


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((bptt.Linear(2, 3), X, Y, mse), TypeError, "model has type Linear"),
        ((bptt.Sequential(bptt.Linear(2, 3)), X, Y, mse), ValueError, "model has no recurrent layer"),
        ((bptt.Sequential(bptt.GRUCell(2, 3)), X[0], Y[0], mse), TypeError, "model has cells"),
        ((RNN, X, Y, 3), TypeError, "loss has type int"),
        ((RNN, X, Y, lambda y, t: 3.0), TypeError, "loss returned float"),
        ((RNN, X, Y, lambda y, t: ("3", y)), TypeError, "loss returned a value of type str"),
        ((RNN, X, Y, lambda y, t: (3.0, y[:2])), ValueError, r"dy has shape \(2, 2, 3\), expected \(5, 2, 3\)"),
        ((RNN, X[:0], Y[:0], mse), ValueError, r"x has shape \(0, 2, 2\)"),
        ((RNN, 3.0, Y, mse), ValueError, r"x has shape \(\)"),
        ((RNN, X, Y, mse, [5]), ValueError, r"lengths has shape \(1,\)"),
        ((RNN, X, Y, mse, [5, 6]), ValueError, "lengths has values from 5 to 6"),
        ((RNN, bptt.Packed(X[0], [2]), Y, mse), ValueError, "x has packed rows"),
    ],
)
@pytest.mark.parametrize("name", ["gradient_flow", "diagnose", "watch"])
def test_what_does_not_fit_is_an_error(name: str, arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"{name}: {message}") as error:
        getattr(bptt, name)(*arguments)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
