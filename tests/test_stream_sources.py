# SPDX-License-Identifier: Apache-2.0
"""Streams and their sources: the last y as x, the layer's weights, copies, other threads, wrong arguments."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import signal
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

import bptt
from stacks import DTYPES, KINDS, make, parts

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_copy = pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])

T, B, N = 6, 2, 5
WIDE = 40  # several registers: the last ones read x after the first ones are done
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"clip_state": 1.0},
    "zoneout": {"zoneout": 0.1},
    "stack": {"num_layers": 3, "learn_initial_state": True},
}


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def square(kind: str, **options: Any) -> Any:
    """A layer whose y is as wide as its x, WIDE."""
    if "projected" in kind:
        return make(kind, WIDE, WIDE + 2, proj_size=WIDE, **options)
    return make(kind, WIDE, WIDE, **options)


def dense(dtype: Any = np.float32, N: int = N) -> dict[str, Any]:
    """Layers and models other than recurrent layers, from N to N features, by name."""
    options: dict[str, Any] = {"dtype": dtype, "seed": 3}
    return {
        "linear": bptt.Linear(N, N, **options),
        "no bias": bptt.Linear(N, N, bias=False, **options),
        "model": bptt.Sequential(bptt.GRU(N, 4, clip_state=1.0, **options), bptt.Linear(4, N, **options)),
        "one": bptt.Sequential(bptt.Linear(N, N, **options)),
    }


@every_kind
@every_dtype
@pytest.mark.parametrize("name", OPTIONS)
def test_x_may_be_the_last_y(kind: str, dtype: str, name: str) -> None:
    layer = square(kind, dtype=dtype, **OPTIONS[name])
    fed, apart = layer.stream(B), layer.stream(B)
    y = fed(random(B, WIDE, dtype=dtype))
    z = apart(random(B, WIDE, dtype=dtype)).copy()
    for _ in range(3):
        y, z = fed(y), apart(z).copy()
        np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(fed(y[None])[0], apart(z[None])[0])


@every_dtype
@pytest.mark.parametrize("name", dense())
@pytest.mark.parametrize("rows", [1, B, 40])
def test_x_may_be_the_last_y_of_layers_without_a_state(dtype: str, name: str, rows: int) -> None:
    layer = dense(dtype, WIDE)[name]
    fed, apart = layer.stream(rows), layer.stream(rows)
    y = fed(random(rows, WIDE, dtype=dtype))
    z = apart(random(rows, WIDE, dtype=dtype)).copy()
    for _ in range(3):
        y, z = fed(y), apart(z).copy()
        np.testing.assert_array_equal(y, z)


def test_x_may_be_a_part_of_the_last_y() -> None:
    linear = bptt.Linear(20, 40, seed=0)
    fed, apart = linear.stream(), linear.stream()
    y = fed(random(1, 20))
    z = apart(random(1, 20)).copy()
    for start in (0, 10, 20):
        y, z = fed(y[:, start : start + 20]), apart(z[:, start : start + 20].copy()).copy()
        np.testing.assert_array_equal(y, z)


def halve(layer: Any) -> None:
    with layer.params.edit() as p:
        p.flat[:] *= 0.5


def streamed(name: str) -> tuple[Any, Any]:
    """A layer or model by the name of a cell, or of `dense`, and an x [T,B,.] for it."""
    if name == "embedding":
        return bptt.Embedding(9, N, seed=0), np.random.default_rng(0).integers(0, 9, (T, B))
    if name in dense():
        return dense()[name], random(T, B, N)
    layer = make(name, N, 20, dtype="float32", num_layers=2, learn_initial_state=True, zoneout=0.1)
    return layer, random(T, B, N)


every_stream = pytest.mark.parametrize("name", [*KINDS, *dense(), "embedding"])


def state_of(stream: Any) -> list[Any]:
    state = getattr(stream, "state", ())
    return [array for part in parts(state) for array in parts(part)]


@every_stream
def test_refresh_takes_the_present_weights_and_keeps_the_state(name: str) -> None:
    layer, x = streamed(name)
    stream = layer.stream(B)
    assert not stream.stale
    y = stream(x[0])
    before = state_of(stream)
    halve(layer)
    assert stream.stale
    expected = layer.stream(B)
    if hasattr(stream, "state"):
        expected.state = stream.state
    stream.refresh()
    assert not stream.stale
    for a, b in zip(state_of(stream), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert stream(x[1]) is y
    np.testing.assert_array_equal(y, expected(x[1]))
    if hasattr(stream, "state"):  # the state of a reset is also the present one
        stream.reset()
        np.testing.assert_array_equal(stream(x), layer.stream(B)(x))


@every_stream
@every_copy
@pytest.mark.parametrize("stale", [False, True])
def test_copies_have_the_same_weights_and_a_state_of_their_own(name: str, duplicate: Any, stale: bool) -> None:
    layer, x = streamed(name)
    stream = layer.stream(B)
    stream(x[:2])
    if stale:
        halve(layer)
    twin = duplicate(stream)
    assert twin.stale == stream.stale == stale
    expected = stream(x[2:])
    for _ in range(2):  # the second time from where the first one ended
        before = state_of(stream)
        np.testing.assert_array_equal(twin(x[2:]), expected)
        for a, b in zip(state_of(stream), before, strict=True):
            np.testing.assert_array_equal(a, b)
        expected = stream(x[2:])
    if hasattr(stream, "state"):
        stream.reset()
        twin.reset()
        np.testing.assert_array_equal(twin(x), stream(x))
    twin.refresh()
    assert not twin.stale
    if hasattr(stream, "state"):
        twin.reset()
    np.testing.assert_array_equal(twin(x), layer.stream(B)(x))


@pytest.mark.parametrize("name", ["lstm", "linear", "model"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_deep_copy_follows_the_copy_of_its_layer(name: str, first: int) -> None:
    layer, x = streamed(name)
    pair = (layer, layer.stream(B))
    copied = copy.deepcopy(pair[::-1] if first else pair)
    twin, stream = copied[first], copied[1 - first]
    assert not stream.stale
    halve(twin)
    assert stream.stale
    assert not pair[1].stale
    stream.refresh()
    if hasattr(stream, "state"):
        stream.reset()
    np.testing.assert_array_equal(stream(x), twin.stream(B)(x))
    shallow = copy.copy(pair[1])
    halve(layer)
    assert shallow.stale


@every_kind
@every_dtype
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [1, 7, 16, 50])
def test_a_stream_tells_its_weights_to_the_bit(kind: str, dtype: str, bias: bool, hidden: int) -> None:
    sizes = {"proj_size": max(1, hidden - 3)} if "projected" in kind else {}
    if sizes and hidden == 1:
        hidden = 2
    layer = make(kind, 3, hidden, dtype=dtype, bias=bias, num_layers=2, learn_initial_state=True, **sizes)
    stream = layer.stream(B)
    np.testing.assert_array_equal(stream._source.flat(stream), layer.params.flat)


def test_a_cycle_of_a_layer_and_its_stream_is_collected() -> None:
    for make_one in (lambda: bptt.GRU(2, 3), lambda: bptt.Linear(2, 3), lambda: bptt.Sequential(bptt.Embedding(2, 3))):
        layer: Any = make_one()
        layer.own = layer.stream()
        alive = weakref.ref(layer)
        del layer
        gc.collect()
        assert alive() is None


def test_one_call_at_a_time() -> None:
    """A call during another call is an error: it would read what the other one is writing."""
    stream = bptt.LSTM(1, 32, seed=0).stream()
    x = np.zeros((300_000, 1, 1), np.float32)  # about a quarter of a second
    refused = []

    def run() -> None:
        while True:
            try:
                return stream(x)
            except RuntimeError:  # the other thread was first
                continue

    worker = threading.Thread(target=run)
    worker.start()
    while worker.is_alive():
        try:
            _ = stream.state
        except RuntimeError as error:
            refused.append(str(error))
    worker.join()
    assert set(refused) == {"Stream: another call is not over, expected one call at a time"}
    assert stream.state[0].shape == (1, 1, 32)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
@pytest.mark.parametrize("layers", [1, 2])
def test_ctrl_c_ends_a_long_chunk(layers: int) -> None:
    """The chunk takes seconds, 1e11 operations a layer; the answer comes 0.1 s after the signal on an idle machine."""
    stream = bptt.GRU(1, 512, num_layers=layers, seed=0).stream()
    x = np.zeros((60_000, 1, 1), np.float32)
    handlers = (
        signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT)),
    )
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            stream(x)
        assert time.monotonic() - start < 1.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, handlers[0])
        signal.signal(signal.SIGALRM, handlers[1])
    assert np.isfinite(stream(x[0])).all()


def unaligned(x: Any) -> Any:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    return raw.view(x.dtype).reshape(x.shape)


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize("layer", [bptt.GRU(3, 4), bptt.LSTM(3, 4, num_layers=2), bptt.Linear(3, 4)], ids=repr)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([0, 0, 0], TypeError, "x has type list, expected a NumPy array"),
        (None, TypeError, "x has type NoneType, expected a NumPy array"),
        (X[0], ValueError, "x has shape (3,), expected (2, 3) or (T, 2, 3)"),
        (X[0, 0], TypeError, "x has type float32, expected a NumPy array"),
        (X[..., None, None], ValueError, "x has shape (2, 3, 1, 1), expected (2, 3) or (T, 2, 3)"),
        (X[:, :2], ValueError, "x has shape (2, 2), expected (2, 3)"),
        (X[None, :1], ValueError, "x has shape (1, 1, 3), expected (1, 2, 3)"),
        (X.astype("f8"), TypeError, "x has dtype float64, expected float32"),
        (X.astype(">f4"), TypeError, "x has dtype >f4, expected float32"),
        (np.asfortranarray(X), ValueError, "x is strided or not aligned, expected C-contiguous and aligned"),
        (unaligned(X), ValueError, "x is strided or not aligned, expected C-contiguous and aligned"),
    ],
)
def test_a_wrong_x_is_named_in_one_line(layer: Any, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape('Stream: ' + message)}$"):
        layer.stream(2)(x)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0, 0], TypeError, "x has type list, expected a NumPy array"),
        (np.zeros((1, 1, 2), int), ValueError, "x has shape (1, 1, 2), expected (2,) or (T, 2)"),
        (np.zeros(3, int), ValueError, "x has shape (3,), expected (2,)"),
        (np.zeros(2), TypeError, "x has dtype float64, expected int64"),
        (np.array([1, 9]), ValueError, "x has the value 9, expected 0 to 8"),
    ],
)
def test_wrong_ids_are_named_in_one_line(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape('Stream: ' + message)}$"):
        bptt.Embedding(9, 3).stream(2)(ids)


def test_wrong_states_are_named_in_one_line() -> None:
    h = np.zeros((1, 2, 4), np.float32)
    for stream, wrong, error, message in (
        (bptt.GRU(3, 4).stream(2), [0], TypeError, "state has type list, expected a NumPy array"),
        (bptt.GRU(3, 4).stream(2), h[0], ValueError, "state has shape (2, 4), expected (1, 2, 4)"),
        (bptt.LSTM(3, 4).stream(2), h, ValueError, "state has type ndarray, expected a tuple of 2 arrays"),
        (bptt.LSTM(3, 4).stream(2), (h,), ValueError, "state has length 1, expected a tuple of 2 arrays"),
        (bptt.LSTM(3, 4).stream(2), (h, 0), TypeError, "state has type int, expected a NumPy array"),
    ):
        with pytest.raises(error, match=f"^{re.escape('Stream: ' + message)}$"):
            stream.state = wrong


@pytest.mark.parametrize("layer", [bptt.GRU(3, 4), bptt.Linear(3, 4), bptt.Embedding(3, 4)], ids=repr)
def test_a_wrong_batch_size_is_named(layer: Any) -> None:
    where = type(layer).__name__ + ".stream"
    with pytest.raises(ValueError, match=rf"^{where}: batch_size has value 0, expected an integer >= 1$"):
        layer.stream(0)
    with pytest.raises(TypeError, match=rf"^{where}: batch_size has type float, expected an integer$"):
        layer.stream(1.0)
