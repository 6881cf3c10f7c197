# SPDX-License-Identifier: Apache-2.0
"""Layers of a stack in parallel: the same bits as one after the other, and a way out of a call that is called off."""

from __future__ import annotations

import copy
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import bptt
from bptt._dispatch import core
from kernels import assert_same_bits
from stacks import KINDS, Case, Results, threads

every_kind = pytest.mark.parametrize("kind", KINDS)

LENGTHS = np.array([90, 100, 31])
# Layers so narrow that two threads gain nothing within one; calls of one chunk of 128 rows, and of several.
WAYS: dict[str, tuple[int, int, dict[str, Any]]] = {  # T, B, options
    "two layers": (100, 1, {"num_layers": 2}),
    "three layers": (300, 2, {"num_layers": 3}),
    "ragged": (100, 3, {"num_layers": 2, "lengths": LENGTHS}),
    "masks": (
        100, 3, {
            "num_layers": 5, "lengths": LENGTHS, "dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.1,
            "clip_state": 0.5, "clip_grad_per_step": 0.2, "learn_initial_state": True,
        },
    ),
}  # fmt: skip


def case_of(kind: str, way: str) -> Case:
    T, B, options = WAYS[way]
    return Case.random(kind, "float32", T, B, I=9, hidden_size=11, **options)


def results(case: Case) -> Results:
    """Training and inference by a copy, which draws the masks that the case's own layer would."""
    fresh = case.but(layer=copy.deepcopy(case.layer))
    return fresh.run() | {f"inferred {name}": value for name, value in fresh.infer().items()}


def runs_in_parallel(case: Case) -> bool:
    """Whether the layers of that call run in parallel."""
    layer, (T, B, _) = case.layer, case.x.shape
    rows = None if case.lengths is None else core.SequenceOrder(case.lengths, T, False)
    return layer._stack.kernels.packed(layer.params, True).runs_in_parallel(
        T, B, [core.CallOptions(order=rows)] * layer.num_layers, True
    )


@every_kind
@pytest.mark.parametrize("way", WAYS)
def test_side_by_side_changes_no_bit(kind: str, way: str) -> None:
    case = case_of(kind, way)
    with threads(1):
        assert not runs_in_parallel(case)
        expected = results(case)
    for n in (2, 3, 7):
        with threads(n):
            assert runs_in_parallel(case)
            assert_same_bits(results(case), expected)


def test_two_callers_share_the_pool() -> None:
    """The pool is one caller's: the other runs its layers alone, in turn."""
    cases = [case_of("gru", way) for way in WAYS] * 5
    with threads(1):
        expected = [results(case) for case in cases]
    with threads(2), ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(results, cases), expected, strict=True):
            assert_same_bits(got, want)


def test_what_gains_nothing_is_done_in_turn() -> None:
    """One core, two directions, checkpoints, steps too few to be cut, nothing at all."""
    case = case_of("lstm", "two layers")
    stack = case.layer._stack.kernels.packed(case.layer.params, True)
    checkpoints = [core.CallOptions(segment=10)] * case.layer.num_layers
    with threads(2):
        assert stack.runs_in_parallel(300, 1, None, True)
        assert stack.runs_in_parallel(300, 1, checkpoints, False)  # inference has no checkpoints
        for steps, options in ((300, checkpoints), (10, None), (0, None)):
            assert not stack.runs_in_parallel(steps, 1, options, True)
        both = bptt.LSTM(9, 11, num_layers=2, bidirectional=True)
        assert not both._stack.kernels.packed(both.params, True).runs_in_parallel(300, 1, None, True)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to a thread")
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "options", [{"num_layers": 2}, {"bidirectional": True}, {"bidirectional": True, "checkpoint": "sqrt"}]
)
def test_an_interrupt_ends_all_of_a_call(options: dict[str, Any], n: int) -> None:
    """Asked about ten times a second, in a call of some tenths: what is written at its end is not."""
    layer = bptt.GRU(64, 64, seed=0, **options)
    x = np.zeros((200_000, 1, 64), np.float32)
    y, _, tape = layer.forward(x)
    grads = layer.params.zeros_like()
    with grads.edit() as g:
        g.flat[:] = np.nan
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    timer = threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with threads(n), pytest.raises(KeyboardInterrupt):
        layer.backward(tape, y, grads=grads)
    timer.join()
    signal.signal(signal.SIGINT, handler)
    for name in grads:
        assert not name.startswith("bias_hn") or np.isnan(grads[name]).all()
    assert tape.nbytes == 0  # what a call that was called off leaves
    assert layer(x[:5])[0].shape == (5, 1, 64 * layer.num_directions)  # the pool is free again
