# SPDX-License-Identifier: Apache-2.0
"""Calls of one step on weights as users hold them: the bits of calls on packed weights, and never a stale weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
import stacks

LANES = bptt.config()["float32_lanes"]
DTYPES = stacks.DTYPES
SHORT = ("rnn_tanh", "rnn_relu", "rnn_linear", "lstm", "peephole", "coupled", "gru", "slstm")
Arrays = list[NDArray[Any]]


def flat(values: Any) -> Arrays:
    """The arrays of a result, in order."""
    if values is None:
        return []
    return [values] if isinstance(values, np.ndarray) else [each for value in values for each in flat(value)]


def draw(layer: Any, T: int, B: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng([T, B])
    dtype = layer.params.dtype
    return tuple(rng.standard_normal((T, B, n)).astype(dtype) for n in (layer.input_size, layer.output_size))


def native(layer: Any) -> Any:
    return layer._stack.kernels.native


def step(layer: Any, x: Any, dy: Any, *, packed: bool, state: Any = None, keep: bool = True) -> Arrays:
    """All results of forward and backward, on packed weights or on those of the user."""
    stack = native(layer)
    if packed:
        stack.pack(layer.params.plain, True)
        ran = stack.forward_if_exact(x, state, True)
    else:
        ran = stack.forward_short(x, state, True, layer.params.plain, keep)
        assert ran is not None
    y, final, tape = ran
    grads = np.full(layer.params.size, np.nan, layer.params.dtype)
    back = stack.backward_if_exact(tape, dy, None, grads, None if keep else layer.params.plain)
    return flat([y, final, back, grads])


def check_same(a: Arrays, b: Arrays) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", SHORT)
def test_bits_are_those_of_packed_weights(kind: str, dtype: str) -> None:
    for H in range(1, 2 * LANES + 2):
        I, B = 1 + H * 5 % (2 * LANES + 3), (1, 2, 7)[H % 3]  # noqa: E741
        layer = stacks.make(kind, I, H, dtype=dtype)
        x, dy = draw(layer, 1, B)
        expected = step(layer, x, dy, packed=True)
        check_same(step(layer, x, dy, packed=False), expected)
        check_same(step(layer, x, dy, packed=False, keep=False), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", [1, 2, 3, 6, 8, 9, 4 * 6 + 1, 100])
def test_bits_of_any_batch_are_those_of_packed_weights(B: int, dtype: str) -> None:
    for I, H in ((5, 25), (30, 33), (200, 9)):  # noqa: E741
        layer = stacks.make("gru", I, H, dtype=dtype)
        x, dy = draw(layer, 1, B)
        with stacks.threads(1):
            check_same(step(layer, x, dy, packed=False, keep=False), step(layer, x, dy, packed=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", [1, 2, 5, 8])
def test_the_weight_gradient_of_few_rows_is_that_of_many(B: int, dtype: str) -> None:
    for H in range(1, 2 * LANES + 2):
        layer = stacks.make("gru", 1 + H * 5 % (2 * LANES + 3), H, dtype=dtype)
        x, dy = draw(layer, 1, B)
        wider = [np.concatenate([each, np.zeros_like(each).repeat(9, axis=1)], axis=1) for each in (x, dy)]
        few, many = step(layer, x, dy, packed=True)[-1], step(layer, *wider, packed=True)[-1]
        start, stop = layer.params.span("weight_ih_l0", "weight_hh_l0")  # elsewhere zeros have a sum of their own
        np.testing.assert_array_equal(few[start:stop], many[start:stop])


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_bits_are_the_same_for_any_number_of_threads(kind: str, threads: int) -> None:
    layer = stacks.make(kind, 30, 100, dtype="float32")
    x, dy = draw(layer, 1, 40)
    expected = step(layer, x, dy, packed=True)
    before = bptt.get_num_threads()
    bptt.set_num_threads(threads)
    try:
        y, state, tape = layer.forward(x)
        dx, dstate, grads = layer.backward(tape, dy)
    finally:
        bptt.set_num_threads(before)
    check_same(flat([y, state, (dx, dstate), grads.flat]), expected)


@pytest.mark.parametrize("kind", SHORT)
def test_a_given_state_enters(kind: str) -> None:
    layer = stacks.make(kind, 5, 11, dtype="float32")
    x, dy = draw(layer, 1, 3)
    _, state = layer(draw(layer, 4, 3)[0])
    check_same(step(layer, x, dy, packed=False, state=state), step(layer, x, dy, packed=True, state=state))


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_bits_of_a_longer_call(kind: str, dtype: str) -> None:
    layer = stacks.make(kind, 6, 13, dtype=dtype)
    x, _ = draw(layer, 5, 3)
    y, _ = layer(x)
    state = None
    for t in range(5):
        layer.params["bias_l0"] = layer.params["bias_l0"]  # counts as a change
        y_t, state = layer(x[t : t + 1], state)
        assert y_t.tobytes() == y[t : t + 1].tobytes()


@pytest.mark.parametrize("training", [False, True])
def test_no_stale_weight_is_ever_used(training: bool) -> None:
    layer, rng = bptt.LSTM(3, 9, seed=0), np.random.default_rng(0)
    x = np.ones((1, 2, 3), np.float32)
    for call in range(12):
        if call % 3 != 2:  # two calls of the same weights, then a third
            with layer.params.edit() as p:
                p.flat[:] = rng.standard_normal(p.size)
        fresh = bptt.LSTM(3, 9)
        fresh.load_state_dict(layer.state_dict())
        y = layer.forward(x)[0] if training else layer(x)[0]
        native(fresh).pack(fresh.params.plain, False)
        assert y.tobytes() == native(fresh).forward_if_exact(x, None, False)[0].tobytes()


@pytest.mark.parametrize("kind", SHORT)
def test_the_tape_keeps_the_weights_of_its_forward(kind: str) -> None:
    layer = stacks.make(kind, 7, 10, dtype="float32")
    x, dy = draw(layer, 1, 2)
    expected = step(layer, x, dy, packed=True)
    layer.params.update(lambda flat: None)
    y, state, tape = layer.forward(x)
    with layer.params.edit() as p:
        p.flat[:] = np.nan
    other = layer.forward(x)[0]  # short or packed, the tape before is not touched
    dx, dstate, grads = layer.backward(tape, dy)
    assert np.isnan(other).any()
    check_same(flat([y, state, (dx, dstate), grads.flat]), expected)


def test_backward_on_weights_that_are_given_again() -> None:
    layer = stacks.make("lstm", 7, 10, dtype="float32")
    stack, plain = native(layer), layer.params.plain
    x, dy = draw(layer, 1, 2)
    dx, dstate, *dparams = step(layer, x, dy, packed=True)[3:]
    parts = [plain[start:stop] for start, stop in layer._stack.kernels.spans]
    for weights in (plain, parts):
        tape = stack.forward_short(x, None, True, weights, keep_weights=False)[2]
        grads = np.full_like(plain, np.nan)
        for wanted in ({"want_dx": False}, {"want_dstate": False}, {}):  # of a retained tape, and of one that is used
            found = stack.backward(tape, dy, None, [grads], weights=weights, retain=bool(wanted), **wanted)
            assert found[0] is None if "want_dx" in wanted else found[0].tobytes() == dx.tobytes()
            assert found[1] is None if "want_dstate" in wanted else found[1][0].tobytes() == dstate.tobytes()
            assert grads.tobytes() == dparams[-1].tobytes()
    for weights, expected in ((None, "weights is None for a tape that keeps none"), (plain[1:], "weights has shape")):
        tape = stack.forward_short(x, None, True, plain, keep_weights=False)[2]
        with pytest.raises(ValueError, match=f"Stack.backward: {expected}"):
            stack.backward(tape, dy, None, grads, weights=weights)
    tape = stack.forward_short(x, None, True, plain)[2]  # has its own: others are not read
    assert stack.backward(tape, dy, None, grads, weights=np.full_like(plain, np.nan))[0].tobytes() == dx.tobytes()


def test_a_change_inside_an_edit_is_seen() -> None:
    layer = bptt.GRU(2, 3, seed=0)
    x = np.ones((1, 1, 2), np.float32)
    with layer.params.edit() as p:
        y = layer(x)[0].copy()
        p["bias_l0"] += 1
    assert not (layer(x)[0] == y).all()


def test_calls_that_need_packed_weights_get_them() -> None:
    layer = bptt.LSTM(3, 4, seed=0)
    plain, state = layer.params.plain, None
    x = np.ones((1, 2, 3), np.float32)
    stack = native(layer)
    assert stack.forward_short(np.ones((2, 2, 3), np.float32), state, False, plain) is None
    assert stack.forward_short(np.ones((0, 2, 3), np.float32), state, False, plain) is None
    assert stack.forward_short(x.astype(np.float64), state, False, plain) is False
    for other in (bptt.LSTM(3, 4, num_layers=2), bptt.LSTM(3, 4, proj_size=2), bptt.LSTM(3, 4, layer_norm=True)):
        assert native(other).forward_short(x, state, False, other.params.plain) is None
    with pytest.raises(ValueError, match="forward_short: params has shape"):
        stack.forward_short(x, state, False, plain[1:])
    lengths = np.array([1, 0])
    assert (layer(x, lengths=lengths)[0][0, 0] == layer(x)[0][0, 0]).all()


def test_no_rows() -> None:
    layer = bptt.LSTM(3, 9, seed=0)
    x, dy = np.ones((1, 0, 3), np.float32), np.ones((1, 0, 9), np.float32)
    y, (h, _), tape = layer.forward(x)
    dx, _, grads = layer.backward(tape, dy)
    assert y.shape == h.shape == (1, 0, 9)
    assert dx.shape == (1, 0, 3)
    assert not grads.flat.any()
