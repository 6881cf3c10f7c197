# SPDX-License-Identifier: Apache-2.0
"""A tape owns, or keeps alive, every array that backward reads: the caller may drop all of them.

Each array is in a separate memory map, so that a read of dropped memory crashes; so the layers run in another process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = {
    "plain": "{}",
    "checkpoint": "{'checkpoint': 1}",
    "clip": "{'checkpoint': 1, 'clip_state': 5.0}",
    "dropout": "{'checkpoint': 1, 'recurrent_dropout': 0.5}",
    "stack": "{'num_layers': 2, 'dropout': 0.5}",
    "stack with checkpoints": "{'num_layers': 2, 'checkpoint': 1, 'bidirectional': True}",
}

KINDS = ["rnn_tanh", "lstm", "projected", "lstm_norm", "gru", "gru_before"]

CODE = """
import copy, gc, mmap, sys
import numpy as np
import bptt
from bptt._dispatch import core
from stacks import KINDS

def mapped(shape, dtype="float32"):
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.frombuffer(mmap.mmap(-1, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE), dtype, int(np.prod(shape)))
    return array.reshape(shape)

T, B = 20, 130  # several chunks of time, hence segments
options = {options}
for kind in {kinds!r}:
    print(kind, flush=True)  # a crash is that of the last one
    made, own, _ = KINDS[kind]
    layer = made(3, 8, seed=0, **own, **options)
    for lengths, resets, converted in ((None, None, False), ("lengths", "resets", False), (None, None, True)):
        dtype = "float64" if converted else "float32"  # then the layer makes its own copies, which nobody else holds
        x = mapped((T, B, 3), dtype)
        n = layer.num_layers * layer.num_directions
        widths = [layer.output_size] + [layer.hidden_size] * (len(layer._stack.structure.info.states) - 1)
        state = tuple(mapped((n, B, width), dtype) for width in widths)
        if lengths:
            lengths, resets = mapped((B,), "int64"), mapped((T, B), "bool")
            lengths[:] = np.arange(B) % (T + 1)
        twin = copy.deepcopy(layer)  # draws the same masks
        y, final, tape = twin.forward(x, state if len(state) > 1 else state[0], lengths, resets)
        dy = np.ones_like(y)
        expected = twin.backward(tape, dy)[2].flat.tobytes()
        y, final, tape = layer.forward(x, state if len(state) > 1 else state[0], lengths, resets)
        del x, state, y, final, lengths, resets
        gc.collect()
        core.release_memory()
        assert layer.backward(tape, dy)[2].flat.tobytes() == expected
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a dropped map there is refused while it is in use")
@pytest.mark.parametrize("options", OPTIONS)
def test_backward_needs_nothing_of_the_caller(options: str) -> None:
    code = CODE.format(kinds=KINDS, options=OPTIONS[options])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [*KINDS, "done"]
