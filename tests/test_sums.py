# SPDX-License-Identifier: Apache-2.0
"""Sums over many rows: gradients of weights, biases, per-unit vectors, learnt states and embeddings in float32.

The error of a sum of n equal terms in one chain grows with n: each term is rounded to the last digit of the sum, always
in the same direction. Summed in levels of 128, 64 and n / 8192 terms, it grows with the longest level.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import bptt
from stacks import KINDS, make, threads

EPS = float(np.finfo(np.float32).eps)


def bound(rows: int) -> float:
    """Half a digit for each term of each level (csrc/core/gemm/sums.h), relative to a sum of terms of one sign."""
    return EPS / 2 * (128 + 64 + rows / 8192)


def test_more_than_two_to_the_24_ones_are_counted() -> None:
    """In one chain the sum stops at 2^24, where another 1 is below its last digit."""
    n = 2**24 + 2**20
    rnn = bptt.RNN(1, 1, init="zeros")
    x = np.ones((n, 1, 1), np.float32)
    tape = rnn.forward(x)[2]
    grads = rnn.backward(tape, x)[2]
    assert grads["bias_l0"] == n
    assert grads["weight_ih_l0"] == n


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("T", "B"), [(2**17, 1), (8, 2**13), (3, 2**15)])
def test_gradients_of_many_rows_agree_with_float64(kind: str, T: int, B: int) -> None:
    """Against the same layer in float64; terms of one sign, so that the sum is as large as its terms together."""
    options: dict[str, Any] = {"learn_initial_state": True}
    narrow, wide = (make(kind, 2, 6, dtype=dtype, **options) for dtype in ("float32", "float64"))
    with narrow.params.edit() as p, wide.params.edit() as q:  # saturation and signs would hide the sums' errors
        q.flat[:] = np.abs(q.flat) * 0.1
        p.flat[:] = q.flat
    x = np.full((T, B, 2), 0.3, np.float32)
    resets = np.zeros((T, B), bool)
    resets[::2] = True
    found = []
    for layer in (narrow, wide):
        y, _, tape = layer.forward(x, resets=resets)
        found.append(layer.backward(tape, np.full_like(y, 0.1))[2])
    for name in narrow.params:
        error = np.abs(found[0][name] - found[1][name]).max() / np.abs(found[1][name]).max()
        # each term also has its own errors, from some 30 operations of a step and its successor
        assert error < bound(T * B) + 60 * EPS, name


@pytest.mark.parametrize("rows", [128, 129, 8192, 8193, 2**20 + 77])
def test_linear_and_embedding(rows: int) -> None:
    linear, x = bptt.Linear(5, 3, seed=0), np.full((rows, 5), 0.3, np.float32)
    y, tape = linear.forward(x)
    dy = np.full_like(y, 0.1)
    grads = linear.backward(tape, dy)[1]
    one = float(dy[0, 0])
    np.testing.assert_allclose(grads["bias"], rows * one, rtol=bound(rows))
    np.testing.assert_allclose(grads["weight"], rows * one * float(x[0, 0]), rtol=bound(rows) + EPS)

    embedding, ids = bptt.Embedding(4, 3, seed=0), np.full(rows, 2)
    ids[::5] = 1
    y, tape = embedding.forward(ids)
    weight = embedding.backward(tape, np.full_like(y, 0.1))[1]["weight"]
    counts = np.bincount(ids, minlength=4)
    np.testing.assert_allclose(weight, counts[:, None] * np.full(3, one), rtol=bound(rows))


@pytest.mark.parametrize("kind", ["lstm", "gru", "projected", "gru_before"])
def test_long_sums_have_the_same_bits_for_any_number_of_threads(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 40, 7)).astype(np.float32)  # 12,000 rows: more than one part
    results = []
    for n in (1, 2, 3):
        layer = make(kind, 7, 40, dtype="float32")
        with threads(n):
            y, _, tape = layer.forward(x)
            results.append(layer.backward(tape, y)[2].flat.tobytes())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("kind", ["lstm", "gru", "lstm_norm"])
def test_checkpoints_and_layers_side_by_side_change_no_bit_of_long_sums(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 3, 5)).astype(np.float32)
    results = []
    for n, checkpoint in ((1, None), (2, None), (1, "sqrt"), (1, 700)):
        layer = make(kind, 5, 9, dtype="float32", num_layers=2, checkpoint=checkpoint)
        with threads(n):
            y, _, tape = layer.forward(x)
            results.append(layer.backward(tape, y)[2].flat.tobytes())
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("rows", [16, 60])
def test_segments_on_changing_numbers_of_threads_change_no_bit(rows: int) -> None:
    """Another thread's calls take the pool now and then; a segment then runs on its caller alone."""
    x = np.random.default_rng(0).standard_normal((200, rows, 16)).astype(np.float32)

    def gradient() -> bytes:
        y, _, tape = layer.forward(x)
        return layer.backward(tape, y)[2].flat.tobytes()

    layer = make("lstm", 16, 32, dtype="float32", checkpoint="sqrt")
    linear, done = bptt.Linear(256, 256, seed=0), threading.Event()

    def others() -> None:
        while not done.is_set():
            linear(np.ones((400, 256), np.float32))

    with threads(2):
        expected = gradient()
        other = threading.Thread(target=others)
        other.start()
        try:
            assert all(gradient() == expected for _ in range(40))
        finally:
            done.set()
            other.join()
