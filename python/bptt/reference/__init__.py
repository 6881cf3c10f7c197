# SPDX-License-Identifier: Apache-2.0
"""Every equation of this library in plain NumPy and float64: the kernels are checked against it.

It is meant to be read and to be right (finite differences check it); it is not fast, and no layer calls it. Inputs are
copied to float64 and never changed. Gates are stacked: LSTM i f g o, GRU r z n (PyTorch's order).
Shapes: T time, B batch, I input, H hidden, G gates, S states, P vectors; C classes, F features, V vocabulary;
x [T,B,I], y [T,B,H], weight_ih [G*H,I], weight_hh [G*H,H], bias [G*H], bias_hn [H], weight_peephole [3,H] (i f o).

    cells.py   one time step            loop.py    over time, and state changes between steps
    masks.py   the random masks         dense.py   linear, embedding, dropout
    losses.py  losses                   steps.py   SGD, Adam, clipping
"""

from bptt.reference.cells import CELLS, Cell
from bptt.reference.dense import dropout, embedding_backward, embedding_forward, linear_backward, linear_forward
from bptt.reference.loop import StateOptions, Tape, backward, forward
from bptt.reference.losses import bce_with_logits, cross_entropy, gaussian_nll, huber, mae, mse, quantile
from bptt.reference.masks import input_dropout_mask, philox, recurrent_dropout_mask, zoneout_masks
from bptt.reference.steps import adagrad_step, adam_step, amsgrad_step, lion_step, nadam_step, rmsprop_step, sgd_step

__all__ = [
    "CELLS",
    "Cell",
    "StateOptions",
    "Tape",
    "adagrad_step",
    "adam_step",
    "amsgrad_step",
    "backward",
    "bce_with_logits",
    "cross_entropy",
    "dropout",
    "embedding_backward",
    "embedding_forward",
    "forward",
    "gaussian_nll",
    "huber",
    "input_dropout_mask",
    "linear_backward",
    "linear_forward",
    "lion_step",
    "mae",
    "mse",
    "nadam_step",
    "philox",
    "quantile",
    "recurrent_dropout_mask",
    "rmsprop_step",
    "sgd_step",
    "zoneout_masks",
]
