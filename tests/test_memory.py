# SPDX-License-Identifier: Apache-2.0
"""`estimate_memory` compared with the memory that a pass takes: the arena's peak, and NumPy's by tracemalloc."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

import bptt
from bptt._dispatch import core
from stacks import threads

WAYS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "dropout": 0.1},
    {"zoneout": 0.1, "recurrent_dropout": 0.1},
    {"checkpoint": "sqrt"},
    {"layer_norm": True},
    {"num_heads": 4},
]
CASES = [
    pytest.param(cell, way, id=f"{cell} {' '.join(way) or 'plain'}")
    for cell in ("LSTM", "SLSTM", "GRU")
    for way in WAYS
    if way.keys() <= inspect.signature(getattr(bptt, cell)).parameters.keys()
]


def taken(layer: Any, T: int, B: int, lengths: Any, training: bool) -> int:
    """Bytes at the peak of a pass whose weights are not packed yet, less y and dx."""
    x = np.zeros((T, B, layer.input_size), layer.params.dtype)
    dy = np.zeros((T, B, layer.output_size * layer.num_directions), x.dtype)
    grads = layer.params.zeros_like()
    core.release_memory()
    before = core.memory_in_use()[0]
    core.memory_in_use()
    tracemalloc.start()
    if training:
        y, _, tape = layer.forward(x, lengths=lengths)
        results = y.nbytes + layer.backward(tape, dy, grads=grads)[0].nbytes
    else:
        results = layer(x, lengths=lengths)[0].nbytes
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return int(core.memory_in_use()[1] - before + arrays - results)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("cell", "way"), CASES)
def test_the_estimate_is_what_a_pass_takes(cell: str, way: dict[str, Any], ragged: bool, training: bool) -> None:
    """But for Python's own objects. An upper bound for two threads, which may reach their peaks at different times."""
    objects = 50_000  # bytes; 23,000 were the most in 640 cases
    for T, B, n in ((200, 32, 1), (200, 32, 2), (2000, 2, 1)):
        lengths = np.random.default_rng(0).integers(1, T + 1, B) if ragged else None
        make = getattr(bptt, cell)
        with threads(n):
            estimate = make(48, 64, seed=0, **way).estimate_memory(T, B, lengths, training)
            real = taken(make(48, 64, seed=0, **way), T, B, lengths, training)
        assert estimate > real - objects, (T, B, n, estimate, real)
        assert estimate < real * (1 if n == 1 else 1.2) + objects, (T, B, n, estimate, real)


def test_a_hundred_thousand_steps_train_in_a_hundred_megabytes() -> None:
    layer = bptt.LSTM(64, 64, checkpoint="sqrt", seed=0)
    assert taken(layer, 100_000, 1, None, True) < 100e6
    assert bptt.LSTM(64, 64, seed=0).estimate_memory(100_000, 1) > 100e6


def test_memory_held_stays_near_the_peak_when_lengths_fall() -> None:
    """Each call needs blocks of another size; those of earlier calls are used again or go back to the system."""
    layer = bptt.LSTM(64, 64, seed=0)
    bptt.release_memory()
    before, peak = core.memory_held(), layer.estimate_memory(1000, 16)
    for T in range(1000, 49, -50):
        x = np.zeros((T, 16, 64), np.float32)
        y, _, tape = layer.forward(x)
        layer.backward(tape, y)
        assert core.memory_held() - before < 1.25 * peak + 2**24, T
    assert bptt.release_memory() > 0
    assert core.memory_held() - before < 2**21  # the packed weights, in use


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_free_blocks_are_given_back_before_memory_is_said_to_be_short() -> None:
    """With room for one and a half calls: each call leaves free blocks that are too short for the next one."""
    code = """
import resource
import numpy as np, bptt
from bptt._dispatch import core
layer = bptt.LSTM(64, 64, seed=0)
def call(T):
    x = np.zeros((T, 16, 64), np.float32)
    y, _, tape = layer.forward(x)
    layer.backward(tape, y)
call(10)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + int(2.0 * layer.estimate_memory(6000, 16))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for T in (600, 1300, 2700, 6000):
    call(T)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "done\n", done.stderr


def test_estimates_of_absurd_lengths_come_at_once() -> None:
    layer = bptt.LSTM(64, 64, 2, bidirectional=True, seed=0)
    checkpointed = bptt.LSTM(64, 64, 2, checkpoint=1, seed=0)
    tracemalloc.start()
    start = time.perf_counter()
    for T in (10**9, 2**40):
        assert layer.estimate_memory(T, 1) > 2 * T * 64 * 4
        assert checkpointed.estimate_memory(T, 1) > T * 64 * 4
    with pytest.raises(MemoryError, match=r"^memory: a size is \d+ x \d+ values, expected less than 2\^57$"):
        layer.estimate_memory(2**60, 8)
    took, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 1
    assert memory < 2**20
