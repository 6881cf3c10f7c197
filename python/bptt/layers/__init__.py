# SPDX-License-Identifier: Apache-2.0
"""Layers: recurrent (cells.py, slstm.py, recurrent.py), stateless (dense.py), one after the other (sequential.py)."""

from bptt.layers.base import Layer, Stateless, Tape
from bptt.layers.cells import GRU, LSTM, RNN
from bptt.layers.dense import Dropout, Embedding, Linear
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential
from bptt.layers.slstm import SLSTM
from bptt.layers.tape import Packed

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Dropout",
    "Embedding",
    "Layer",
    "Linear",
    "Packed",
    "Recurrent",
    "Sequential",
    "Stateless",
    "Tape",
]
