# SPDX-License-Identifier: Apache-2.0
"""Optimizers, each a fused native pass over the flat buffers: norm, clipping, decay, update.

What they share is in base.py: the step, clipping, groups, `state_dict`. `bptt.optim.schedules` has learning rates as
functions of the step.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bptt.optim.adaptive import Adagrad, Adam, AdamW, Lion, NAdam, RMSprop
from bptt.optim.base import Optimizer, StepInfo
from bptt.optim.sgd import SGD

if TYPE_CHECKING:
    from bptt.optim import schedules as schedules

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "NAdam", "Optimizer", "RMSprop", "StepInfo", "schedules"]

if not TYPE_CHECKING:  # type checkers would take every misspelt name for a module

    def __getattr__(name: str) -> object:
        if name == "schedules":  # imported when it is first asked for: its classes take long to make
            return import_module("bptt.optim.schedules")
        raise AttributeError(f"module 'bptt.optim' has no attribute {name!r}")
