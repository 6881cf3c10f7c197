# SPDX-License-Identifier: Apache-2.0
"""Optimizers, each a fused native pass over the flat buffers: norm, clipping, decay, update.

What they share is in base.py: the step, clipping, groups, `state_dict`. `bptt.optim.schedules` has learning rates as
functions of the step.
"""

from bptt.optim import schedules
from bptt.optim.adaptive import Adagrad, Adam, AdamW, Lion, NAdam, RMSprop
from bptt.optim.base import Optimizer, StepInfo
from bptt.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "NAdam", "Optimizer", "RMSprop", "StepInfo", "schedules"]
