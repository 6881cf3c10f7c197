# SPDX-License-Identifier: Apache-2.0
"""The reference held against what does not share its text: central differences, scalar equations, PyTorch.

A central difference with step h = eps^(1/3) is off by h^2/6 |f'''| (truncation; f''' is itself measured, with the
wider step eps^(1/5)) and by n eps M / h = n eps^(2/3) M (rounding), where n counts the roundings on the longest chain
of operations and M is the sum of the magnitudes that f adds up.
"""

import doctest
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bptt import reference

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
KINK_MARGIN = 0.02  # no pre-activation of a ReLU comes nearer to 0; a step of 2 eps^(1/5) = 1.5e-3 moves them less

Terms = tuple[float, float]  # a value, and the sum of the magnitudes it was added up from
Case = tuple[dict[str, Array], Array, tuple[Array, ...], Array, tuple[Array, ...]]  # weights, x, states, dy, dstates


def check_gradient(
    f: Callable[[list[Array]], Terms], point: list[Array], gradient: Sequence[Array], roundings: int
) -> None:
    """Two directions through all elements at once, then one element of each array."""
    rng = np.random.default_rng(len(point))
    assert [g.shape for g in gradient] == [a.shape for a in point]
    size = sum(a.size for a in point)
    directions = [[rng.choice([-1.0, 1.0], a.shape) / math.sqrt(size) for a in point] for _ in range(2)]
    for n, a in enumerate(point):
        if a.size:
            directions.append([np.zeros_like(b) for b in point])
            directions[-1][n].flat[rng.integers(a.size)] = 1.0
    for u in directions:

        def along(s: float, u: list[Array] = u) -> Terms:
            return f([a + s * b for a, b in zip(point, u, strict=True)])

        h, k = EPS ** (1 / 3), EPS ** (1 / 5)
        numerical = (along(h)[0] - along(-h)[0]) / (2 * h)
        third = (along(2 * k)[0] - 2 * along(k)[0] + 2 * along(-k)[0] - along(-2 * k)[0]) / (2 * k**3)
        tolerance = h**2 / 6 * abs(third) * 1.5 + roundings * EPS / h * along(0.0)[1]  # 1.5: the next order of Taylor
        analytic = sum(float(np.vdot(g, b)) for g, b in zip(gradient, u, strict=True))
        assert abs(analytic - numerical) <= tolerance, (analytic, numerical, tolerance)


def make_case(cell: str, T: int, B: int, H: int, I: int, seed: int = 0) -> Case:  # noqa: E741
    kind = reference.CELLS[cell]
    for attempt in itertools.count(seed):
        rng = np.random.default_rng(attempt)
        weights = {name: rng.uniform(-1, 1, shape) for name, shape in kind.shapes(I, H).items()}
        x = rng.standard_normal((T, B, I))
        states = tuple(rng.standard_normal((B, H)) for _ in range(kind.S))
        dy = rng.standard_normal((T, B, H))
        dstates = tuple(rng.standard_normal((B, H)) for _ in range(kind.S))
        if cell != "rnn_relu" or kink_distance(weights, x, states) > KINK_MARGIN:
            break
    return weights, x, states, dy, dstates


def kink_distance(weights: Mapping[str, Array], x: Array, states: tuple[Array, ...]) -> float:
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


def scalar_step(cell: str, w: Mapping[str, Array], x: float, h: float, c: float) -> tuple[float, float]:
    """One unit, one input: the equations of the papers, each gate by its row."""
    a = [float(w["weight_ih"][g, 0] * x + w["bias"][g]) for g in range(len(w["bias"]))]
    u = [float(w["weight_hh"][g, 0] * h) for g in range(len(w["bias"]))]
    if cell == "rnn_tanh":
        return math.tanh(a[0] + u[0]), 0.0
    if cell == "rnn_relu":
        return max(a[0] + u[0], 0.0), 0.0
    if cell == "gru":
        r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
        n = math.tanh(a[2] + r * (u[2] + float(w["bias_hn"][0])))
        return (1 - z) * n + z * h, 0.0
    p_i, p_f, p_o = w["weight_peephole"][:, 0].tolist() if cell == "lstm_peephole" else (0.0, 0.0, 0.0)
    i, f, g = sigmoid(a[0] + u[0] + p_i * c), sigmoid(a[1] + u[1] + p_f * c), math.tanh(a[2] + u[2])
    c = f * c + i * g
    return sigmoid(a[3] + u[3] + p_o * c) * math.tanh(c), c


@pytest.mark.parametrize("cell", reference.CELLS)
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


