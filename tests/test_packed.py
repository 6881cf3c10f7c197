# SPDX-License-Identifier: Apache-2.0
"""Packed rows in another order than the caller's: states against padded rows and PyTorch, and returned types."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.layers import Packed
from kernels import assert_close, assert_same_bits
from stacks import DTYPES, KINDS, PROJECTED, Case, Results, parts, torch_layer, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (2, True)])

T, LENGTHS = 6, np.array([2, 6, 1, 4, 6])  # not sorted, two equal
B = len(LENGTHS)
ORDER = np.argsort(-LENGTHS, kind="stable")
INVERSE = np.argsort(ORDER)
THERE = np.arange(T)[:, None] < LENGTHS[ORDER]  # [T,B], in the order of the packed rows
SIZES = THERE.sum(1)
EITHER = [(ORDER, INVERSE), (ORDER, None), (None, INVERSE)]


def packed(array: Any, indices: tuple[Any, Any] = (ORDER, INVERSE)) -> Packed:
    """Rows [T,B,.] in the caller's order, packed."""
    return Packed(np.ascontiguousarray(array[:, ORDER][THERE]), SIZES, *indices)


def ragged(kind: str, dtype: str, layers: int, both: bool, **options: Any) -> Case:
    return Case.random(kind, dtype, T, B, lengths=LENGTHS, num_layers=layers, bidirectional=both, **options)


def run_packed(case: Case, indices: tuple[Any, Any], dindices: tuple[Any, Any]) -> Results:
    """Forward and backward over packed rows; states as the case has them, in the caller's order."""
    y, final, tape = case.layer.forward(packed(case.x, indices), case.state)
    dx, dinitial, grads = case.layer.backward(tape, packed(case.dy, dindices), case.dstate)
    for flow in (y, dx):
        for got, expected in zip(flow[1:], (SIZES, ORDER, INVERSE), strict=True):
            np.testing.assert_array_equal(got, expected)
    got: Results = {"y": y.data, "dx": dx.data}
    got |= {f"final {i}": s for i, s in enumerate(parts(final))}
    got |= {f"dinitial {i}": s for i, s in enumerate(parts(dinitial))}
    return got | {f"d{name}": np.array(g) for name, g in grads.items()}


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
@every_shape
def test_states_and_their_gradients_are_in_the_callers_order(kind: str, dtype: str, layers: int, both: bool) -> None:
    for state, learnt in ((True, False), (False, False), (False, True)):
        case = ragged(kind, dtype, layers, both, learn_initial_state=learnt, state=state)
        expected = case.run()
        sums = {f"d{name}" for name in case.layer.params}
        expected |= {name: packed(expected[name]).data for name in ("y", "dx")}
        got = run_packed(case, (ORDER, INVERSE), (ORDER, INVERSE))
        for name in expected:
            if name in sums:  # over the rows in another order
                assert_close({name: got[name]}, {name: expected[name]}, case.tolerance())
            else:
                assert_same_bits({name: got[name]}, {name: expected[name]})


@pytest.mark.parametrize("indices", EITHER)
@pytest.mark.parametrize("dindices", [*EITHER, (None, None)])
def test_one_permutation_follows_from_the_other(indices: tuple[Any, Any], dindices: tuple[Any, Any]) -> None:
    case = ragged("lstm", "float32", 2, True)
    assert_same_bits(run_packed(case, indices, dindices), run_packed(case, (ORDER, INVERSE), (ORDER, INVERSE)))


def test_resets_may_be_packed_and_inference_has_the_same_order() -> None:
    case = ragged("gru", "float64", 2, True).but(resets=np.random.default_rng(0).random((T, B)) < 0.4)
    expected = case.infer()
    for resets in (packed(case.resets), packed(case.resets).data):
        y, h = case.layer(packed(case.x), case.state, resets=resets)
        np.testing.assert_array_equal(y.data, packed(expected["y"]).data)
        np.testing.assert_array_equal(h, expected["final 0"])


def test_a_model_hands_the_order_from_layer_to_layer() -> None:
    options: dict[str, Any] = {"dtype": "float64", "seed": 1}
    model: Any = bptt.Sequential(
        bptt.Linear(3, 4, **options),
        bptt.LSTM(4, 5, bidirectional=True, **options),
        bptt.Dropout(0.0),
        bptt.GRU(10, 2, **options),
        bptt.Linear(2, 2, **options),
    )
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, B, 3)), rng.standard_normal((T, B, 2))
    state = (tuple(rng.standard_normal((2, 2, B, 5))), rng.standard_normal((1, B, 2)))
    dstate = (tuple(rng.standard_normal((2, 2, B, 5))), rng.standard_normal((1, B, 2)))
    dy[np.arange(T)[:, None] >= LENGTHS] = 0  # the last layer has a bias and no lengths
    y, final, tape = model.forward(x, state, LENGTHS)
    dx, dinitial, grads = model.backward(tape, dy, dstate)
    got_y, got_final, tape = model.forward(packed(x), state)
    got_dx, got_dinitial, got_grads = model.backward(tape, packed(dy), dstate)
    for got, padded in ((got_y, y), (model(packed(x), state)[0], y), (got_dx, dx)):
        np.testing.assert_array_equal(got.data, packed(padded).data)
        np.testing.assert_array_equal(got.sorted_indices, ORDER)
        np.testing.assert_array_equal(got.unsorted_indices, INVERSE)
    for got_states, states in ((got_final, final), (got_dinitial, dinitial)):
        for got_state, expected in zip(got_states, states, strict=True):
            np.testing.assert_array_equal(got_state, expected)
    # Sums of at most 19 rows' shares, each of up to 10 + 4 H products, in another order.
    atol = 8 * np.finfo(np.float64).eps * np.sqrt(19 * 30) * np.abs(grads.flat).max()
    np.testing.assert_allclose(got_grads.flat, grads.flat, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "projected", "gru"])
