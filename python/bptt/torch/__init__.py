# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent layers on the kernels of bptt.

>>> import torch, bptt.torch
>>> bptt.torch.enable()                                                     # nn.LSTM, GRU, RNN and their cells
>>> y, (h, c) = torch.nn.LSTM(3, 4)(torch.ones(5, 2, 3))
>>> bptt.torch.disable()

`enable` replaces the operations below PyTorch's layers; `accelerate` does so for one model; `explain` says what ran
where. `lstm`, `gru` and `rnn` are these operations as functions, with lengths and resets; `LSTM`, `GRU` and `RNN` are
PyTorch's layers with these arguments.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "bptt.torch: there is no PyTorch, expected the package torch: pip install 'bptt[torch]'"
    ) from error

from bptt.torch.counts import Explanation, explain
from bptt.torch.functional import gru, lstm, rnn
from bptt.torch.layers import GRU, LSTM, RNN
from bptt.torch.switch import Accelerated, accelerate, disable, enable, enabled, is_enabled

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Accelerated",
    "Explanation",
    "accelerate",
    "disable",
    "enable",
    "enabled",
    "explain",
    "gru",
    "is_enabled",
    "lstm",
    "rnn",
]
