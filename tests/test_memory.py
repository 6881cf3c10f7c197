# SPDX-License-Identifier: Apache-2.0
"""What `estimate_memory` says against what a pass takes: the arena's peak, and NumPy's by tracemalloc."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import bptt
from bptt._dispatch import core

WAYS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "dropout": 0.1},
    {"zoneout": 0.1, "recurrent_dropout": 0.1},
    {"checkpoint": "sqrt"},
    {"layer_norm": True},
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
@pytest.mark.parametrize("way", WAYS, ids=[" ".join(way) or "plain" for way in WAYS])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_the_estimate_is_right_within_ten_per_cent(
    cell: str, way: dict[str, Any], ragged: bool, training: bool
) -> None:
    """At sizes where Python's own objects, some ten kilobytes, weigh nothing."""
    for T, B in ((200, 32), (2000, 2)):
        lengths = np.random.default_rng(0).integers(1, T + 1, B) if ragged else None
        make = getattr(bptt, cell)
        estimate = make(48, 64, seed=0, **way).estimate_memory(T, B, lengths, training)
        real = taken(make(48, 64, seed=0, **way), T, B, lengths, training)
        if real > 300_000:
            assert abs(estimate / real - 1) < 0.1, (T, B, estimate, real)


def test_a_hundred_thousand_steps_train_in_a_hundred_megabytes() -> None:
    layer = bptt.LSTM(64, 64, checkpoint="sqrt", seed=0)
    assert taken(layer, 100_000, 1, None, True) < 100e6
    assert bptt.LSTM(64, 64, seed=0).estimate_memory(100_000, 1) > 100e6
