# SPDX-License-Identifier: Apache-2.0
"""The reference's cells compared with independent results: central differences, scalar equations, PyTorch.

Its stateless parts (dense layers, losses, optimizer steps) have their own file. Shapes as there: x [T,B,I], y [T,B,H].
"""

import doctest
import importlib
import itertools
import math
import pkgutil
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bptt import reference
from differences import EPS, Array, Terms, check_gradient

# No kink is nearer; a step of 2 eps^(1/5) along one element moves the pre-activations by at most 0.02 here.
KINK_MARGIN = 0.03

Case = tuple[dict[str, Array], Array, tuple[Array, ...], Array, tuple[Array, ...]]  # weights, x, states, dy, dstates


def make_case(cell: str, T: int, B: int, H: int, I: int, seed: int = 0) -> Case:  # noqa: E741
    kind = reference.CELLS[cell]
    for attempt in itertools.count(seed):
        rng = np.random.default_rng(attempt)
        weights = {name: rng.uniform(-1, 1, shape) for name, shape in kind.shapes(I, H).items()}
        x = rng.standard_normal((T, B, I))
        states = tuple(rng.standard_normal((B, H)) for _ in range(kind.S))
        if "n" in kind.states:  # a sum of positive weights, the largest of them 1
            states = (*states[:2], 1 + np.abs(states[2]), states[3])
        dy = rng.standard_normal((T, B, H))
        dstates = tuple(rng.standard_normal((B, H)) for _ in range(kind.S))
        if kink_distance(cell, weights, x, states) > KINK_MARGIN:
            break
    return weights, x, states, dy, dstates


def kink_distance(cell: str, weights: Mapping[str, Array], x: Array, states: tuple[Array, ...]) -> float:
    """How far a ReLU is from 0, and the two arguments of an sLSTM's maximum from each other."""
    if cell.startswith("slstm"):
        _, _, tape = reference.forward(cell, weights, x, states)
        gates = [step["k"][:2] for step in tape.steps]  # e^-distance, where one of them is 1
        return float(-np.log(max([0.0, *(np.minimum(i, f).max() for i, f in gates)]) or 1e-300))
    if cell != "rnn_relu":
        return np.inf
    y, _, _ = reference.forward("rnn_relu", weights, x, states)
    h0 = np.concatenate([states[0][None], y])[:-1]
    a = x @ weights["weight_ih"].T + weights["bias"] + h0 @ weights["weight_hh"].T
    return float(np.abs(a).min(initial=np.inf))


SIZES = list(itertools.product((0, 1, 2, 5), (1, 3), (1, 4), (1, 3)))


@pytest.mark.parametrize(("T", "B", "H", "I"), SIZES)
@pytest.mark.parametrize("cell", reference.CELLS)
def test_cell_gradients_agree_with_central_differences(cell: str, T: int, B: int, H: int, I: int) -> None:  # noqa: E741
    weights, x, states, dy, dstates = make_case(cell, T, B, H, I)

    def loss(point: list[Array]) -> Terms:
        w = dict(zip(weights, point[1 + len(states) :], strict=True))
        y, final, _ = reference.forward(cell, w, point[0], tuple(point[1 : 1 + len(states)]))
        pairs = list(zip((dy, *dstates), (y, *final), strict=True))
        # A state that is small by cancellation carries the rounding of terms of order 1.
        return sum(float(np.vdot(d, a)) for d, a in pairs), sum(
            float((np.abs(d) * np.maximum(np.abs(a), 1)).sum()) for d, a in pairs
        )

    _, _, tape = reference.forward(cell, weights, x, states)
    dx, ds0, grads = reference.backward(tape, dy, dstates)
    assert list(grads) == list(weights)
    # A step adds up I + H + 1 products and then about 12 elementwise operations; the loss adds up T+1 arrays [B,H].
    roundings = (T + 1) * (I + H + 13) + (T + 1) * B * H
    check_gradient(loss, [x, *states, *weights.values()], [dx, *ds0, *grads.values()], roundings)


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def scalar_slstm(cell: str, w: Mapping[str, Array], x: float, s: tuple[float, ...]) -> tuple[float, ...]:
    """One unit: sums whose terms weigh exp(a_i), without a stabiliser; c and n of it are those times exp(m)."""
    h, c, n, m = s
    i, f, z, o = (float(w["weight_ih"][g, 0] * x + w["bias"][g] + w["weight_hh"][g, 0] * h) for g in range(4))
    forget = math.exp(f) if cell == "slstm_exp" else sigmoid(f)
    c, n = (math.exp(i) * math.tanh(z) + forget * c * math.exp(m), math.exp(i) + forget * n * math.exp(m))
    m = max(math.log(forget) + m, i)
    return sigmoid(o) * c / n, c / math.exp(m), n / math.exp(m), m


