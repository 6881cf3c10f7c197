# SPDX-License-Identifier: Apache-2.0
"""Training: `fit` and what it takes and returns.

fit.py has the arguments; batch.py the forms of batches; model_and_loss.py their checks, which insight shares;
source.py the place in the batches; training_step.py one step in one call; updates.py the updates; processes.py what
several processes tell each other; loop.py the course of a run; hooks.py the base of callbacks; outputs.py what a run
shows and logs; history.py its table; plot.py its picture; state.py the file from which a run goes on; first_look.py
`bptt.check`, which is imported when it is first asked for.
"""

from bptt.train.batch import Batch
from bptt.train.fit import fit
from bptt.train.history import History, Step, Validation
from bptt.train.hooks import Callback, Run, StopTraining
from bptt.train.training_step import TrainingStep

__all__ = ["Batch", "Callback", "History", "Run", "Step", "StopTraining", "TrainingStep", "Validation", "fit"]
