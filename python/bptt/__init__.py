# SPDX-License-Identifier: Apache-2.0
"""bptt: recurrent networks (RNN, LSTM, GRU) on CPUs, trained by fused backpropagation through time.

>>> import numpy as np, bptt
>>> model = bptt.Sequential(bptt.Embedding(20, 8), bptt.LSTM(8, 16), bptt.Linear(16, 20))
>>> ids = np.zeros((30, 4), int)                                           # [T, B]
>>> logits, state, tape = model.forward(ids)
>>> loss, dlogits = bptt.losses.cross_entropy(logits, ids)
>>> dx, dstate, grads = model.backward(tape, dlogits)
>>> info = bptt.optim.Adam(lr=2e-3, clip_norm=1.0).step(model.params, grads)
"""

from bptt import init, losses, optim
from bptt._runtime import config, get_num_threads, release_memory, set_num_threads, show_config
from bptt.batch import Batch
from bptt.layers import GRU, LSTM, RNN, Dropout, Embedding, Linear, Packed, Sequential
from bptt.params import Params
from bptt.train import History, StopTraining, fit

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Batch",
    "Dropout",
    "Embedding",
    "History",
    "Linear",
    "Packed",
    "Params",
    "Sequential",
    "StopTraining",
    "config",
    "fit",
    "get_num_threads",
    "init",
    "losses",
    "optim",
    "release_memory",
    "set_num_threads",
    "show_config",
]