@pytest.mark.parametrize("cell", ["slstm", "slstm_exp"])
def test_slstm_is_a_quotient_of_exponential_sums(cell: str) -> None:
    T = 4
    for seed in range(10):
        weights, x, states, _, _ = make_case(cell, T, 1, 1, 1, seed)
        y, final, _ = reference.forward(cell, weights, x, states)
        s = tuple(each.item() for each in states)
        for t in range(T):
            s = scalar_slstm(cell, weights, x[t].item(), s)
            # 24 roundings a step on terms below 8; c / n and what is weighed do not amplify an earlier step's error.
            assert abs(y[t].item() - s[0]) <= 24 * (t + 1) * EPS * 8
        for ours, expected in zip(final, s, strict=True):
            assert abs(ours.item() - expected) <= 24 * T * EPS * 8


def scalar_step(cell: str, w: Mapping[str, Array], x: float, h: float, c: float) -> tuple[float, float]:
    """One unit, one input: the equations of the papers, each gate by its row."""
    a = [float(w["weight_ih"][g, 0] * x + w["bias"][g]) for g in range(len(w["bias"]))]
    u = [float(w["weight_hh"][g, 0] * h) for g in range(len(w["bias"]))]
    if cell == "rnn_tanh":
        return math.tanh(a[0] + u[0]), 0.0
    if cell == "rnn_relu":
        return max(a[0] + u[0], 0.0), 0.0
    if cell == "rnn_linear":
        return a[0] + u[0], 0.0
    if cell == "gru":
        r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
        n = math.tanh(a[2] + r * (u[2] + float(w["bias_hn"][0])))
        return (1 - z) * n + z * h, 0.0
    if cell == "gru_before":
        r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
        n = math.tanh(a[2] + float(w["weight_hh"][2, 0]) * (r * h))
        return (1 - z) * n + z * h, 0.0
    if cell == "lstm_coupled":
        f, g, o = sigmoid(a[0] + u[0]), math.tanh(a[1] + u[1]), sigmoid(a[2] + u[2])
        c = f * c + (1 - f) * g
        return o * math.tanh(c), c
    p_i, p_f, p_o = w["weight_peephole"][:, 0].tolist() if cell == "lstm_peephole" else (0.0, 0.0, 0.0)
    i, f, g = sigmoid(a[0] + u[0] + p_i * c), sigmoid(a[1] + u[1] + p_f * c), math.tanh(a[2] + u[2])
    c = f * c + i * g
    return sigmoid(a[3] + u[3] + p_o * c) * math.tanh(c), c


@pytest.mark.parametrize("cell", [cell for cell in reference.CELLS if "norm" not in cell and "slstm" not in cell])
def test_cell_equations_gate_by_gate(cell: str) -> None:
    T = 4
    for seed in range(10):
        weights, x, states, _, _ = make_case(cell, T, 1, 1, 1, seed)
        y, final, _ = reference.forward(cell, weights, x, states)
        h, c = states[0].item(), states[-1].item()
        for t in range(T):
            h, c = scalar_step(cell, weights, x[t].item(), h, c)
            # 16 roundings a step, on terms below 4; weights below 1 do not amplify an earlier step's error.
            assert abs(y[t].item() - h) <= 16 * (t + 1) * EPS * max(4.0, abs(h))
        assert final[0].item() == y[-1].item()
        assert reference.CELLS[cell].S == 1 or abs(final[1].item() - c) <= 16 * T * EPS * max(4.0, abs(c))


def normalised(values: list[float]) -> list[float]:
    mean = statistics.fmean(values)
    return [(value - mean) / math.sqrt(statistics.pvariance(values, mean) + 1e-5) for value in values]


def normalised_step(
    cell: str, w: Mapping[str, Array], x: Array, h: list[float], c: list[float]
) -> tuple[list[float], list[float]]:
    """One row, unit by unit; gate g of unit k is number g H + k of the G H that are normalised together."""
    H, rows = len(h), len(w["bias"])
    v, b = w["weight_norm"].tolist(), w["bias"].tolist()
    ax = normalised([sum(float(w["weight_ih"][row, i] * x[i]) for i in range(len(x))) for row in range(rows)])
    ah = normalised([sum(float(w["weight_hh"][row, i] * h[i]) for i in range(H)) for row in range(rows)])
    units = range(H)
    if cell == "gru_norm":
        r, z = (
            [sigmoid(ax[g * H + k] * v[g][k] + b[g * H + k] + ah[g * H + k] * v[3 + g][k]) for k in units]
            for g in range(2)
        )
        at = [2 * H + k for k in units]
        n = [math.tanh(ax[j] * v[2][k] + b[j] + r[k] * ah[j] * v[5][k]) for k, j in zip(units, at, strict=True)]
        return [(1 - z[k]) * n[k] + z[k] * h[k] for k in units], c
    a = [[ax[g * H + k] * v[g][k] + ah[g * H + k] * v[4 + g][k] + b[g * H + k] for k in units] for g in range(4)]
    c = [sigmoid(a[1][k]) * c[k] + sigmoid(a[0][k]) * math.tanh(a[2][k]) for k in units]
    m = normalised(c)
    return [sigmoid(a[3][k]) * math.tanh(m[k] * v[8][k] + v[9][k]) for k in units], c


