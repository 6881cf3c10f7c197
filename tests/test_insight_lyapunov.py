# SPDX-License-Identifier: Apache-2.0
"""Lyapunov exponents: cases whose exponents are known, Jacobians against the reference, what cannot be computed."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import reference
from bptt.insight.growth import log_growth, mean_and_error, orthonormal
from bptt.insight.kernel import Kernel, trajectories
from stacks import DTYPES, KINDS, Case, make, parts, states_of, threads, weights_of

RNG = np.random.default_rng


def linear(W: Any, dtype: str = "float64") -> bptt.RNN:
    layer = bptt.RNN(2, len(W), nonlinearity="linear", dtype=dtype, seed=0)
    layer.params["weight_hh_l0"] = np.asarray(W)
    return layer


@pytest.mark.parametrize(("rho", "expected"), [(0.9, -0.1053605), (1.1, 0.0953102)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scaled_rotation_has_equal_exponents(rho: float, expected: float, dtype: str) -> None:
    Q = np.linalg.qr(RNG(0).standard_normal((6, 6)))[0]
    found = bptt.lyapunov_exponents(linear(rho * Q, dtype), np.zeros((100, 2, 2)))
    # Weights in float32 are off by half a unit of the last place: 6 of them in each singular value.
    np.testing.assert_allclose(found.exponents, math.log(rho), rtol=0, atol=1e-12 if dtype == "float64" else 6 * 6e-8)
    assert abs(found.exponents[0] - expected) < 6e-7
    assert found.converged
    assert found.sum_rule is not None
    assert abs(found.sum_rule[0] - found.sum_rule[1]) < 1e-12


def test_a_linear_layer_has_the_logarithms_of_its_eigenvalues() -> None:
    """Of W = V D V^-1, |W^n q| lies between |d|^n / cond(V) and |d|^n cond(V): the mean over n steps is off by
    2 ln cond(V) / n at most, where the vectors have turned into the invariant subspaces."""
    W = RNG(1).standard_normal((5, 5))
    values, V = np.linalg.eig(W)
    found = bptt.lyapunov_exponents(linear(W), np.zeros((1000, 1, 2)))
    expected = np.sort(np.log(np.abs(values)))[::-1]
    assert np.abs(found.exponents - expected).max() < 2 * math.log(np.linalg.cond(V)) / found.steps
    np.testing.assert_allclose(found.exponents, expected, rtol=0.01)


GAUSSIAN = (0.0579658, -0.6351814)  # (psi(n / 2) + ln 2) / 2 for n = 2, 1: |R_ii| is chi-distributed


def test_products_of_gaussian_matrices() -> None:
    rng, rows, steps = RNG(0), 10000, 8
    logs = log_growth(lambda s, Q: rng.standard_normal((rows, 2, 2)) @ Q, orthonormal(rng, rows, 2, 2), steps)
    error = logs.reshape(-1, 2).std(axis=0) / math.sqrt(rows * steps)
    assert (np.abs(logs.mean(axis=(0, 1)) - GAUSSIAN) < 4 * error).all()


def test_products_of_gaussian_matrices_drawn_evenly() -> None:
    """As above within 1 %: Z Q^T is Gaussian where Z is, and Z = [z, w] has |z| and the part of w across z at the
    middles of `rows` equally likely intervals, in random order. The largest error is that of the interval at zero."""
    rng, rows = RNG(0), 10000
    middles = (np.arange(rows) + 0.5) / rows
    across = np.array([NormalDist().inv_cdf(p) for p in middles])

    def apply(s: int, Q: Any) -> Any:
        angle, length = rng.uniform(0, 2 * np.pi, rows), np.sqrt(-2 * np.log(rng.permutation(middles)))
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        normal = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
        w = rng.standard_normal((rows, 1)) * unit + rng.permutation(across)[:, np.newaxis] * normal
        return np.stack([length[:, np.newaxis] * unit, w], axis=2) @ Q.swapaxes(1, 2) @ Q

    logs = log_growth(apply, orthonormal(rng, rows, 2, 2), 2)
    np.testing.assert_allclose(logs.mean(axis=(0, 1)), GAUSSIAN, rtol=0.01)


def test_the_tent_map_as_a_relu_layer() -> None:
    m, x0 = 1.9, 0.3
    layer = bptt.RNN(1, 2, nonlinearity="relu", dtype="float64")
    with layer.params.edit() as p:
        p["weight_hh_l0"] = [[m, -2 * m], [m, -2 * m]]
        p["bias_l0"] = [0, -0.5]
        p["weight_ih_l0"] = np.zeros((2, 1))
    start = np.array([[[x0, max(x0 - 0.5, 0)]]])
    found = bptt.lyapunov_exponents(layer, np.zeros((300, 1, 1)), start)
    assert abs(found.exponents[0] - 0.6418539) < 1e-7
    assert abs(found.exponents[0] - math.log(m)) < 1e-12
    assert found.exponents[1] == -np.inf
    assert np.isnan(found.error[1])
    assert found.converged


def test_an_lstm_without_recurrent_weights_forgets_at_the_rate_of_its_gate() -> None:
    layer = bptt.LSTM(2, 3, dtype="float64", seed=0)
    with layer.params.edit() as p:
        p["weight_hh_l0"] = np.zeros((12, 3))
        p["weight_ih_l0"][3:6] = 0
        p["bias_l0"][3:6] = math.log(100)
    found = bptt.lyapunov_exponents(layer, np.ones((100, 1, 2)))
    np.testing.assert_allclose(found.exponents[:3], -math.log1p(0.01), rtol=1e-12)
    assert abs(found.exponents[0] + 0.0099503) < 1e-7
    assert (found.exponents[3:] == -np.inf).all()


def test_the_sum_of_a_tanh_layer_is_that_of_the_determinants() -> None:
    layer = bptt.RNN(3, 7, dtype="float64", seed=0)
    x = RNG(0).standard_normal((60, 2, 3))
    found = bptt.lyapunov_exponents(layer, x, warmup=6)
    h = layer(x)[0][6:-6]
    expected = np.linalg.slogdet(layer.params["weight_hh_l0"])[1] + np.log(1 - h**2).sum(axis=2).mean()
    assert abs(found.exponents.sum() - expected) < 1e-10
    assert found.sum_rule is not None
    assert abs(found.sum_rule[1] - expected) < 1e-10


def test_the_sum_of_an_lstm_is_that_of_the_determinants() -> None:
    layer = bptt.LSTM(3, 5, dtype="float64", seed=0)
    x = RNG(0).standard_normal((60, 2, 3))
    found = bptt.lyapunov_exponents(layer, x, warmup=6)
    gates = {name: values[6:-6] for name, values in layer.forward(x)[2].gates().items()}
    f, o, c = gates["f"], gates["o"], gates["c"]
    terms = np.log(f) + np.log(np.abs(np.tanh(c))) + np.log(o * (1 - o))
    expected = np.linalg.slogdet(layer.params["weight_hh_l0"][15:])[1] + terms.sum(axis=2).mean()
    assert len(found.exponents) == 10
    assert abs(found.exponents.sum() - expected) < 1e-9


def test_the_henon_map() -> None:
    a, b, (x, y) = 1.4, 0.3, (0.1, 0.1)
    jacobians = []
    for _ in range(5000):
        jacobians.append([[-2 * a * x, 1.0], [b, 0.0]])
        x, y = 1 - a * x * x + y, b * x
    J = np.array(jacobians)
    logs = log_growth(lambda s, Q: J[s] @ Q, np.eye(2), len(J))
    np.testing.assert_allclose(logs[100:].mean(axis=0), [0.4204, -1.6244], rtol=0.01)
    assert abs(logs.mean(axis=0).sum() - math.log(0.3)) < 1e-12


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("slstm")])
def test_products_with_jacobians_are_those_of_the_reference(kind: str) -> None:
    layer = make(kind, 3)
    case = Case.random(kind, "float64", T=5, B=2, I=3)
    layer = case.layer
    kernel, path = next(trajectories(layer, case.x, case.state))
    vectors = RNG(0).standard_normal((2, kernel.size))
    widths = np.cumsum([s.shape[2] for s in parts(case.state)])[:-1]
    weights, cell = weights_of(case, "_l0"), KINDS[kind][2]
    states = tuple(s[0] for s in parts(case.state))
    for t in range(5):
        for mine, theirs in zip(path.before, states, strict=True):
            np.testing.assert_allclose(mine[t], theirs, rtol=0, atol=1e-13)
        y, final, tape = reference.forward(cell, weights, case.x[t : t + 1], states)
        expected = reference.backward(tape, np.zeros_like(y), tuple(np.split(vectors, widths, axis=1)))[1]
        got = kernel.pulled(case.x[t], tuple(s[t] for s in path.before), vectors)
        # Sums of 4 H terms of order one, of which each product is rounded to 1.1e-16.
        np.testing.assert_allclose(got, np.concatenate(expected, axis=1), rtol=0, atol=1e-13 * case.layer.hidden_size)
        states = final
    assert len(states) == len(states_of(kind))


def test_threads_change_no_bit_of_a_product() -> None:
    kernel = Kernel(bptt.LSTM(8, 64, seed=0), 0)
    rng = RNG(0)
    x, state, vectors = rng.standard_normal((90, 8)), rng.standard_normal((2, 90, 64)), rng.standard_normal((90, 128))
    found = []
    for n in (1, 2, 3):
        with threads(n):
            found.append(kernel.pulled(x, tuple(state), vectors).tobytes())
    assert found[0] == found[1] == found[2]


def test_a_stack_has_the_exponents_of_its_layers() -> None:
    x = RNG(0).standard_normal((80, 2, 3))
    stack = bptt.GRU(3, 4, num_layers=2, bidirectional=True, dtype="float64", seed=0)
    whole = bptt.lyapunov_exponents(stack, x)
    assert len(whole.exponents) == 16
    single = []
    flow = x
    for k in range(2):
        outputs = []
        for end in ("", "_reverse"):
            layer = bptt.GRU(flow.shape[2], 4, dtype="float64")
            ends = {name: stack.params[f"{name[:-3]}_l{k}{end}"] for name in layer.params}
            layer.load_state_dict(ends)
            own = flow[::-1] if end else flow
            single.append(bptt.lyapunov_exponents(layer, own).exponents)
            y = layer(own)[0]
            outputs.append(y[::-1] if end else y)
        flow = np.concatenate(outputs, axis=2)
    np.testing.assert_allclose(whole.exponents, np.sort(np.concatenate(single))[::-1], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(bptt.lyapunov_exponents(stack, x, k=3).exponents.shape, (3,))


def test_what_has_not_converged_says_so() -> None:
    chaos = bptt.RNN(1, 30, dtype="float64", bias=False)
    chaos.params["weight_hh_l0"] = 2 * RNG(0).standard_normal((30, 30)) / math.sqrt(30)
    chaos.params["weight_ih_l0"] = np.ones((30, 1))
    short = bptt.lyapunov_exponents(chaos, np.zeros((12, 1, 1)) + 0.1, k=2, warmup=0)
    assert not short.converged
    assert not short.converged_each[0]
    long = bptt.lyapunov_exponents(chaos, np.zeros((800, 2, 1)) + 0.1, k=1)
    assert long.exponents[0] > 0


def test_states_that_overflow_have_no_exponents() -> None:
    layer = bptt.RNN(2, 3, nonlinearity="relu", dtype="float64", seed=0)
    layer.params["weight_hh_l0"] = 1e200 * np.ones((3, 3))
    layer.params["weight_ih_l0"] = np.ones((3, 2))
    found = bptt.lyapunov_exponents(layer, np.ones((20, 1, 2)))
    assert np.isnan(found.exponents).all()
    assert not found.converged
    linear_found = bptt.lyapunov_exponents(linear(1e200 * np.eye(3)), np.ones((20, 1, 2)))
    np.testing.assert_allclose(linear_found.exponents, 200 * math.log(10))


def test_learnt_and_given_states_and_forms_of_x_agree() -> None:
    layer = bptt.LSTM(2, 3, dtype="float64", seed=0, learn_initial_state=True)
    layer.params["initial_h_l0"] = np.ones(3) / 2
    x = RNG(0).standard_normal((30, 1, 2))
    state = (np.full((1, 1, 3), 0.5), np.zeros((1, 1, 3)))
    found = [bptt.lyapunov_exponents(layer, *given).exponents for given in ((x,), (x, state), (x[:, 0],))]
    turned = bptt.LSTM(2, 3, dtype="float64", batch_first=True, learn_initial_state=True)
    turned.load_state_dict(layer.state_dict())
    found.append(bptt.lyapunov_exponents(turned, x.swapaxes(0, 1)).exponents)
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])


def test_the_standard_error_is_that_of_independent_values() -> None:
    values = RNG(0).standard_normal((4000, 5, 2))
    mean, error = mean_and_error(values)
    assert (np.abs(mean) < 4 / math.sqrt(20000)).all()
    np.testing.assert_allclose(error, 1 / math.sqrt(20000), rtol=4 / math.sqrt(2 * 19))  # of a deviation of 20 blocks
    assert np.isnan(mean_and_error(values[:1])[1]).all()


X = np.ones((20, 2, 3))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: bptt.lyapunov_exponents(bptt.Linear(3, 3), X),
            TypeError,
            "layer has type Linear, expected a rec",
        ),
        (lambda: bptt.lyapunov_exponents(bptt.GRUCell(3, 3), X), TypeError, "layer has type GRUCell"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3, zoneout=0.1), X), ValueError, "layer has zoneout"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3, clip_state=0.1), X), ValueError, "layer has clip_state"),
        (lambda: bptt.lyapunov_exponents(bptt.SLSTM(3, 3), X), ValueError, "layer has a stabiliser"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X[:0]), ValueError, "x has 0 steps of 2 rows"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X[:, :0]), ValueError, "x has 20 steps of 0 rows"),
        (
            lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X, warmup=10),
            ValueError,
            "x has 20 steps of 2 rows, exp",
        ),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X, k=4), ValueError, "k has value 4, expected at most 3"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X, k=0), ValueError, "k has value 0"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X * np.nan), ValueError, "x has the value nan"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X[..., :2]), ValueError, r"x has shape \(20, 2, 2\)"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), X, X), ValueError, r"state h has shape \(20, 2, 3\)"),
        (lambda: bptt.lyapunov_exponents(bptt.GRU(3, 3), bptt.Packed(X[0], [2])), ValueError, "x has packed rows"),
    ],
)
def test_what_does_not_fit_is_an_error(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"lyapunov_exponents: {message}") as error:
        call()
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
