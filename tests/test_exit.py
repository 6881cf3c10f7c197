# SPDX-License-Identifier: Apache-2.0
"""A process that ends while daemon threads are in calls ends cleanly: it is not aborted and does not hang."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SETUP = """
import threading, time
import numpy as np, bptt
bptt.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((200, 16, 32)).astype(np.float32)
ids = np.zeros(2000, int)
lstm = bptt.LSTM(32, 128, seed=0)
stack = bptt.LSTM(32, 64, num_layers=3, dropout=0.1, seed=0)
gru = bptt.GRU(32, 64, num_layers=2, bidirectional=True, seed=0)
linear, embedding = bptt.Linear(32, 64, seed=0), bptt.Embedding(50, 8, seed=0)
adam, sgd = bptt.optim.Adam(), bptt.optim.SGD(1e-6)
def train(layer, optimizer, x=x):
    y, *_, tape = layer.forward(x)
    optimizer.step(layer.params, layer.backward(tape, y)[-1])
"""

# The calls that each daemon thread repeats.
CALLS = {
    "inference": "lstm(x)",
    "another dtype": "lstm(x.astype(np.float64))",
    "one long call of a stack": "stack(np.ones((30000, 16, 32), np.float32))",
    "training": "train(lstm, adam)",
    "a stack": "train(stack, sgd)",
    "two directions": "train(gru, adam)",
    "a stream": "lstm.stream(16)(x)",
    "layers without a state": "train(linear, sgd); train(embedding, sgd, ids)",
    "losses": "bptt.losses.cross_entropy(x[0], ids[:16]); bptt.losses.mse(x, x)",
}


@pytest.mark.parametrize("call", CALLS)
def test_daemon_threads_do_not_disturb_the_exit(call: str) -> None:
    """Two processes with three threads each: the fault tested here aborted nearly every such process."""
    code = f"""
def loop():
    while True:
        {CALLS[call]}
for _ in range(3):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.2)
"""
    command = [sys.executable, "-c", textwrap.dedent(SETUP) + code]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert results == [("", 0)] * 2
