# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers without a gradient of y, or with the last steps of y alone: the bits of a dy with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from kernels import assert_same_bits
from stacks import KINDS, Case, Results, named, threads, torch_layer

T, B = 6, 5
LENGTHS = np.array([2, 6, 0, 4, 6])
RESETS = np.arange(T * B).reshape(T, B) % 4 == 1
# Cells of one stage and of several, with and without a projection, in float32 too: a tile's width differs.
WIDE = [(kind, "float32") for kind in ("lstm", "projected", "gru_norm")]
every_kind = pytest.mark.parametrize(("kind", "dtype"), [*((kind, "float64") for kind in KINDS), *WIDE])
every_shape = pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (2, True)])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"lengths": LENGTHS},
    {"lengths": LENGTHS, "resets": RESETS, "learn_initial_state": True, "zoneout": 0.2, "clip_state": 0.4},
    {"checkpoint": 2, "recurrent_dropout": 0.3, "dropout": 0.2, "clip_grad_per_step": 0.1},
]


def case_of(kind: str, dtype: str, layers: int, both: bool, options: dict[str, Any], **more: Any) -> Case:
    return Case.random(kind, dtype, T, B, num_layers=layers, bidirectional=both, **options, **more)


def gradients(case: Case, dy: Any, dstate: Any, **how: Any) -> Results:
    """Those of one forward with its own masks; `how` of forward."""
    case.layer._stack.state_options.calls = 0
    y, final, tape = case.layer.forward(case.x, case.state, case.lengths, case.resets, **how)
    return named(y, final, *case.layer.backward(tape, dy, dstate))


@every_kind
@every_shape
def test_no_dy_is_a_dy_of_zeros(kind: str, dtype: str, layers: int, both: bool) -> None:
    for options in OPTIONS:
        case = case_of(kind, dtype, layers, both, options)
        for n in (1, 2):
            with threads(n):
                got = gradients(case, None, case.dstate)
            assert_same_bits(got, gradients(case, np.zeros_like(case.dy), case.dstate))


def last_of(y: NDArray[Any], lengths: Any) -> NDArray[Any]:
    """By a loop."""
    out = np.zeros_like(y[0])
    for b, n in enumerate([T] * B if lengths is None else lengths):
        if n:
            out[b] = y[n - 1, b]
    return out


def spread(dy: NDArray[Any], lengths: Any) -> NDArray[Any]:
    """A dy of all steps that is that of the last ones."""
    out = np.zeros((T, *dy.shape), dy.dtype)
    for b, n in enumerate([T] * B if lengths is None else lengths):
        if n:
            out[n - 1, b] = dy[b]
    return out


@every_kind
@every_shape
def test_the_last_steps_alone(kind: str, dtype: str, layers: int, both: bool) -> None:
    for options in OPTIONS:
        case = case_of(kind, dtype, layers, both, options)
        dy = case.dy[0]
        for dstate in (None, case.dstate):
            got = gradients(case, dy, dstate, last=True)
            expected = gradients(case, spread(dy, case.lengths), dstate)
            np.testing.assert_array_equal(got.pop("y"), last_of(expected.pop("y"), case.lengths))
            assert_same_bits(got, expected)
        y, final = case.layer(case.x, case.state, case.lengths, case.resets)
        found = case.layer(case.x, case.state, case.lengths, case.resets, last=True)
        assert_same_bits(named(*found), named(last_of(y, case.lengths), final))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("form", ["batch_first", "unbatched", "packed"])
def test_the_callers_forms(form: str, both: bool) -> None:
    lengths = None if form == "unbatched" else np.array([2, 6, 1, 4, 6])
    case = case_of("lstm", "float64", 2, both, {"lengths": lengths})
    expected = gradients(case, case.dy[0], case.dstate, last=True)
    if form == "batch_first":
        turned = case.but(
            layer=case_of("lstm", "float64", 2, both, {"lengths": lengths}, batch_first=True).layer,
            x=case.x.swapaxes(0, 1),
        )
        got = gradients(turned, case.dy[0], case.dstate, last=True)
        got["dx"] = np.ascontiguousarray(got["dx"].swapaxes(0, 1))
        assert_same_bits(got, expected)
        return
    if form == "unbatched":
        one = case.but(x=case.x[:, 1], state=tuple(s[:, 1] for s in case.state))
        got = gradients(one, case.dy[0, 1], tuple(s[:, 1] for s in case.dstate), last=True)
        case = case.but(x=case.x[:, 1:2], state=tuple(s[:, 1:2] for s in case.state))
        expected = gradients(case, case.dy[0, 1:2], tuple(s[:, 1:2] for s in case.dstate), last=True)
        assert_same_bits({k: v.ravel() for k, v in got.items()}, {k: v.ravel() for k, v in expected.items()})
        return
    assert lengths is not None
    order = np.argsort(-lengths, kind="stable")
    there = np.arange(T)[:, None] < lengths[order]
    rows = bptt.Packed(np.ascontiguousarray(case.x[:, order][there]), there.sum(1), sorted_indices=order)
    got = gradients(case.but(x=rows, lengths=None), case.dy[0], case.dstate, last=True)
    dx = np.zeros_like(case.x[:, order])
    dx[there] = got["dx"].data
    got["dx"] = np.empty_like(dx)
    got["dx"][:, order] = dx
    assert_same_bits(got, expected)