def torch_layer(cell: str, weights: Mapping[str, Array], I: int, H: int) -> Any:  # noqa: E741
    """PyTorch's two biases: ours is their sum, except that bias_hn stands alone."""
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
        y, _, tape = reference.forward(cell, huge if cell != "rnn_relu" else weights, x, states)
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


@pytest.mark.parametrize("lead", [(), (2,), (4, 3), (0, 3)])
def test_linear(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias, dy = (rng.standard_normal(shape) for shape in ((*lead, 5), (2, 5), (2,), (*lead, 2)))

    def loss(point: list[Array]) -> Terms:
        y = reference.linear_forward(*point)
        magnitude = np.abs(point[0]) @ np.abs(point[1]).T + np.abs(point[2])
        return float(np.vdot(dy, y)), float(np.vdot(np.abs(dy), magnitude))

    np.testing.assert_array_equal(reference.linear_forward(x, weight), reference.linear_forward(x, weight, 0 * bias))
    check_gradient(loss, [x, weight, bias], reference.linear_backward(x, weight, dy), 6 + dy.size)


@pytest.mark.parametrize("lead", [(), (4, 3), (0, 3)])
def test_embedding(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    ids, weight, dy = rng.integers(0, 4, lead), rng.standard_normal((5, 2)), rng.standard_normal((*lead, 2))
    expected = np.zeros_like(weight)
    for place in np.ndindex(lead):
        np.testing.assert_array_equal(reference.embedding_forward(ids, weight)[place], weight[ids[place]])
        expected[ids[place]] += dy[place]
    np.testing.assert_array_equal(reference.embedding_backward(ids, dy, 5), expected)


def test_embedding_refuses_ids() -> None:
    for bad in (-1, 5):
        with pytest.raises(ValueError, match=r"embedding_forward: ids has values from -?\d to \d, expected 0 to 4"):
            reference.embedding_forward([2, bad], np.ones((5, 2)))
        with pytest.raises(ValueError, match="embedding_backward: ids has values"):
            reference.embedding_backward([2, bad], np.ones((2, 2)), 5)
    with pytest.raises(TypeError):
        reference.embedding_forward([0.5], np.ones((5, 2)))


def test_dropout() -> None:
    x, keep = np.array([1.0, -2.0, np.inf]), np.array([True, True, False])
    np.testing.assert_array_equal(reference.dropout(x, keep, 0.75), [4.0, -8.0, 0.0])
    np.testing.assert_array_equal(reference.dropout(x, ~keep & ~keep[::-1], 1.0), [0.0, 0.0, 0.0])


MASK = np.array([[True, False, True], [True, True, False], [False, False, True], [False, True, False]])  # [T,B]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_loss_is_its_definition_and_its_gradient_that_of_the_value(name: str, mask: Any, reduction: str) -> None:
    rng = np.random.default_rng(0)
    T, B, C = 4, 3, 5
    z, targets, target = rng.standard_normal((T, B, C)), rng.integers(0, C, (T, B)), rng.standard_normal((T, B, C))
    keep = np.ones((T, B), dtype=bool) if mask is None else mask
    z[~keep], targets[~keep], target[~keep] = np.nan, -1, np.inf  # padding holds anything

    def value(z: Array) -> tuple[float, Array]:
        if name == "mse":
            return reference.mse(z, target, mask, reduction)
        return reference.cross_entropy(z, targets, mask, reduction)

    steps = []
    for t, b in zip(*np.nonzero(keep), strict=True):
        if name == "mse":
            steps.append(sum((z[t, b, j] - target[t, b, j]) ** 2 for j in range(C)) / C)
        else:
            steps.append(-math.log(math.exp(z[t, b, targets[t, b]]) / sum(math.exp(z[t, b, j]) for j in range(C))))
    loss, gradient = value(z)
    expected = sum(steps) / (len(steps) if reduction == "mean" else B)
    roundings = 3 * C + T * B + 8
    assert loss == pytest.approx(expected, rel=roundings * EPS)
    assert (gradient[~keep] == 0).all()

    def of_kept(point: list[Array]) -> Terms:
        full = z.copy()
        full[keep] = point[0]
        loss = value(full)[0]
        return loss, loss  # a sum of positive terms

    check_gradient(of_kept, [z[keep]], [gradient[keep]], roundings)


def test_cross_entropy_of_one_step_and_of_huge_logits() -> None:
    loss, gradient = reference.cross_entropy([[1e4, 0.0], [0.0, 1e4]], [0, 0], reduction="sum")
    assert loss == 5e3  # mean over the batch of 2
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [-0.5, 0.5]])


