# SPDX-License-Identifier: Apache-2.0
"""Layers: recurrent ones by family (rnn.py, lstm.py, slstm.py, gru.py), stateless ones (dense.py), Last and Sequential.

The shared part of recurrent layers is in recurrent.py; `bptt._engine` runs them.
"""

from bptt._engine.packed import Packed
from bptt._engine.tape import Tape
from bptt.layers.base import Layer, Stateless
from bptt.layers.dense import Dropout, Embedding, Linear
from bptt.layers.gru import GRU, GRUCell
from bptt.layers.last import Last
from bptt.layers.lstm import LSTM, LSTMCell
from bptt.layers.recurrent import Recurrent
from bptt.layers.rnn import RNN, RNNCell
from bptt.layers.sequential import Sequential
from bptt.layers.slstm import SLSTM, SLSTMCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Dropout",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "Last",
    "Layer",
    "Linear",
    "Packed",
    "RNNCell",
    "Recurrent",
    "SLSTMCell",
    "Sequential",
    "Stateless",
    "Tape",
]
