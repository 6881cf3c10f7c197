# SPDX-License-Identifier: Apache-2.0
"""Rows of different lengths, padded or packed: against the reference, against each row alone, against PyTorch."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.layers import Packed
from kernels import assert_close, assert_same_bits
from stacks import DTYPES, KINDS, Case, Expected, Results, make, parts, torch_layer, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_shape = pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (2, True)])

T, LENGTHS = 7, np.array([3, 0, 7, 1, 5, 7, 2])  # not sorted; none, some, and all steps
B = len(LENGTHS)
BEYOND = np.arange(T)[:, None] >= LENGTHS  # [T,B]


def ragged(kind: str, dtype: str = "float64", layers: int = 2, both: bool = True, **options: Any) -> Case:
    return Case.random(kind, dtype, T, B, lengths=LENGTHS, num_layers=layers, bidirectional=both, **options)


@every_kind
@every_dtype
@every_shape
def test_ragged_rows_agree_with_the_reference(kind: str, dtype: str, layers: int, both: bool) -> None:
    for state in (True, False):
        case = ragged(kind, dtype, layers, both, state=state)
        expected = Expected(case).results()
        got = case.run()
        assert_close(got, expected, case.tolerance())
        assert_same_bits(case.infer(), {name: got[name] for name in case.infer()})
        for name in ("y", "dx"):
            assert not got[name][BEYOND].any()


@every_kind
@every_shape
def test_a_ragged_row_has_the_bits_that_it_has_alone(kind: str, layers: int, both: bool) -> None:
    case = ragged(kind, "float32", layers, both)
    got = case.run()
    for b, length in enumerate(LENGTHS):
        alone = case.but(
            x=case.x[:length, b : b + 1], dy=case.dy[:length, b : b + 1], lengths=None,
            state=whole(s[:, b : b + 1] for s in parts(case.state)),
            dstate=whole(s[:, b : b + 1] for s in parts(case.dstate)),
        ).run()  # fmt: skip
        rows = {name: alone[name] for name in got if name == "y" or name.startswith("final")}
        mine = {name: np.ascontiguousarray(got[name][:, b : b + 1]) for name in rows}
        mine["y"] = mine["y"][:length]
        assert_same_bits(mine, rows)
        for name in ("dx", "dinitial 0"):
            part = got[name][: length if name == "dx" else None, b : b + 1]
            assert_close({name: part}, {name: alone[name]}, case.tolerance())
        if length == 0:
            for i, start in enumerate(parts(case.state)):
                assert got[f"final {i}"][:, b].tobytes() == start[:, b].tobytes()


@every_kind
@every_dtype
def test_what_stands_in_the_padding_changes_nothing(kind: str, dtype: str) -> None:
    case = ragged(kind, dtype)
    expected = case.run()
    for junk in (np.nan, np.inf, 1e30):
        x, dy = case.x.copy(), case.dy.copy()
        x[BEYOND], dy[BEYOND] = junk, junk
        assert_same_bits(case.but(x=x, dy=dy).run(), expected)


@every_kind
def test_batch_first_lengths(kind: str) -> None:
    case = ragged(kind)
    layer = make(kind, case.x.shape[2], num_layers=2, bidirectional=True, batch_first=True)
    turned = case.but(layer=layer, x=case.x.swapaxes(0, 1), dy=case.dy.swapaxes(0, 1)).run()
    turned |= {name: np.ascontiguousarray(turned[name].swapaxes(0, 1)) for name in ("y", "dx")}
    assert_same_bits(turned, case.run())


@every_kind
def test_full_lengths_are_none_and_one_row_needs_no_batch_axis(kind: str) -> None:
    case = ragged(kind, "float32").but(lengths=np.full(B, T, np.uint8))
    assert_same_bits(case.run(), case.but(lengths=None).run())
    layer, x = case.layer, case.x[:, 0]
    y, final = layer(x, lengths=[4])
    short, expected = layer(x[:4])
    np.testing.assert_array_equal(y[:4], short)
    assert not y[4:].any()
    for a, b in zip(parts(final), parts(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_lengths_of_any_form() -> None:
    layer: Any = bptt.GRU(2, 3, bidirectional=True, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 3, 2))
    expected = layer(x, lengths=np.array([4, 0, 5]))[0]
    forms: list[Any] = [[4, 0, 5], (4, 0, 5), np.uint8([4, 0, 5]), np.array([4, 9, 0, 9, 5, 9], np.int32)[::2]]
    with contextlib.suppress(ImportError):
        import torch

        forms += [torch.tensor([4, 0, 5]), torch.tensor([4, 0, 5], dtype=torch.int32)]
    for lengths in forms:
        np.testing.assert_array_equal(layer(x, lengths=lengths)[0], expected)


@every_kind
def test_nothing_but_empty_rows(kind: str) -> None:
    case = ragged(kind).but(lengths=np.zeros(B, int))
    got = case.run()
    assert not got["y"].any()
    assert not any(got[f"d{name}"].any() for name in case.layer.params)
    assert not got["dx"].any()
    for i, (start, dstate) in enumerate(zip(parts(case.state), parts(case.dstate), strict=True)):
        np.testing.assert_array_equal(got[f"final {i}"], start)
        np.testing.assert_array_equal(got[f"dinitial {i}"], dstate)


@every_kind
def test_no_rows_at_all(kind: str) -> None:
    case = Case.random(kind, "float32", T, 0, num_layers=2, bidirectional=True)
    for lengths in (None, np.zeros(0, int), []):
        got = case.but(lengths=lengths).run()
        assert got["y"].shape == case.dy.shape
        assert got["dx"].shape == case.x.shape
        assert not any(got[f"d{name}"].any() for name in case.layer.params)


ORDER = np.argsort(-LENGTHS, kind="stable")[: np.count_nonzero(LENGTHS)]  # a row without steps has no place when packed
THERE = np.arange(T)[:, None] < LENGTHS[ORDER]  # [T,B]
SIZES = THERE.sum(1)


def ordered(case: Case) -> Case:
    """The case with its rows in the order of packed ones."""
    return case.but(
        x=np.ascontiguousarray(case.x[:, ORDER]), dy=np.ascontiguousarray(case.dy[:, ORDER]), lengths=LENGTHS[ORDER],
        state=whole(np.ascontiguousarray(s[:, ORDER]) for s in parts(case.state)),
        dstate=whole(np.ascontiguousarray(s[:, ORDER]) for s in parts(case.dstate)),
    )  # fmt: skip


@every_kind
@every_dtype
@every_shape
def test_packed_rows_are_padded_ones(kind: str, dtype: str, layers: int, both: bool) -> None:
    resets = np.random.default_rng(0).random((T, len(ORDER))) < 0.2
    each: tuple[dict[str, Any], ...] = ({}, {"zoneout": 0.2, "recurrent_dropout": 0.3, "dropout": 0.4})
    for options in each:
        case = ordered(ragged(kind, dtype, layers, both, **options)).but(resets=resets)
        expected = case.run()
        layer = ragged(kind, dtype, layers, both, **options).layer  # the same call number
        y, final, tape = layer.forward(Packed(case.x[THERE], SIZES), case.state, resets=resets[THERE])
        dx, dinitial, grads = layer.backward(tape, Packed(case.dy[THERE], SIZES), case.dstate)
        np.testing.assert_array_equal(y.batch_sizes, SIZES)
        np.testing.assert_array_equal(dx.batch_sizes, SIZES)
        got: Results = {"y": y.data, "dx": dx.data}
        got |= {f"final {i}": s for i, s in enumerate(parts(final))}
        got |= {f"dinitial {i}": s for i, s in enumerate(parts(dinitial))}
        got |= {f"d{name}": g for name, g in grads.items()}
        assert_same_bits(got, expected | {name: expected[name][THERE] for name in ("y", "dx")})
        _, _, tape = layer.forward(Packed(case.x[THERE], SIZES), case.state)
        layer.backward(tape, case.dy[THERE])  # the data alone is taken as well


def test_packed_rows_of_lists_and_none_at_all() -> None:
    layer: Any = bptt.GRU(2, 3, bidirectional=True, seed=0)
    y, h = layer(Packed([[1, 2], [3, 4], [5, 6]], [2, 1]))
    alone, last = layer(np.array([[1, 2], [5, 6]]))
    np.testing.assert_array_equal(y.data[[0, 2]], alone)
    np.testing.assert_array_equal(h[:, 0], last)
    assert layer(Packed(np.zeros((0, 2)), []))[0].data.shape == (0, 6)
    assert layer(np.zeros((3, 0, 2)), lengths=(), resets=[[]] * 3)[0].shape == (3, 0, 6)
    # without rows, little but the panels of 128 rows and 4 registers of the weight gradients, 32 KiB a direction on v4
    assert max(layer.estimate_memory(3, 0, []), layer.estimate_memory(3, 0)) < 100_000
    y, h, tape = layer.forward(Packed(np.zeros((0, 2)), np.zeros(0, int)))
    assert (y.data.shape, h.shape) == ((0, 6), (2, 0, 3))
    dx, dh, grads = layer.backward(tape, y)
    assert (dx.data.shape, dh.shape) == ((0, 2), (2, 0, 3))
    assert not grads.flat.any()


@every_dtype
def test_ragged_rows_through_a_whole_model(dtype: str) -> None:
    options: dict[str, Any] = {"dtype": dtype, "seed": 1}
    model: Any = bptt.Sequential(
        bptt.Embedding(9, 4, **options),
        bptt.LSTM(4, 5, num_layers=2, bidirectional=True, **options),
        bptt.GRU(10, 6, **options),
        bptt.Linear(6, 3, **options),
    )
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 9, (T, B)), rng.standard_normal((T, B, 3)).astype(dtype)
    y, (_, h), tape = model.forward(ids, lengths=LENGTHS)
    dy[BEYOND] = 0  # the last layer has a bias and no lengths: a loss masks what is beyond
    _, _, grads = model.backward(tape, dy)
    total = model.params.zeros_like()
    for b, length in enumerate(LENGTHS):
        alone, (_, last), tape = model.forward(ids[:length, b : b + 1])
        np.testing.assert_array_equal(y[:length, b : b + 1], alone)
        np.testing.assert_array_equal(h[:, b : b + 1], last)
        total.flat[:] += model.backward(tape, dy[:length, b : b + 1])[2].flat
    # Sums of at most 25 steps' shares, each of I + 4 H products, in another order.
    atol = 8 * np.finfo(dtype).eps * np.sqrt(25 * 50) * np.abs(total.flat).max()
    np.testing.assert_allclose(grads.flat, total.flat, rtol=0, atol=atol)

    flat, (_, sorted_h), tape = model.forward(Packed(ids[:, ORDER][THERE], SIZES))
    np.testing.assert_array_equal(flat.data, y[:, ORDER][THERE])
    np.testing.assert_array_equal(sorted_h, h[:, ORDER])
    dx, _, grads = model.backward(tape, Packed(dy[:, ORDER][THERE], SIZES))
    assert dx is None
    np.testing.assert_allclose(grads.flat, total.flat, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "projected", "gru"])
def test_packed_rows_agree_with_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    case = ordered(ragged(kind))
    theirs = torch_layer(kind, case.x.shape[2], num_layers=2, bidirectional=True)
    case.layer.load_state_dict(theirs.state_dict())
    x, *state = (torch.tensor(a, requires_grad=True) for a in (case.x, *parts(case.state)))
    packed_x = pack_padded_sequence(x, torch.tensor(case.lengths))
    packed_y, final = theirs(packed_x, whole(state))
    y, _ = pad_packed_sequence(packed_y)
    torch.autograd.backward((y, *parts(final)), [torch.tensor(a) for a in (case.dy, *parts(case.dstate))])
    got = case.run()
    expected = {"y": y, "dx": x.grad}
    expected |= {f"final {i}": s for i, s in enumerate(parts(final))}
    expected |= {f"dinitial {i}": s.grad for i, s in enumerate(state)}
    expected |= {f"d{name}": p.grad for name, p in theirs.named_parameters() if name.startswith("weight")}
    arrays = {name: value.detach().numpy() for name, value in expected.items()}
    assert_close({name: got[name] for name in arrays}, arrays, case.tolerance())
    # PyTorch's packed rows are taken as they are.
    np.testing.assert_array_equal(packed_x.batch_sizes.numpy(), SIZES)
    y, _ = case.layer(torch.nn.utils.rnn.PackedSequence(packed_x.data.detach(), packed_x.batch_sizes), case.state)
    np.testing.assert_array_equal(y.data, got["y"][THERE])


X = np.zeros((4, 3, 2))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([4, 5, 1], ValueError, "lengths has values from 1 to 5, expected 0 to 4"),
        ([4, -1, 1], ValueError, "lengths has values from -1 to 4, expected 0 to 4"),
        ([4, 1], ValueError, "lengths has shape (2,), expected (3,)"),
        ([[4], [1], [2]], ValueError, "lengths has shape (3, 1), expected (3,)"),
        (4, ValueError, "lengths has shape (), expected (3,)"),
        ([4.0, 1.0, 2.0], TypeError, "lengths has dtype float64, expected integers"),
        ([True, True, False], TypeError, "lengths has dtype bool, expected integers"),
        (["4", "1", "2"], TypeError, "lengths has dtype <U1, expected integers"),
    ],
)
def test_wrong_lengths_are_named(lengths: Any, error: type[Exception], message: str) -> None:
    for layer in (bptt.GRU(2, 3), bptt.LSTM(2, 3, num_layers=2, bidirectional=True)):
        for call in (layer, layer.forward):
            with pytest.raises(error, match=f"^{type(layer).__name__}.forward: {re.escape(message)}"):
                call(X, lengths=lengths)


@pytest.mark.parametrize(
    ("data", "sizes", "error", "message"),
    [
        (X[:, 0], [1, 3], ValueError, "batch_sizes grow, expected them to fall"),
        (X[0], [2, 0, 1], ValueError, "batch_sizes has the value 0, expected 1 or more"),
        (X[0], [2, 2], ValueError, r"x has shape \(3, 2\), expected \(4, 2\)"),
        (X[0], [2], ValueError, r"x has shape \(3, 2\), expected \(2, 2\)"),
        (X[0], [2.0, 1.0], TypeError, "batch_sizes has dtype float64, expected integers"),
        (X[0], 3, ValueError, r"batch_sizes has shape \(\), expected "),
        (X, [2, 1], ValueError, r"x has shape \(4, 3, 2\), expected \(sum, 2\)"),
        (X[0][:, :1], [2, 1], ValueError, r"x has shape \(3, 1\), expected \(sum, 2\)"),
    ],
)
def test_wrong_packed_rows_are_named(data: Any, sizes: Any, error: type[Exception], message: str) -> None:
    for layer in (bptt.GRU(2, 3), bptt.LSTM(2, 3, num_layers=2, bidirectional=True)):
        with pytest.raises(error, match=f"^{type(layer).__name__}.forward: {message}"):
            layer(Packed(data, sizes))


def test_lengths_beside_packed_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"GRU.forward: lengths is given with packed rows, expected one of them"):
        bptt.GRU(2, 3)(Packed(X[0], [2, 1]), lengths=[2, 1])
