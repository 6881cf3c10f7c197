# SPDX-License-Identifier: Apache-2.0
"""bptt: recurrent networks (RNN, LSTM, GRU, sLSTM) on CPUs, trained by fused backpropagation through time.

>>> import numpy as np, bptt
>>> model = bptt.Sequential(bptt.Embedding(20, 8), bptt.LSTM(8, 16), bptt.Linear(16, 20))
>>> ids = np.zeros((30, 4), int)                                           # [T, B]
>>> logits, state, tape = model.forward(ids)
>>> loss, dlogits = bptt.losses.cross_entropy(logits, ids)
>>> dx, dstate, grads = model.backward(tape, dlogits)
>>> info = bptt.optim.Adam(lr=2e-3, clip_norm=1.0).step(model.params, grads)
"""

from bptt import _startup  # noqa: F401, I001 - before all others, for Ctrl-C while they are imported

from importlib import import_module
from typing import TYPE_CHECKING

from bptt import init, losses, optim
from bptt._precision import get_matmul_precision, matmul_precision, set_matmul_precision
from bptt._runtime import config, get_num_threads, release_memory, set_num_threads, show_config
from bptt.layers import (
    GRU,
    GRUCell,
    LSTM,
    LSTMCell,
    RNN,
    SLSTM,
    RNNCell,
    Dropout,
    Embedding,
    Last,
    Linear,
    Packed,
    Sequential,
    SLSTMCell,
)
from bptt.params import Params
from bptt.train import Batch, History, StopTraining, TrainingStep, fit

if TYPE_CHECKING:
    from bptt import callbacks as callbacks
    from bptt import charlm as charlm
    from bptt import checkpoint as checkpoint
    from bptt import data as data
    from bptt import forecasting as forecasting
    from bptt import insight as insight
    from bptt import reference as reference
    from bptt import textdata as textdata
    from bptt.insight import diagnose, gradient_flow, lyapunov_exponents, watch
    from bptt.saving import load, load_extra, save
    from bptt.train.first_look import check

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Batch",
    "Dropout",
    "Embedding",
    "GRUCell",
    "History",
    "LSTMCell",
    "Last",
    "Linear",
    "Packed",
    "Params",
    "RNNCell",
    "SLSTMCell",
    "Sequential",
    "StopTraining",
    "TrainingStep",
    "check",
    "config",
    "diagnose",
    "fit",
    "get_matmul_precision",
    "get_num_threads",
    "gradient_flow",
    "init",
    "load",
    "load_extra",
    "losses",
    "lyapunov_exponents",
    "matmul_precision",
    "optim",
    "release_memory",
    "save",
    "set_matmul_precision",
    "set_num_threads",
    "show_config",
    "watch",
]

# Modules that are imported when they are first asked for: `import bptt` stays quick.
_LATE = ("callbacks", "charlm", "checkpoint", "data", "forecasting", "insight", "reference", "textdata")
# Names that come from such a module.
_LATE_FROM = {
    "check": "train.first_look",
    "diagnose": "insight",
    "gradient_flow": "insight",
    "load": "saving",
    "load_extra": "saving",
    "lyapunov_exponents": "insight",
    "save": "saving",
    "watch": "insight",
}

if not TYPE_CHECKING:  # type checkers would take every misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name in _LATE:
            return import_module(f"bptt.{name}")
        if name in _LATE_FROM:
            return getattr(import_module(f"bptt.{_LATE_FROM[name]}"), name)
        raise AttributeError(f"module 'bptt' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATE, *_LATE_FROM})