@pytest.mark.parametrize("given", [True, False])
def test_sequences_packed_by_pytorch_in_any_order(kind: str, given: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

    theirs = torch_layer(kind, 3, num_layers=2, bidirectional=True)
    options = {"proj_size": PROJECTED} if kind == "projected" else {}
    case = ragged(kind, "float64", 2, True)
    layer = type(case.layer)(3, case.layer.hidden_size, 2, bidirectional=True, dtype="float64", **options)
    layer.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    x = pack_sequence([torch.tensor(rng.standard_normal((n, 3))) for n in LENGTHS], enforce_sorted=False)
    state = [torch.tensor(s, requires_grad=True) for s in parts(case.state)] if given else None
    their_y, their_final = theirs(x, None if state is None else whole(state))
    y, final, tape = layer.forward(x, None if state is None else whole(s.detach() for s in state))
    assert_close({"y": y.data.numpy()}, {"y": their_y.data.detach().numpy()}, case.tolerance())
    for ours, expected in zip(parts(final), parts(their_final), strict=True):
        assert_close({"final": ours}, {"final": expected.detach().numpy()}, case.tolerance())

    padded, lengths = pad_packed_sequence(y)
    their_padded, _ = pad_packed_sequence(their_y)
    np.testing.assert_array_equal(lengths.numpy(), LENGTHS)
    assert_close({"y": padded.numpy()}, {"y": their_padded.detach().numpy()}, case.tolerance())

    dy, dstate = rng.standard_normal(y.data.shape), parts(case.dstate)
    torch.autograd.backward((their_y.data, *parts(their_final)), [torch.tensor(a) for a in (dy, *dstate)])
    _, dinitial, _ = layer.backward(tape, their_y._replace(data=torch.tensor(dy)), case.dstate)
    for ours, s in zip(parts(dinitial), state or (), strict=bool(state)):
        assert_close({"dinitial": ours}, {"dinitial": s.grad.numpy()}, case.tolerance())


X = Packed(np.zeros((4, 2)), [3, 1])


@pytest.mark.parametrize(
    ("order", "inverse", "error", "message"),
    [
        ([0, 1], None, ValueError, "sorted_indices has shape (2,), expected (3,)"),
        (None, [[0, 1, 2]], ValueError, "unsorted_indices has shape (1, 3), expected (3,)"),
        ([0, 1, 3], None, ValueError, "sorted_indices is not a permutation, expected each of 0 to 2 once"),
        ([0, -1, 1], None, ValueError, "sorted_indices is not a permutation, expected each of 0 to 2 once"),
        (None, [0, 1, 1], ValueError, "unsorted_indices is not a permutation, expected each of 0 to 2 once"),
        ([1, 2, 0], [1, 2, 0], ValueError, "unsorted_indices is not the inverse of sorted_indices, expected"),
        ([0.0, 1.0, 2.0], None, TypeError, "sorted_indices has dtype float64, expected integers"),
    ],
)
def test_wrong_permutations_are_named(order: Any, inverse: Any, error: type[Exception], message: str) -> None:
    x = X._replace(sorted_indices=order, unsorted_indices=inverse)
    for layer in (bptt.GRU(2, 3), bptt.LSTM(2, 3, num_layers=2, bidirectional=True), bptt.Sequential(bptt.GRU(2, 3))):
        with pytest.raises(error, match=f"^{type(layer).__name__}.forward: {re.escape(message)}"):
            layer(x)


def test_rows_that_do_not_belong_to_x_are_named() -> None:
    layer = bptt.GRU(2, 3)
    x = X._replace(sorted_indices=[1, 2, 0])
    dy = x._replace(data=np.zeros((4, 3)))
    for wrong, what in (
        (dy._replace(sorted_indices=[0, 1, 2]), "dy has other sorted_indices than x"),
        (dy._replace(batch_sizes=[2, 2], sorted_indices=None), "dy has other batch_sizes than x"),
    ):
        with pytest.raises(ValueError, match=rf"^GRU.backward: {what}, expected the same rows"):
            layer.backward(layer.forward(x)[2], wrong)
    with pytest.raises(ValueError, match=r"^GRU.backward: dy has packed rows, expected an array, as x is one"):
        layer.backward(layer.forward(np.zeros((2, 2, 2)))[2], dy)
    with pytest.raises(ValueError, match=r"^GRU.forward: resets has other batch_sizes than x"):
        layer(x, resets=Packed(np.zeros(4, bool), [2, 2]))
    with pytest.raises(ValueError, match=r"^GRU.forward: resets has packed rows, expected an array, as x is one"):
        layer(np.zeros((2, 2, 2)), resets=Packed(np.zeros(4, bool), [2, 2]))