def test_rows_of_pytorch_are_taken() -> None:
    torch = pytest.importorskip("torch")
    lengths, x = torch.tensor([2, 6, 1]), torch.randn(6, 3, 5, dtype=torch.float64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    layer = bptt.GRU(5, 4, dtype="float64", seed=0)
    y, h, tape = layer.forward(packed, last=True)
    np.testing.assert_array_equal(y, h[-1])
    want, _, other = layer.forward(x.numpy(), lengths=lengths, last=True)
    np.testing.assert_array_equal(y, want)
    assert (layer.backward(tape, y)[2].flat == layer.backward(other, y)[2].flat).all()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_of_final_states_alone_are_those_of_pytorch(kind: str) -> None:
    theirs = torch_layer(kind, 5, bidirectional=True)
    import torch

    case = Case.random(kind, "float64", T, B, bidirectional=True, state=False)
    case.layer.load_state_dict(theirs.state_dict())
    x = torch.tensor(case.x, requires_grad=True)
    state = theirs(x)[1]
    h = state[0] if isinstance(state, tuple) else state
    (h * torch.tensor(case.dstate[0] if isinstance(state, tuple) else case.dstate)).sum().backward()
    dh = case.dstate if kind == "gru" else (case.dstate[0], np.zeros_like(case.dstate[1]))
    tape = case.layer.forward(case.x)[2]
    dx = case.layer.backward(tape, None, dh)[0]
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=0, atol=case.tolerance())


def test_no_steps_and_no_rows() -> None:
    layer = bptt.LSTM(2, 3, num_layers=2, dtype="float64", seed=0)
    for steps, rows, lengths in ((0, 2, None), (4, 0, None), (4, 2, [0, 0]), (0, 0, None)):
        y, _, tape = layer.forward(np.ones((steps, rows, 2)), lengths=lengths, last=True)
        assert y.shape == (rows, 3)
        assert not y.any()
        dx, (dh, _), grads = layer.backward(tape, np.ones((rows, 3)))
        assert dx.shape == (steps, rows, 2)
        for gradient in (dx, dh, grads.flat):
            assert not gradient.any()
    empty = bptt.Packed(np.ones((0, 2)), np.zeros(0, int))
    assert layer(empty, last=True)[0].shape == (0, 3)


def test_given_states_are_not_changed() -> None:
    case = case_of("lstm", "float64", 1, False, {})
    before = [part.copy() for part in case.dstate]
    gradients(case, case.dy[0], case.dstate, last=True)
    np.testing.assert_array_equal(case.dstate, before)


def test_cells_without_dy() -> None:
    """A cell in a Sequential has h both as y and as its state."""
    model = bptt.Sequential(bptt.GRUCell(3, 4, dtype="float64", seed=0), bptt.Linear(4, 2, dtype="float64", seed=1))
    x, dh = np.ones((5, 3)), np.full((5, 4), 0.5)
    grads = [model.backward(model.forward(x)[2], dy, (dh,))[2].flat.copy() for dy in (None, np.zeros((5, 2)))]
    np.testing.assert_array_equal(*grads)
    assert grads[0].any()


GRU = bptt.GRU(3, 4, seed=0)
X = np.ones((5, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GRU.backward(GRU.forward(X)[2], None), TypeError, "GRU.backward: dy and dstate are None, expected at"),
        (lambda: GRU(X, last="yes"), TypeError, "GRU.forward: last has type str, expected True or False"),
        (
            lambda: GRU.backward(GRU.forward(X, last=True)[2], np.ones((5, 2, 4))),
            ValueError,
            r"GRU.backward: dy has shape \(5, 2, 4\), expected \(2, 4\)",
        ),
        (
            lambda: GRU.backward(GRU.forward(X[:, 0], last=True)[2], np.ones((1, 4))),
            ValueError,
            r"GRU.backward: dy has shape \(1, 4\), expected \(4,\)",
        ),
        (
            lambda: GRU.backward(GRU.forward(X, last=True)[2], np.ones((2, 4)), np.ones((2, 4))),
            ValueError,
            r"GRU.backward: dstate h has shape \(2, 4\), expected \(1, 2, 4\)",
        ),
        (
            lambda: GRU.backward(GRU.forward(X)[2], np.ones((2, 4))),
            ValueError,
            r"GRU.backward: dy has shape \(2, 4\), expected \(5, 2, 4\)",
        ),
        (lambda: GRU(X, lengths=[6, 1], last=True), ValueError, "lengths has values from 1 to 6, expected 0 to 5"),
    ],
)
def test_wrong_calls_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert len(str(raised.value)) < 200