@pytest.mark.parametrize("H", [1, 2, 3])
@pytest.mark.parametrize("cell", ["lstm_norm", "gru_norm"])
def test_normalised_cells_unit_by_unit(cell: str, H: int) -> None:
    for seed in range(10):
        weights, x, states, _, _ = make_case(cell, 1, 1, H, 2, seed)
        y, final, _ = reference.forward(cell, weights, x, states)
        h, c = normalised_step(cell, weights, x[0, 0], states[0][0].tolist(), states[-1][0].tolist())
        # 4 H + 30 roundings on terms below 4, and a cell's normalisation divides them by sqrt(1e-5) at the least.
        atol = (4 * H + 30) * EPS * 4 / 1e-5**0.5
        np.testing.assert_allclose(y[0, 0], h, rtol=0, atol=atol)
        if cell == "lstm_norm":
            np.testing.assert_allclose(final[1][0], c, rtol=0, atol=atol)


def torch_layer(cell: str, weights: Mapping[str, Array], I: int, H: int) -> Any:  # noqa: E741
    """PyTorch's two biases: ours is their sum, except that bias_hn is separate."""
    torch = pytest.importorskip("torch")
    kinds = {"rnn_tanh": torch.nn.RNN, "rnn_relu": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    options = {"nonlinearity": cell.removeprefix("rnn_")} if cell.startswith("rnn") else {}
    layer = kinds[cell](I, H, dtype=torch.float64, **options)
    bias_hh = np.random.default_rng(1).uniform(-1, 1, weights["bias"].shape)
    bias_ih = weights["bias"] - bias_hh
    if cell == "gru":
        bias_ih[2 * H :], bias_hh[2 * H :] = weights["bias"][2 * H :], weights["bias_hn"]
    values = (weights["weight_ih"], weights["weight_hh"], bias_ih, bias_hh)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(value))
    return layer


@pytest.mark.parametrize(("T", "B", "H", "I"), [(1, 1, 1, 1), (2, 3, 4, 1), (5, 1, 4, 3), (5, 3, 1, 3), (9, 5, 7, 6)])
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_cells_agree_with_pytorch(cell: str, T: int, B: int, H: int, I: int) -> None:  # noqa: E741
    torch = pytest.importorskip("torch")
    weights, x, states, dy, dstates = make_case(cell, T, B, H, I, seed=7)
    layer = torch_layer(cell, weights, I, H)
    tx, *ts = [torch.tensor(a, requires_grad=True) for a in (x, *(s[None] for s in states))]
    ty, tfinal = layer(tx, tuple(ts) if cell == "lstm" else ts[0])
    tfinal = tfinal if cell == "lstm" else (tfinal,)
    torch.autograd.backward((ty, *tfinal), tuple(torch.tensor(a) for a in (dy, *(d[None] for d in dstates))))

    y, final, tape = reference.forward(cell, weights, x, states)
    dx, ds0, grads = reference.backward(tape, dy, dstates)
    dbias_hh = grads["bias"].copy()
    if cell == "gru":
        dbias_hh[2 * H :] = grads["bias_hn"]
    ours = [y, *final, dx, *ds0, grads["weight_ih"], grads["weight_hh"], grads["bias"], dbias_hh]
    theirs = [ty.detach(), *(s.detach()[0] for s in tfinal), tx.grad, *(s.grad[0] for s in ts)]
    theirs += [parameter.grad for parameter in layer.parameters()]
    # The same sums in another order: T steps, there and back, each of I + H + 13 roundings; weights add up T*B terms.
    roundings = 2 * T * (I + H + 13) + T * B
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=roundings * EPS * max(1.0, float(np.abs(a).max())))


