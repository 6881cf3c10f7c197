# SPDX-License-Identifier: Apache-2.0
"""Streams of layers, stacks and models: the bits of the whole sequence, their state, threads, and no allocations."""

from __future__ import annotations

import ctypes
import gc
import itertools
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import bptt
from stacks import DTYPES, KINDS, make, parts, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stacked": {"num_layers": 3},
    "learnt": {"learn_initial_state": True},
    "all": {
        "num_layers": 2, "dropout": 0.5, "recurrent_dropout": 0.5, "zoneout": (0.3, 0.2), "clip_state": 0.4,
        "learn_initial_state": True,
    },
}  # fmt: skip
every_option = pytest.mark.parametrize("name", OPTIONS)

T, B, I = 6, 3, 5  # noqa: E741


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same_state(actual: Any, expected: Any) -> None:
    assert isinstance(actual, tuple) == isinstance(expected, tuple)
    for a, b in zip(parts(actual), parts(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@every_kind
@every_dtype
@every_option
def test_a_stream_gives_the_bits_of_the_whole_sequence(kind: str, dtype: str, name: str) -> None:
    layer, x = make(kind, I, dtype=dtype, **OPTIONS[name]), random(T, B, I, dtype=dtype)
    y, final = layer(x)
    stream = layer.stream(B)
    steps = [stream(x_t).copy() for x_t in x[:3]]
    middle = stream.state
    assert_same_state(middle, layer(x[:3])[1])
    np.testing.assert_array_equal([*steps, *stream(x[3:])], y)
    assert_same_state(stream.state, final)
    assert stream(x[0]) is stream(x[1])
    assert not stream(x[0]).flags.writeable

    stream.state = middle
    for values in parts(middle):
        values[:] = np.nan  # it was a copy
    np.testing.assert_array_equal(stream(x[3:]), y[3:])
    for restart in (lambda: stream.reset(), lambda: setattr(stream, "state", None)):
        restart()
        np.testing.assert_array_equal(stream(x), y)
        assert_same_state(stream.state, final)


@every_kind
@every_option
@pytest.mark.parametrize("rows", [1, slice(0, 2), [0, 2], np.array([True, False, True])], ids=repr)
def test_single_rows_begin_anew(kind: str, name: str, rows: Any) -> None:
    layer, x = make(kind, I, dtype="float32", **OPTIONS[name]), random(T, B, I)
    stream = layer.stream(B)
    stream(x[:4])
    before, start = stream.state, layer.stream(B).state
    stream.reset(rows)
    for after, old, new in zip(parts(stream.state), parts(before), parts(start), strict=True):
        old[:, rows] = new[:, rows]
        np.testing.assert_array_equal(after, old)
    resets = np.zeros((T, B), bool)
    resets[4, rows] = True
    np.testing.assert_array_equal(stream(x[4:]), layer(x, resets=resets)[0][4:])


def models(dtype: Any = np.float32) -> Any:
    options: dict[str, Any] = {"dtype": dtype, "seed": 1}
    return bptt.Sequential(
        bptt.Embedding(9, 4, **options),
        bptt.LSTM(4, 6, num_layers=2, proj_size=5, **options),
        bptt.Dropout(0.5),
        bptt.GRU(5, 7, layer_norm=True, learn_initial_state=True, zoneout=0.1, **options),
        bptt.RNN(7, 3, **options),
        bptt.Linear(3, 2, **options),
    )


@every_dtype
def test_a_model_streams_through_all_its_layers(dtype: str) -> None:
    model, ids = models(dtype), np.random.default_rng(0).integers(0, 9, (T, B))
    with model.params.edit() as p:
        p["3.initial_h_l0"] = np.linspace(-1, 1, 7)
    y, final = model(ids)
    stream = model.stream(B)
    steps = [stream(x).copy() for x in ids[:2]]
    middle = stream.state
    assert len(middle) == 3
    np.testing.assert_array_equal([*steps, *stream(ids[2:])], y)
    for a, b in zip(stream.state, final, strict=True):
        assert_same_state(a, b)
    assert stream(ids[0]) is stream(ids[1])
    stream.state = middle
    np.testing.assert_array_equal(stream(ids[2:]), y[2:])
    stream.state = (middle[0], None, middle[2])
    assert_same_state(stream.state[1], np.broadcast_to(model.params["3.initial_h_l0"], (1, B, 7)))
    assert_same_state(stream.state[0], middle[0])
    stream.state = None
    np.testing.assert_array_equal(stream(ids), y)
    stream.reset([1])
    np.testing.assert_array_equal(stream(ids)[:, 1], y[:, 1])
    stream.reset()
    np.testing.assert_array_equal(stream(ids), y)
    with pytest.raises(ValueError, match="Stream: state has length 2, expected a tuple of length 3"):
        stream.state = middle[:2]


def test_a_stream_keeps_the_weights_it_was_made_with() -> None:
    for made in (make("lstm", 5, num_layers=2, learn_initial_state=True), models("float64")):
        x: Any = np.zeros((T, B), int) if isinstance(made, bptt.Sequential) else random(T, B, 5, dtype="float64")
        y = made(x)[0]
        stream = made.stream(B)
        with made.params.edit() as p:
            p.flat[:] *= 0.5
        assert not np.array_equal(made(x)[0], y)
        np.testing.assert_array_equal(stream(x), y)
        stream.reset()
        np.testing.assert_array_equal(stream(x), y)


@pytest.mark.parametrize("kind", ["lstm", "projected", "gru_norm"])
def test_streams_of_one_layer_share_nothing(kind: str) -> None:
    layer, x = make(kind, I, 20, dtype="float32", num_layers=2, zoneout=0.1), random(2000, 2, I)
    inputs = [x, x[::-1].copy(), -x]
    expected = [layer(each)[0] for each in inputs]
    streams = [layer.stream(2) for _ in inputs]
    got: list[list[Any]] = [[] for _ in inputs]
    for t in range(50):  # in turns
        for k, stream in enumerate(streams):
            got[k].append(stream(inputs[k][t]).copy())
    for k, y in enumerate(expected):
        np.testing.assert_array_equal(got[k], y[:50])

    def run(k: int) -> Any:  # at once, steps and chunks
        streams[k].reset()
        steps = [streams[k](x_t).copy() for x_t in inputs[k][:1000]]
        return np.concatenate([steps, streams[k](inputs[k][1000:])])

    with ThreadPoolExecutor(3) as pool:
        for y, result in zip(expected, pool.map(run, range(3)), strict=True):
            np.testing.assert_array_equal(result, y)


def bytes_in_use() -> Callable[[], int]:
    """A function that returns the bytes given out by the C library, where it is a glibc that reports them."""
    try:
        function = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return lambda: 0
    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    info = type("mallinfo2", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
    function.restype = info

    def ask() -> int:
        found = function()
        return int(found.uordblks + found.hblkhd)

    return ask


def steady(kind: str) -> tuple[Any, Any]:
    """A stream, and an x for it."""
    if kind == "model":
        options: dict[str, Any] = {"seed": 0}
        model = bptt.Sequential(
            bptt.Embedding(9, 4, **options), bptt.GRU(4, 20, **options), bptt.Linear(20, 3, **options)
        )
        return model.stream(2), np.array([1, 8])
    layers = 2 if kind == "stack" else 1
    layer = make(
        {"stack": "projected"}.get(kind, kind), I, 20, dtype="float32", num_layers=layers, zoneout=0.1 * (layers - 1)
    )
    return layer.stream(2), random(2, I)


@pytest.mark.parametrize("kind", ["lstm", "lstm_norm", "gru_before", "stack", "model"])
def test_a_step_allocates_nothing(kind: str) -> None:
    stream, x = steady(kind)
    native = bytes_in_use()

    def steps(n: int) -> None:
        for _ in itertools.repeat(None, n):
            stream(x)

    def grown() -> tuple[int, int]:
        before = sys.getallocatedblocks(), native()
        steps(10_000)
        return sys.getallocatedblocks() - before[0], native() - before[1]

    gc.collect()
    gc.disable()
    try:
        steps(1000)
        # One block a step would be 10,000; a few come and go with what the interpreter caches by itself.
        blocks, size = min(grown() for _ in range(3))
    finally:
        gc.enable()
    assert abs(blocks) < 10
    assert abs(size) < 10_000


@pytest.mark.parametrize("layers", [1, 2])
def test_what_a_stream_refuses(layers: int) -> None:
    lstm = bptt.LSTM(3, 4, num_layers=layers)
    for B, error, message in (
        (0, ValueError, "batch_size has value 0, expected an integer >= 1"),
        (1.5, TypeError, "batch_size has type float, expected an integer"),
    ):
        with pytest.raises(error, match=f"^LSTM.stream: {message}"):
            lstm.stream(B)  # type: ignore[arg-type]
    both = bptt.GRU(3, 4, num_layers=layers, bidirectional=True)
    with pytest.raises(ValueError, match=r"^GRU.stream: the layer is bidirectional, expected one direction"):
        both.stream()
    with pytest.raises(ValueError, match=r"^GRU.stream: the layer is bidirectional, expected one direction"):
        bptt.Sequential(both, bptt.Linear(8, 2)).stream()
    stream = lstm.stream(2)
    x = np.zeros((2, 3), np.float32)
    for wrong, error, message in (
        (x[:1], ValueError, "x has shape (1, 3), expected (2, 3)"),
        (np.zeros((4, 1, 3), np.float32), ValueError, "x has shape (4, 1, 3), expected (4, 2, 3)"),
        (x.astype(np.float64), TypeError, "x has dtype float64, expected float32"),
        (np.asfortranarray(x), ValueError, "strided"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            stream(wrong)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_that_does_not_fit_changes_nothing(kind: str, layers: int) -> None:
    stream = make(kind, I, 4, dtype="float32", num_layers=layers).stream(B)
    stream(random(B, I))
    before = stream.state
    good = random(layers, B, 4, seed=1)
    for wrong in (random(layers + 1, B, 4), random(layers, B + 1, 4), random(layers, B, 5), good.astype(np.float64)):
        state = (good, wrong) if kind == "lstm" else wrong
        with pytest.raises((ValueError, TypeError), match=r"state has (shape|dtype)"):
            stream.state = state
        assert_same_state(stream.state, before)
    for wrong in (good, (good,), (good, good, good)) if kind == "lstm" else ((good,), (good, good)):
        with pytest.raises((ValueError, TypeError), match="state"):
            stream.state = wrong
        assert_same_state(stream.state, before)
    stream.state = whole([good] * len(parts(before)))
    assert_same_state(stream.state, whole([good] * len(parts(before))))


def test_states_of_a_model_that_do_not_fit_change_nothing() -> None:
    stream = bptt.Sequential(bptt.GRU(I, 4, seed=0), bptt.GRU(4, 2, seed=0)).stream(B)
    stream(random(B, I))
    before = stream.state
    with pytest.raises(ValueError, match=r"state has shape \(1, 3, 5\), expected \(1, 3, 2\)"):
        stream.state = (random(1, B, 4), random(1, B, 5))
    for a, b in zip(stream.state, before, strict=True):
        assert_same_state(a, b)
