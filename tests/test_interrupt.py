# SPDX-License-Identifier: Apache-2.0
"""Long native calls run signal handlers while they work, so that Ctrl-C is answered within 0.3 s."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bptt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs setitimer")

Job = Callable[[], Any]
SIZES = (1, 4)  # of jobs: the first is enough where a machine is slow or busy


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def stream(size: int) -> Job:
    made, x = bptt.GRU(64, 256, seed=0).stream(16), ones(1000 * size, 16, 64)
    return lambda: made(x)


def sequential_stream(size: int) -> Job:
    model = bptt.Sequential(bptt.GRU(64, 256, seed=0), bptt.Linear(256, 512, seed=0))
    made, x = model.stream(16), ones(1000 * size, 16, 64)
    return lambda: made(x)


def linear_stream(size: int) -> Job:
    made, x = bptt.Linear(2000, 2000, init="zeros").stream(16), ones(250 * size, 16, 2000)
    return lambda: made(x)


def linear(size: int) -> Job:
    layer, x = bptt.Linear(3000, 3000, init="zeros"), ones(2000 * size, 3000)
    return lambda: layer(x)


def linear_backward(size: int) -> Job:
    layer, x = bptt.Linear(3000, 3000, init="zeros"), ones(1000 * size, 3000)
    y, tape = layer.forward(x)
    return lambda: layer.backward(tape, y)


def cross_entropy(size: int) -> Job:
    logits, targets = ones(250_000 * size, 200), np.zeros(250_000 * size, int)
    return lambda: bptt.losses.cross_entropy(logits, targets)


def mse(size: int) -> Job:
    prediction = ones(500_000 * size, 200)
    return lambda: bptt.losses.mse(prediction, prediction)


def embedding_backward(size: int) -> Job:
    layer, ids = bptt.Embedding(1000, 300, init="zeros"), np.arange(250_000 * size) % 1000
    y, tape = layer.forward(ids)
    return lambda: layer.backward(tape, y)


def one_step_of_many_rows(size: int) -> Job:
    layer, x = bptt.LSTM(64, 256, init="zeros"), ones(1, 25_000 * size, 64)
    return lambda: layer(x)


def one_step_of_many_rows_backward(size: int) -> Job:
    layer, x = bptt.LSTM(64, 256, init="zeros"), ones(1, 15_000 * size, 64)
    y, _, tape = layer.forward(x)
    return lambda: layer.backward(tape, y)


def one_step_of_a_cell_of_several_stages(size: int) -> Job:
    layer, x = bptt.LSTM(64, 256, layer_norm=True, init="zeros"), ones(1, 15_000 * size, 64)
    return lambda: layer(x)


def packing(size: int) -> Job:
    layer, x = bptt.LSTM(6000, 750 * size, init="zeros"), ones(1, 1, 6000)
    return lambda: layer.forward(x)


def narrow_linear_backward(size: int) -> Job:
    layer, x = bptt.Linear(16, 16, init="zeros"), ones(750_000 * size, 16)
    y, tape = layer.forward(x)
    return lambda: layer.backward(tape, y)


def one_frequent_id(size: int) -> Job:
    layer, ids = bptt.Embedding(1000, 300, init="zeros"), np.zeros(250_000 * size, int)
    y, tape = layer.forward(ids)
    return lambda: layer.backward(tape, y)


JOBS = (
    stream, sequential_stream, linear_stream, linear, linear_backward, cross_entropy, mse, embedding_backward,
    one_step_of_many_rows, one_step_of_many_rows_backward, one_step_of_a_cell_of_several_stages, packing,
    narrow_linear_backward, one_frequent_id,
)  # fmt: skip


@pytest.mark.parametrize("make", JOBS, ids=[job.__name__ for job in JOBS])
def test_handlers_run_during_a_long_call(make: Callable[[int], Job]) -> None:
    """A job of 0.3 s or more sees the timer's handler at least once, at about every 0.1 s on an idle machine."""
    calls: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: calls.append(time.perf_counter()))
    start = end = 0.0
    try:
        for size in SIZES:
            job = make(size)
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            start = time.perf_counter()
            job()
            end = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, 0)
            if end - start >= 0.3:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if end - start < 0.3:
        pytest.skip(f"the job took {end - start:.2f} s only")
    inside = [start, *(t for t in calls if start < t < end - 0.01), end]
    assert len(inside) > 2
    assert max(np.diff(inside)) < max(0.3, 0.6 * (end - start))


@pytest.mark.parametrize("make", JOBS, ids=[job.__name__ for job in JOBS])
def test_an_exception_of_a_handler_ends_the_call_and_the_next_one_works(make: Callable[[int], Job]) -> None:
    job = make(SIZES[0])

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError

    def work() -> None:
        while True:  # in the first call, unless a fast machine has finished it
            job()

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(TimeoutError):
            work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    y, _ = bptt.GRU(2, 3, seed=0)(ones(2, 2, 2))
    assert np.isfinite(y).all()


class Late(Exception):  # noqa: N818 (not an error)
    """Raised by a handler."""


@pytest.mark.parametrize("of_layers", [1, 2, "model"])
def test_an_interrupted_chunk_leaves_the_state_as_it_was(of_layers: Any) -> None:
    """Otherwise the layers would be at different steps."""
    if of_layers == "model":
        layers: Any = bptt.Sequential(
            bptt.GRU(64, 128, seed=0), bptt.Linear(128, 128, seed=0), bptt.GRU(128, 128, seed=1)
        )
    else:
        layers = bptt.GRU(64, 128, of_layers, seed=0)
    made = layers.stream(16)
    made(ones(3, 16, 64))
    before = [np.array(part) for part in made.state] if of_layers == "model" else [made.state]

    def raise_late(number: int, frame: Any) -> None:
        raise Late

    handler = signal.signal(signal.SIGALRM, raise_late)
    x = ones(20_000, 16, 64)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Late):
            made(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    after = made.state if of_layers == "model" else [made.state]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_handler_may_use_the_layer_that_is_being_packed() -> None:
    layer, x = bptt.LSTM(6000, 3000, init="zeros"), ones(1, 1, 6000)
    inner: list[Any] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: inner.append(layer(x)[0]))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        y, _ = layer(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert not y.any()
    assert all(not each.any() for each in inner)
