# SPDX-License-Identifier: Apache-2.0
"""Resets to zeros or to a learnt state: against the pieces run separately, and against central differences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.layers import Packed
from differences import Array, Terms, check_gradient
from kernels import assert_close, assert_same_bits
from stacks import DTYPES, KINDS, Case, Expected, make, parts, reset_state_of, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_shape = pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (2, True)])
learnt_or_not = pytest.mark.parametrize("learnt", [False, True])

T, B = 8, 5
RESETS = np.array(
    [np.zeros(T), [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 1], np.ones(T)]
)
RESETS = np.ascontiguousarray(RESETS.T.astype(bool))  # [T,B]: never; at once; twice in a row; first and last; always


def resetting(kind: str, dtype: str, layers: int, both: bool, learnt: bool, **options: Any) -> Case:
    return Case.random(
        kind, dtype, T, B, resets=RESETS, num_layers=layers, bidirectional=both, learn_initial_state=learnt, **options
    )


def pieces(case: Case, b: int) -> Iterator[tuple[slice, Case]]:
    """The pieces of one row as separate cases, with the states and gradients that go into each."""
    layer, D = case.layer, case.layer.num_directions
    cuts = [0, *(t for t in range(1, T) if RESETS[t, b]), T]
    for begin, end in itertools.pairwise(cuts):
        states = [s[:, b : b + 1].copy() for s in parts(case.state)]
        dstates = [s[:, b : b + 1].copy() for s in parts(case.dstate)]
        for k in range(layer.num_layers):
            for d in range(D):
                first, last = (begin == 0, end == T) if d == 0 else (end == T, begin == 0)  # as the row is read
                starts = reset_state_of(case, k, d) or [0.0] * len(states)
                for state, dstate, start in zip(states, dstates, starts, strict=True):
                    if not first or (d == 0 and RESETS[0, b]):
                        state[k * D + d] = start
                    if not last:
                        dstate[k * D + d] = 0
        cut = slice(begin, end)
        yield (
            cut,
            case.but(
                x=case.x[cut, b : b + 1],
                dy=case.dy[cut, b : b + 1],
                resets=None,
                state=whole(states),
                dstate=whole(dstates),
            ),
        )


@every_kind
@every_shape
@learnt_or_not
def test_a_row_with_resets_is_its_pieces(kind: str, layers: int, both: bool, learnt: bool) -> None:
    case = resetting(kind, "float32", layers, both, learnt)
    D, got = case.layer.num_directions, case.run()
    shares = {f"d{name}": np.zeros(shape) for name, shape in case.layer.params.shapes.items()}
    for b in range(B):
        for cut, piece in pieces(case, b):
            alone = piece.run()
            assert_same_bits({"y": got["y"][cut, b : b + 1].copy()}, {"y": alone["y"]})
            assert_close({"dx": got["dx"][cut, b : b + 1]}, {"dx": alone["dx"]}, case.tolerance())
            for share in shares:
                shares[share] += alone[share]
            for i in range(len(parts(case.state))):
                for k in range(layers * D):
                    first, last = (cut.start == 0, cut.stop == T) if k % D == 0 else (cut.stop == T, cut.start == 0)
                    if last:
                        np.testing.assert_array_equal(got[f"final {i}"][k, b], alone[f"final {i}"][k, 0])
                    if first and k % D == 0 and RESETS[0, b]:
                        assert not got[f"dinitial {i}"][k, b].any()
                    elif first:
                        name, mine = f"dinitial {i}", got[f"dinitial {i}"][k, b]
                        assert_close({name: mine}, {name: alone[name][k, 0]}, case.tolerance())
    mine = {name: got[name] for name in shares if "initial" not in name}
    assert_close(mine, {name: shares[name] for name in mine}, case.tolerance())


@every_kind
@every_dtype
@every_shape
@learnt_or_not
def test_resets_agree_with_the_reference(kind: str, dtype: str, layers: int, both: bool, learnt: bool) -> None:
    for lengths in (None, np.array([8, 0, 5, 3, 7])):
        for state in (True, False):
            case = resetting(kind, dtype, layers, both, learnt, state=state).but(lengths=lengths)
            got = case.run()
            assert_close(got, Expected(case).results(), case.tolerance())
            assert_same_bits(case.infer(), {name: got[name] for name in case.infer()})


@every_kind
def test_what_is_learnt_has_the_gradient_of_central_differences(kind: str) -> None:
    for state, resets, both in ((False, None, False), (False, RESETS, True), (True, RESETS, True)):
        case = resetting(kind, "float64", 2, both, True, state=state).but(resets=resets)
        layer = case.layer
        names = [name for name in layer.params if name.startswith("initial_")]
        assert len(names) == 2 * (1 + both) * len(parts(case.dstate))

        def loss(point: list[Array], case: Case = case, layer: Any = layer, names: list[str] = names) -> Terms:
            with layer.params.edit() as p:
                for name, value in zip(names, point, strict=True):
                    p[name] = value
            results = case.infer().values()
            pairs = list(zip((case.dy, *parts(case.dstate)), results, strict=True))
            return sum(float(np.vdot(d, a)) for d, a in pairs), sum(
                float((np.abs(d) * np.maximum(np.abs(a), 1)).sum()) for d, a in pairs
            )

        got, point = case.run(), [np.array(layer.params[name]) for name in names]
        H = layer.hidden_size
        # Two layers: a step adds up the products, for some cells 4 H values more, and has some 20 operations more.
        roundings = 2 * (T + 1) * (2 * H + H + 4 * H + 20) + (T + 1) * B * 2 * H
        check_gradient(loss, point, [got[f"d{name}"] for name in names], roundings)


@every_kind
def test_what_is_learnt_is_where_a_call_begins(kind: str) -> None:
    case = resetting(kind, "float32", 2, True, True, state=False).but(resets=None)
    starts = [reset_state_of(case, k, d) for k in range(2) for d in range(2)]
    state = whole(np.stack([np.tile(each, (B, 1)) for each in part]) for part in zip(*map(parts, starts), strict=True))
    got, given = case.run(), case.but(state=state).run()
    for name in given:
        if "initial_" not in name:
            assert got[name].tobytes() == given[name].tobytes(), name
        else:
            assert got[name].any()
            assert not given[name].any()  # the state was given, and there was no reset
    begun = make(kind, 5, learn_initial_state=True, init="pytorch")
    assert any(name.startswith("initial_h_l0") for name in begun.params)
    fresh = KINDS[kind][0](5, 7, learn_initial_state=True, **KINDS[kind][1])
    starts = {name: value for name, value in fresh.params.items() if name.startswith("initial_")}
    assert all((value == name.startswith("initial_n")).all() for name, value in starts.items())  # n of an sLSTM is 1


@every_kind
def test_resets_in_other_layouts(kind: str) -> None:
    case = resetting(kind, "float32", 1, True, False)
    expected = case.run()
    turned = case.but(
        layer=make(kind, 5, dtype="float32", bidirectional=True, batch_first=True),
        x=case.x.swapaxes(0, 1), dy=case.dy.swapaxes(0, 1), resets=RESETS.T,
    ).run()  # fmt: skip
    turned |= {name: np.ascontiguousarray(turned[name].swapaxes(0, 1)) for name in ("y", "dx")}
    assert_same_bits(turned, expected)
    lists = case.but(resets=RESETS.tolist())
    assert_same_bits(lists.infer(), {name: expected[name] for name in lists.infer()})
    state = whole(s[:, 2] for s in parts(case.state))
    y, _ = case.layer(case.x[:, 2], state, resets=RESETS[:, 2])
    np.testing.assert_array_equal(y, expected["y"][:, 2])
    y, _ = case.layer(Packed(case.x.reshape(T * B, -1), [B] * T), case.state, resets=RESETS.reshape(-1))
    np.testing.assert_array_equal(y.data.reshape(T, B, -1), expected["y"])


def test_resets_reach_every_layer_of_a_model() -> None:
    model = bptt.Sequential(bptt.GRU(3, 4, seed=0), bptt.LSTM(4, 5, seed=0), bptt.Linear(5, 2, seed=0))
    x = np.random.default_rng(0).standard_normal((6, 1, 3)).astype(np.float32)
    y, _ = model(x, resets=np.arange(6)[:, None] == 4)
    np.testing.assert_array_equal(y, np.concatenate([model(x[:4])[0], model(x[4:])[0]]))


@pytest.mark.parametrize(
    ("resets", "error", "message"),
    [
        (np.zeros((4, 2), bool), ValueError, "resets has shape (4, 2), expected (4, 3)"),
        (np.zeros((3, 4), bool), ValueError, "resets has shape (3, 4), expected (4, 3)"),
        (np.zeros(4, bool), ValueError, "resets has shape (4,), expected (4, 3)"),
        (True, ValueError, "resets has shape (), expected (4, 3)"),
        (np.zeros((4, 3), int), TypeError, "resets has dtype int64, expected booleans"),
        (np.zeros((4, 3)), TypeError, "resets has dtype float64, expected booleans"),
    ],
)
def test_wrong_resets_are_named(resets: Any, error: type[Exception], message: str) -> None:
    x = np.zeros((4, 3, 2))
    for layer in (bptt.RNN(2, 3), bptt.LSTM(2, 3, num_layers=2, bidirectional=True)):
        with pytest.raises(error, match=f"^{type(layer).__name__}.forward: {re.escape(message)}$"):
            layer(x, resets=resets)
    with pytest.raises(ValueError, match=r"^GRU.forward: resets has shape \(4, 3\), expected \(3, 4\)$"):
        bptt.GRU(2, 3, batch_first=True)(x.swapaxes(0, 1), resets=np.zeros((4, 3), bool))