@pytest.mark.parametrize("cell", reference.CELLS)
def test_no_time_steps(cell: str) -> None:
    weights, x, states, dy, dstates = make_case(cell, 0, 3, 4, 2)
    y, final, tape = reference.forward(cell, weights, x, states)
    dx, ds0, grads = reference.backward(tape, dy, dstates)
    assert y.shape == (0, 3, 4)
    assert dx.shape == (0, 3, 2)
    for a, b in zip((*final, *ds0), (*states, *dstates), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(g.any() for g in grads.values())


@pytest.mark.parametrize("cell", reference.CELLS)
def test_two_halves_make_a_whole(cell: str) -> None:
    """Splitting the sequence and handing the state and its gradient over changes nothing (the basis of TBPTT)."""
    weights, x, states, dy, dstates = make_case(cell, 5, 3, 4, 2)
    y, final, tape = reference.forward(cell, weights, x, states)
    y1, middle, tape1 = reference.forward(cell, weights, x[:2], states)
    y2, final2, tape2 = reference.forward(cell, weights, x[2:], middle)
    for a, b in zip((y, *final), (np.concatenate([y1, y2]), *final2), strict=True):
        np.testing.assert_array_equal(a, b)

    dx, ds0, grads = reference.backward(tape, dy, dstates)
    dx2, dmiddle, grads2 = reference.backward(tape2, dy[2:], dstates)
    dx1, ds1, grads1 = reference.backward(tape1, dy[:2], dmiddle)
    for a, b in zip((dx, *ds0), (np.concatenate([dx1, dx2]), *ds1), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, g in grads.items():  # the same 15 terms, in another order; below 10 in magnitude for these seeds
        np.testing.assert_allclose(g, grads1[name] + grads2[name], rtol=0, atol=15 * 15 * EPS * 10)


@pytest.mark.parametrize("cell", reference.CELLS)
def test_everything_is_float64_and_the_tape_is_a_value(cell: str) -> None:
    case = make_case(cell, 3, 2, 4, 3)
    weights, x, dy = {name: a.astype(np.float32) for name, a in case[0].items()}, case[1].copy(), case[3]
    states, dstates = (tuple(a.astype(np.float32) for a in s) for s in (case[2], case[4]))
    y, final, tape = reference.forward(cell, weights, x, states)
    exact = reference.forward(cell, {name: a.astype(np.float64) for name, a in weights.items()}, x, states)[0]
    np.testing.assert_array_equal(y, exact)
    first = reference.backward(tape, dy, dstates)
    results: list[Array] = [y, *final, first[0], *first[1], *first[2].values()]
    assert all(a.dtype == np.float64 for a in results)
    kept = [a.copy() for a in results[1 + len(final) :]]
    given: list[NDArray[Any]] = [x, *states, *weights.values()]
    for a in given + results:
        a[:] = 99
    again = reference.backward(tape, dy, dstates)
    for a, b in zip((again[0], *again[1], *again[2].values()), kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gates_saturate_without_overflow() -> None:
    for cell in reference.CELLS:
        weights, x, states, dy, dstates = make_case(cell, 2, 1, 2, 1)
        huge = {name: 1e150 * a for name, a in weights.items()}
        y, _, tape = reference.forward(cell, weights if cell in ("rnn_relu", "rnn_linear") else huge, x, states)
        dx, _, _ = reference.backward(tape, dy, dstates)
        assert np.isfinite(y).all()
        assert np.isfinite(dx).all()


ONE = ([[1.0]],)
RNN: dict[str, Any] = {"weight_ih": [[1.0]], "weight_hh": [[1.0]], "bias": [0.0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstn", RNN, [[[1.0]]], ONE), r"forward: cell is 'lstn', expected one of rnn_tanh, "),
        (("rnn_tanh", RNN | {"bias": [0.0, 0.0]}, [[[1.0]]], ONE), r"forward: bias has shape \(2,\), expected \(1,\)"),
        (("gru", RNN, [[[1.0]]], ONE), r"forward: bias has shape \(1,\), expected \(3,\)"),
        (("rnn_tanh", RNN | {"bias_hn": [0.0]}, [[[1.0]]], ONE), r"forward: bias_hn has shape \(1,\), expected None"),
        (("rnn_tanh", RNN, [[[1.0], [1.0]]], ONE), r"forward: h has shape \(1, 1\), expected \(2, 1\)"),
    ],
)
def test_forward_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference.forward(*arguments)


def test_backward_refuses_a_gradient_that_would_broadcast() -> None:
    _, _, tape = reference.forward("rnn_tanh", RNN, np.ones((3, 2, 1)), (np.ones((2, 1)),))
    with pytest.raises(ValueError, match=r"backward: dy has shape \(3, 1, 1\), expected \(3, 2, 1\)"):
        reference.backward(tape, np.ones((3, 1, 1)), (np.ones((2, 1)),))


def test_docstring_examples() -> None:
    names = [info.name for info in pkgutil.iter_modules(reference.__path__)]
    results = [doctest.testmod(importlib.import_module(f"bptt.reference.{name}")) for name in names]
    assert sum(result.attempted for result in results) > 10
    assert not any(result.failed for result in results)