def test_losses_refuse() -> None:
    z, targets = np.zeros((4, 3, 5)), np.zeros((4, 3), dtype=np.int64)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: reference.cross_entropy(z, targets, MASK & False), "cross_entropy: mask has no True element"),
        (lambda: reference.mse(z, z, MASK & False), "mse: mask has no True element"),
        (lambda: reference.cross_entropy(z[:0], targets[:0]), "cross_entropy: mask has no True element"),
        (lambda: reference.mse(z, z, MASK[:, :1]), r"mse: mask has shape \(4, 1\), expected \(4, 3\)"),
        (lambda: reference.mse(z, z[..., :1]), r"mse: target has shape \(4, 3, 1\), expected \(4, 3, 5\)"),
        (lambda: reference.cross_entropy(z, targets[0]), r"cross_entropy: targets has shape \(3,\), expected \(4, 3\)"),
        (
            lambda: reference.cross_entropy(z, targets + 5),
            "cross_entropy: targets has values from 5 to 5, expected 0 to 4",
        ),
        (lambda: reference.mse(z, z, reduction="none"), "mse: reduction is 'none', expected 'mean' or 'sum'"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_agrees_with_pytorch(momentum: float, nesterov: bool) -> None:
    torch = pytest.importorskip("torch")
    if nesterov and not momentum:
        pytest.skip("PyTorch refuses Nesterov without momentum")
    rng = np.random.default_rng(0)
    w, velocity = rng.standard_normal(7), np.zeros(7)
    theirs = torch.nn.Parameter(torch.tensor(w))
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    for _ in range(4):
        g = rng.standard_normal(7)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        norm, clipped, w, velocity = reference.sgd_step(
            w, g, velocity, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01
        )
        assert norm == pytest.approx(math.sqrt(sum(g**2)), rel=10 * EPS)
        assert not clipped
    np.testing.assert_allclose(
        w, theirs.detach().numpy(), rtol=0, atol=4 * 8 * EPS * 4
    )  # 4 steps, 8 roundings, |w| < 4


def test_adam_agrees_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, m, v = rng.standard_normal(7), np.zeros(7), np.zeros(7)
    theirs = torch.nn.Parameter(torch.tensor(w))
    options = {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.3}
    optimizer = torch.optim.AdamW([theirs], betas=(0.8, 0.95), **options)
    for step in range(1, 5):
        g = rng.standard_normal(7)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        _, clipped, w, m, v = reference.adam_step(w, g, m, v, step, beta1=0.8, beta2=0.95, **options)
        assert not clipped
    np.testing.assert_allclose(
        w, theirs.detach().numpy(), rtol=0, atol=4 * 20 * EPS * 4
    )  # 4 steps, 20 roundings, |w| < 4


@pytest.mark.parametrize(
    ("clip_norm", "clip_value", "expected", "clipped"),
    [
        (None, None, [3.0, -4.0], False),
        (5.0, 4.0, [3.0, -4.0], False),  # at the limits
        (2.5, None, [1.5, -2.0], True),
        (None, 3.5, [3.0, -3.5], True),
        (2.5, 1.75, [1.5, -1.75], True),  # the norm first: the other way round gives [1.75, -1.75]
    ],
)
def test_clipping_scales_the_norm_then_clamps(
    clip_norm: float | None, clip_value: float | None, expected: list[float], clipped: bool
) -> None:
    limits = {"clip_norm": clip_norm, "clip_value": clip_value}
    g, zero = np.array([3.0, -4.0]), np.zeros(2)
    norm, flag, w, v = reference.sgd_step(zero, g, zero, lr=1.0, **limits)
    assert (norm, flag) == (5.0, clipped)
    np.testing.assert_array_equal(v, expected)
    np.testing.assert_array_equal(w, -v)
    norm, flag, _, m, _ = reference.adam_step(zero, g, zero, zero, 1, beta1=0.0, **limits)
    assert (norm, flag) == (5.0, clipped)
    np.testing.assert_array_equal(m, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_refused(bad: float) -> None:
    zero, g = np.zeros(2), np.array([1.0, bad])
    with pytest.raises(FloatingPointError, match="sgd_step: the gradient has norm (nan|inf), expected a finite one"):
        reference.sgd_step(zero, g, zero, lr=0.1, clip_norm=1.0)
    with pytest.raises(FloatingPointError, match="adam_step: the gradient has norm"):
        reference.adam_step(zero, g, zero, zero, 1, clip_value=1.0)


def test_docstring_examples() -> None:
    result = doctest.testmod(reference)
    assert result.attempted > 10
    assert result.failed == 0
