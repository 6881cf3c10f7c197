# SPDX-License-Identifier: Apache-2.0
"""What callbacks of `fit` are: the base class, the view of the run that they get, and the request to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from bptt.layers.recurrent import Recurrent
    from bptt.layers.sequential import Sequential
    from bptt.optim import Optimizer
    from bptt.train.history import History, Step, Validation
    from bptt.train.updates import Updates

__all__ = ["Callback", "Run", "StopTraining"]


class StopTraining(Exception):  # noqa: N818 (a request, like StopIteration)
    """Raised by a callback or `on_step` to end `fit` after the update it was called for; its text is the reason.

    Args: the reason. pause: whether a run that keeps its state in a file (fit's `resume`) goes on from here when it is
        started again, as after a signal; default False: it has ended.

    >>> import numpy as np, bptt
    >>> def on_step(step):
    ...     if step.number == 2:
    ...         raise bptt.StopTraining("three updates are enough")
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=100, on_step=on_step)
    >>> len(history), history.stopped, history.stop_reason
    (3, True, 'three updates are enough')
    """

    def __init__(self, *reason: object, pause: bool = False) -> None:
        super().__init__(*reason)
        self.pause = pause


@dataclass
class Run:
    """What callbacks see of a run of `fit`.

    Attributes:
        model, optimizer: those of the call.
        history: the `History` so far.
        epochs, max_steps: the limits of the call, None where there is none.
        names: what can be monitored: "loss", the metrics and, with validation, "validation_loss" and so on.
        scheduled: whether fit's `schedule` sets the learning rate before each update.
        epoch: the present epoch, from 0. steps: the number of updates so far.
    """

    model: Sequential | Recurrent
    optimizer: Optimizer
    history: History
    epochs: int | None
    max_steps: int | None
    names: tuple[str, ...]
    scheduled: bool
    _updates: Updates = field(repr=False)

    @property
    def epoch(self) -> int:
        """The present epoch, from 0."""
        return self._updates.position.epoch

    @property
    def steps(self) -> int:
        """The number of updates so far."""
        return self._updates.position.number


class Callback:
    """The base of callbacks: each method is called by `fit` when model and optimizer are whole, and does nothing here.

    A method may read and save model and optimizer, set hyperparameters of the optimizer, and raise `StopTraining`; all
    callbacks are still called for the same event. Another exception ends `fit`, the model as the last update left it.

    >>> import numpy as np, bptt
    >>> class Print(Callback):
    ...     def on_epoch(self, run):
    ...         print(run.epoch, run.steps)
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=2, callbacks=[Print()])
    0 1
    1 2
    """

    writes: ClassVar[bool] = False  # whether it writes files; `fast_dev_run` leaves such callbacks out

    def on_train_begin(self, run: Run) -> None:
        """Before the first update of this call."""

    def on_step(self, run: Run, step: Step) -> None:
        """After each update."""

    def on_validation(self, run: Run, validation: Validation) -> None:
        """After each evaluation of the validation batches."""

    def on_epoch(self, run: Run) -> None:
        """After each epoch and its validation, but not after one in which max_steps or max_time_s ends the run."""

    def on_train_end(self, run: Run) -> None:
        """After the last update, unless an exception ended the run."""

    def close(self) -> None:
        """At the very end, also after an exception: the place to close files."""

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs (see `resume` of `fit`): JSON values and arrays by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned; called before `on_train_begin`."""
