# SPDX-License-Identifier: Apache-2.0
"""A character-level language model: Embedding -> recurrent layers -> Linear, its training, evaluation and sampling.

The work of `bptt train` and `bptt sample` without the terminal: nothing is printed here and no signal is handled. Ids
are [T,B] int64, logits [T,B,V] float32, losses are in nats per character.

    model.py      Architecture, CharLM: the layers and their file
    training.py   Settings, train, evaluate
    sampling.py   sample
"""

from bptt.charlm.model import CELLS, Architecture, CharLM, architecture_of
from bptt.charlm.sampling import sample
from bptt.charlm.training import OPTIMIZERS, SCHEDULES, VALIDATED, Settings, evaluate, memory_needed, train

__all__ = [
    "CELLS",
    "OPTIMIZERS",
    "SCHEDULES",
    "VALIDATED",
    "Architecture",
    "CharLM",
    "Settings",
    "architecture_of",
    "evaluate",
    "memory_needed",
    "sample",
    "train",
]
