# SPDX-License-Identifier: Apache-2.0
"""What only SLSTM has: heads, exponential gates and their stabiliser, the first step, its initial weights.

All else (options, streams, threads, packed rows) is tested with every kind of layer (stacks.py, kernels.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import reference
from bptt._dispatch import core
from differences import EPS, Terms, check_gradient
from kernels import assert_close, assert_same_bits
from stacks import Results, named, stored, threads

Array = NDArray[Any]
GATES = ("sigmoid", "exp")
CELL = {"sigmoid": "slstm", "exp": "slstm_exp"}

every_gate = pytest.mark.parametrize("forget_gate", GATES)


def arrays(T: int, B: int, I: int, H: int, dtype: str, seed: int = 0) -> tuple[Array, ...]:  # noqa: E741
    """x, four states, dy and the four states' gradients."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.7).astype(dtype)

    h, c, n, m = (draw(1, B, H) for _ in range(4))
    return draw(T, B, I), h, c, stored(n), m, draw(T, B, H), *(draw(1, B, H) for _ in range(4))


def run(layer: Any, given: tuple[Array, ...]) -> Results:
    x, h, c, n, m, dy, *dstate = given
    y, final, tape = layer.forward(x, (h, c, n, m))
    return named(y, final, *layer.backward(tape, dy, tuple(dstate)))


def by_reference(layer: Any, given: tuple[Array, ...]) -> Results:
    x, h, c, n, m, dy, *dstate = given
    weights = {name.removesuffix("_l0"): w for name, w in layer.params.items()}
    y, final, tape = reference.forward(CELL[layer.forget_gate], weights, x, (h[0], c[0], n[0], m[0]))
    dx, dinitial, grads = reference.backward(tape, dy, tuple(d[0] for d in dstate))
    back = (dx, tuple(d[None] for d in dinitial), {f"{name}_l0": g for name, g in grads.items()})
    return named(y, tuple(s[None] for s in final), *back)


# Heads that fill blocks of 4 and of 8 units, that straddle two, that are several in one, and those of one unit.
HEADS = [
    (8, 1),
    (8, 2),
    (8, 4),
    (8, 8),
    (12, 4),
    (13, 1),
    (20, 2),
    (20, 4),
    (36, 2),
    (48, 4),
    (64, 4),
    (130, 2),
    (132, 4),
]


@pytest.mark.parametrize(("H", "N"), HEADS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_heads_agree_with_the_reference(dtype: str, H: int, N: int) -> None:
    for forget_gate in GATES:
        for T, B, I in ((5, 1, 3), (4, 7, 2), (3, 33, 9)):  # noqa: E741
            layer = bptt.SLSTM(I, H, num_heads=N, forget_gate=forget_gate, dtype=dtype, init="pytorch", seed=1)
            given = arrays(T, B, I, H, dtype)
            # 8 eps sqrt(n), n the longest sum: I + H/N forward, 4 H backward, T B for the weights (kernels.py)
            tolerance = 8 * float(np.finfo(dtype).eps) * np.sqrt(I + 4 * H + T * B)
            assert_close(run(layer, given), by_reference(layer, given), tolerance)


@every_gate
def test_heads_are_a_block_diagonal_matrix(forget_gate: str) -> None:
    H, N = 24, 4
    layer, dense = (
        bptt.SLSTM(5, H, num_heads=n, forget_gate=forget_gate, dtype="float64", init="pytorch", seed=2) for n in (N, 1)
    )
    own = np.arange(H)[:, None] // (H // N) == np.arange(H) // (H // N)
    with dense.params.edit() as p:
        for name, value in layer.params.items():
            p[name] = np.where(np.tile(own, (4, 1)), np.tile(value, N), 0.0) if "hh" in name else value
    given = arrays(6, 3, 5, H, "float64")
    a, b = run(layer, given), run(dense, given)
    dWh, tolerance = b.pop("dweight_hh_l0"), 8 * EPS * np.sqrt(5 + 4 * H + 6 * 3)
    for head in range(N):
        rows = slice(head * H // N, (head + 1) * H // N)
        ours = a["dweight_hh_l0"].reshape(4, H, H // N)[:, rows]
        np.testing.assert_allclose(
            ours, dWh.reshape(4, H, H)[:, rows, rows], rtol=0, atol=tolerance * np.abs(dWh).max()
        )
    del a["dweight_hh_l0"]
    assert_close(a, b, tolerance)


@pytest.mark.parametrize(
    ("T", "B", "H", "N", "I"), [(1, 1, 1, 1, 1), (2, 3, 4, 2, 1), (5, 2, 6, 3, 2), (4, 2, 5, 1, 3)]
)
@every_gate
def test_gradients_agree_with_central_differences(forget_gate: str, T: int, B: int, H: int, N: int, I: int) -> None:  # noqa: E741
    """Of all outputs, with respect to x, all states and all parameters; no maximum is near a tie."""
    layer = bptt.SLSTM(I, H, num_heads=N, forget_gate=forget_gate, dtype="float64", init="pytorch")
    names, shapes = [*layer.params], [*layer.params.shapes.values()]
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        x, h, c, n, m, dy, *dstate = arrays(T, B, I, H, "float64", seed)
        params = [rng.uniform(-1, 1, shape) for shape in shapes]
        with layer.params.edit() as p:
            for name, value in zip(names, params, strict=True):
                p[name] = value
        gates = layer.forward(x, (h, c, n, m))[2].gates()
        if np.minimum(gates["i"], gates["f"]).max() < np.exp(-0.03):  # a step moves pre-activations by at most 0.02
            break

    def loss(point: list[Array]) -> Terms:
        with layer.params.edit() as p:
            for name, value in zip(names, point[5:], strict=True):
                p[name] = value
        y, final = layer(point[0], tuple(point[1:5]))
        pairs = list(zip((dy, *dstate), (y, *final), strict=True))
        return sum(float(np.vdot(d, a)) for d, a in pairs), sum(
            float((np.abs(d) * np.maximum(np.abs(a), 1)).sum()) for d, a in pairs
        )

    _, _, tape = layer.forward(x, (h, c, n, m))
    dx, dinitial, grads = layer.backward(tape, dy, tuple(dstate))
    roundings = (T + 1) * (I + H + 24) + (T + 1) * B * H  # as in test_reference
    check_gradient(loss, [x, h, c, n, m, *params], [dx, *dinitial, *(np.array(grads[n]) for n in names)], roundings)


@every_gate
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_exponent_is_that_of_the_first_input(dtype: str, forget_gate: str) -> None:
    """From zeros, and after a reset: m = a_i, n = 1, h = o z, however far a_i is from 0."""
    layer = bptt.SLSTM(2, 5, forget_gate=forget_gate, dtype=dtype, seed=0)
    with layer.params.edit() as p:
        p["bias_l0"][:5] = np.array([-1e6, -1e3, 0, 1e3, 1e6])
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(dtype)
    y, (h, c, n, m), tape = layer.forward(x[:1])
    gates = tape.gates()
    a_i = x[0] @ layer.params["weight_ih_l0"][:5].T + layer.params["bias_l0"][:5]
    np.testing.assert_allclose(m[0], a_i, rtol=4 * float(np.finfo(dtype).eps), atol=4 * float(np.finfo(dtype).eps))
    assert (n == 1).all()
    np.testing.assert_array_equal(c[0], gates["z"][0])
    np.testing.assert_array_equal(y[0], gates["o"][0] * gates["z"][0])
    np.testing.assert_array_equal(h[0], y[0])
    resets = np.zeros((4, 3), bool)
    resets[2] = True
    y, state = layer(x, resets=resets)
    y2, state2 = layer(x[2:])
    np.testing.assert_array_equal(y[2:], y2)
    for a, b in zip(state, state2, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_stabiliser_has_no_influence_on_h() -> None:
    layer = bptt.SLSTM(3, 6, dtype="float64", seed=0)
    x, h, c, n, m, *_ = arrays(6, 2, 3, 6, "float64")
    y, _ = layer(x, (h, c, n, m))
    shifted, _ = layer(x, (h, c * np.exp(3.0), n * np.exp(3.0), m - 3))
    np.testing.assert_allclose(shifted, y, rtol=0, atol=64 * EPS)


@every_gate
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_sequences_with_large_gates_stay_finite(dtype: str, forget_gate: str) -> None:
    T, B, I, H = 10_000, 2, 3, 8  # noqa: E741
    layer = bptt.SLSTM(I, H, num_heads=2, forget_gate=forget_gate, dtype=dtype, seed=0)
    with layer.params.edit() as p:
        for name in p:
            p[name] *= 100
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(dtype)
    y, state, tape = layer.forward(x)
    dx, dstate, grads = layer.backward(tape, np.ones_like(y), tuple(np.ones_like(s) for s in state))
    for a in (y, *state, dx, *dstate, grads.flat):
        assert np.isfinite(a).all()
    assert np.abs(y).max() <= 1  # |c| <= n


def test_threads_change_no_bit() -> None:
    for (T, B, I), H, N in (((20, 1, 8), 64, 4), ((5, 40, 30), 72, 4), ((4, 2, 100), 260, 2)):  # noqa: E741
        layer, given = bptt.SLSTM(I, H, num_heads=N, seed=0), arrays(T, B, I, H, "float32")
        with threads(1):
            one = run(layer, given)
        for n in (2, 3):
            with threads(n):
                assert_same_bits(run(layer, given), one)


@every_gate
def test_the_authors_layout(forget_gate: str) -> None:
    """Weights as the docstring takes them from xlstm's cell: kernel [N, from, gate, to], bias [N, gate, to]."""
    I, H, N, T = 4, 12, 3, 5  # noqa: E741
    d = H // N
    rng = np.random.default_rng(0)
    kernel, bias, wx = (
        rng.standard_normal((N, d, 4, d)),
        rng.standard_normal((N, 4, d)),
        rng.standard_normal((4 * H, I)),
    )
    layer = bptt.SLSTM(I, H, num_heads=N, forget_gate=forget_gate, dtype="float64")
    with layer.params.edit() as p:
        p["weight_ih_l0"] = wx
        p["weight_hh_l0"] = kernel.transpose(2, 0, 3, 1).reshape(4 * H, d)
        p["bias_l0"] = bias.transpose(1, 0, 2).reshape(4 * H)
    x = rng.standard_normal((T, 1, I))
    y, _ = layer(x)
    h, c, n, m = np.zeros((4, N, d))
    for t in range(T):
        a = np.einsum("ni,nigo->gno", h, kernel) + bias.transpose(1, 0, 2) + (wx @ x[t, 0]).reshape(4, N, d)
        u = m + (a[1] if forget_gate == "exp" else -np.log1p(np.exp(-a[1])))
        m1 = a[0] if t == 0 else np.maximum(a[0], u)
        i, f = np.exp(a[0] - m1), np.exp(np.minimum(u - m1, 0))
        c, n, m = f * c + i * np.tanh(a[2]), f * n + i, m1
        h = c / n / (1 + np.exp(-a[3]))
        np.testing.assert_allclose(y[t, 0], h.reshape(H), rtol=0, atol=24 * T * EPS * 8)  # as in test_reference


def test_initial_weights() -> None:
    layer = bptt.SLSTM(4, 12, num_heads=3, dtype="float64", learn_initial_state=True, seed=0)
    bias = layer.params["bias_l0"].reshape(4, 3, 4)
    np.testing.assert_array_equal(bias[1], np.tile([3.0, 4.0, 5.0, 6.0], (3, 1)))
    assert not bias[[0, 2, 3]].any()
    for block in layer.params["weight_hh_l0"].reshape(12, 4, 4):
        np.testing.assert_allclose(block.T @ block, np.eye(4), rtol=0, atol=16 * EPS)
    starts = {name: layer.params[f"initial_{name}_l0"] for name in "hcnm"}
    assert all((value == (name == "n")).all() for name, value in starts.items())


def test_gates_and_states_of_the_tape() -> None:
    layer = bptt.SLSTM(3, 4, dtype="float64", seed=0)
    x = np.random.default_rng(0).standard_normal((6, 2, 3))
    y, (h, c, n, m), tape = layer.forward(x)
    gates = tape.gates()
    assert list(gates) == ["i", "f", "z", "o", "c", "n", "m"]
    np.testing.assert_array_equal(gates["o"] * gates["c"] / gates["n"], y)
    for name, last in (("c", c), ("n", n), ("m", m)):
        np.testing.assert_array_equal(gates[name][-1], last[0])
    assert (np.maximum(gates["i"], gates["f"])[1:] == 1).all()
    np.testing.assert_array_equal(h[0], y[-1])


def test_less_memory_with_heads() -> None:
    """Packed weights hold the blocks of the heads alone."""
    one, four = (bptt.SLSTM(8, 512, num_heads=n).estimate_memory(1, 1) for n in (1, 4))
    assert one - four > 4 * (2 * 4 * 512 * 512) * 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "SLSTM: num_heads has value 4, expected a divisor of hidden_size, 6"),
        ({"num_heads": 0}, "SLSTM: num_heads has value 0, expected an integer >= 1"),
        ({"forget_gate": "tanh"}, "SLSTM: forget_gate has value 'tanh', expected 'sigmoid' or 'exp'"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        bptt.SLSTM(3, 6, **options)


def test_pytorch_has_no_such_layer() -> None:
    with pytest.raises(ValueError, match="the layer has exponential gates, expected a cell that PyTorch's layers have"):
        bptt.SLSTM(2, 3).to_torch_state_dict()


def test_repr() -> None:
    layer = bptt.SLSTM(2, 6, num_heads=3, forget_gate="exp")
    assert repr(layer) == "SLSTM(2, 6, num_heads=3, forget_gate='exp', dtype=float32)"


def test_kernels_refuse_heads() -> None:
    with pytest.raises(ValueError, match="Stack: there is no cell 'lstm' with heads"):
        core.Stack("lstm", "float32", 2, 4, True, num_heads=2)
    with pytest.raises(ValueError, match="Stack: num_heads is 3, expected a divisor of hidden_size, 4"):
        core.Stack("slstm", "float32", 2, 4, True, num_heads=3)
