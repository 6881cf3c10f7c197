# SPDX-License-Identifier: Apache-2.0
"""The course of a run: epochs, limits, validation, callbacks, saving of the training state. No update is here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from bptt.train.history import History
from bptt.train.hooks import Run, StopTraining
from bptt.train.source import Source
from bptt.train.updates import NotFinite, Task, Updates

if TYPE_CHECKING:
    from bptt.train.hooks import Callback
    from bptt.train.processes import Processes
    from bptt.train.state import StateFile

__all__ = ["Loop", "Plan"]


class _Stop(Exception):  # noqa: N818 (a request)
    """A callback asked for the end: only callbacks can."""


class Plan(NamedTuple):
    """How long a run goes on and what it goes through, checked; the arguments of `fit` of these names.

    most: the number of batches taken of each epoch and of each validation, None for all.
    """

    batches: Any
    epochs: int | None = 1
    max_steps: int | None = None
    max_time_s: float | None = None
    validation: Any = None
    validate_every: int | None = None
    most: int | None = None
    most_validation: int | None = None


class Loop:
    """One call of `fit`."""

    def __init__(self, task: Task, plan: Plan, state_file: StateFile | None = None) -> None:
        self._task, self._plan, self._file = task, plan, state_file
        self._updates = Updates(task, Source(plan.batches, plan.most, kept=state_file is not None))
        self._callbacks: Sequence[Callback] = ()
        names = ["loss", *task.metrics]
        if plan.validation is not None:
            names += [f"validation_{name}" for name in names]
        self._history = History()
        self._end_s: float | None = None  # when the time is over
        # Of several processes: whether the time of any is over, and whether the file of any is due.
        self._time_over = self._save_due = False
        self._pause = ""  # why the run ends after the present update and its validation, to be continued
        self._view = Run(
            task.model,
            task.optimizer,
            self._history,
            plan.epochs,
            plan.max_steps,
            tuple(names),
            task.schedule is not None,
            self._updates,
        )

    def run(self, callbacks: Sequence[Callback]) -> History:
        """Train until a limit, a callback or an exception ends it."""
        self._callbacks = callbacks
        begin_s = time.monotonic()
        self._end_s = None if self._plan.max_time_s is None else begin_s + self._plan.max_time_s
        continued = self._file is not None and self._file.load(self._task, self._updates, self._history, callbacks)
        history = self._history
        self._begin_together()
        try:
            reason = self._stop_reason(lambda: self._call("on_train_begin"))
            history.stop_reason = history.stop_reason or reason
            if not history.stopped:
                history.stop_reason = self._stop_reason(lambda: self._train(continued))
                if self._updates.processes is not None:
                    self._updates.processes.end()
                if self._file is not None:
                    self._file.save(self._task, self._updates, history, callbacks)
                history.stop_reason = history.stop_reason or self._pause
            if not history.stopped:
                history.stop_reason = self._stop_reason(self._validate_last)
            with suppress(_Stop):
                self._call("on_train_end")
        finally:
            for callback in callbacks:
                callback.close()
        return history

    def total(self) -> int | None:
        """The number of updates of the whole run as far as it is known now: exact where batches are of one length."""
        plan, position = self._plan, self._updates.position
        count = self._batches_count()
        if plan.epochs is None or count is None or (self._task.window and self._updates.batch is None):
            return plan.max_steps
        chunks = self._updates.chunks(self._updates.batch.count) if self._updates.batch else 1
        left = ((plan.epochs - position.epoch) * count - position.batch) * chunks - self._updates.chunks(position.start)
        total = position.number + max(0, left)
        return total if plan.max_steps is None else min(total, plan.max_steps)

    def _train(self, continued: bool) -> None:
        plan, updates = self._plan, self._updates
        if continued:
            updates.source.replay(updates.position.epoch)
        while plan.epochs is None or updates.position.epoch < plan.epochs:
            if self._ended(timed=False):
                return
            for step in updates.of_epoch():
                self._history.append(step)
                self._history.skipped = updates.skipped
                if self._callbacks or self._updates.processes is not None:
                    self._call("on_step", step)
                if plan.validate_every is not None and updates.position.number % plan.validate_every == 0:
                    self._validate()
                self._save_if_due()
                if self._ended():
                    return
            self._history.skipped = updates.skipped
            if plan.validation is not None and plan.validate_every is None:
                self._validate()
            self._call("on_epoch")
            updates.next_epoch()
            self._save_if_due()

    def _begin_together(self) -> None:
        """Let several processes compare what they begin with."""
        processes, position = self._updates.processes, self._updates.position
        if processes is None:
            return
        task, plan = self._task, self._plan
        optimizer: Any = getattr(task.optimizer, "state_dict", dict)()
        limits = plan.epochs, plan.max_steps, plan.validate_every, plan.validation is not None
        options = limits, task.window, task.stateful, [*task.metrics], task.on_nonfinite
        place = position.number, position.epoch, position.batch, position.start, self._history.stopped
        agrees = bool(self._callbacks) or self._end_s is not None or self._file is not None
        compared = {"the optimizer and its state": optimizer, "fit's options": options, "the place of the run": place}
        processes.begin(compared, agrees)

    def _save_if_due(self) -> None:
        """Save the training state, where enough updates or seconds have passed; several processes do so together."""
        if self._file is None:
            return
        due = self._save_due if self._updates.processes else self._file.is_due(self._updates.position.number)
        if due:
            self._file.save(self._task, self._updates, self._history, self._callbacks)
            self._save_due = False

    def _ended(self, timed: bool = True) -> bool:
        """Whether the run has made all its updates, used its time or been paused."""
        if self._pause:
            return True
        max_steps = self._plan.max_steps
        if max_steps is not None and self._updates.position.number >= max_steps:
            return True
        if not timed:
            return False
        return self._time_over if self._updates.processes is not None else self._is_time_over()

    def _is_time_over(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s

    def _stop_reason(self, part: Callable[[], None]) -> str:
        """Do a part of the run; return why it was stopped, "" if it was not."""
        try:
            part()
        except (_Stop, NotFinite) as reason:
            return str(reason)
        return ""

    def _validate_last(self) -> None:
        """Validate at the end, unless the last update has been.

        This is after the training state is saved: a run that goes on from it, with a higher limit, must not know.
        """
        done = [each.step for each in self._history.validation[-1:]]
        if self._plan.validation is not None and done != [self._updates.position.number]:
            self._validate()

    def _validate(self) -> None:
        batches: Iterable[Any] = self._plan.validation
        validation = self._updates.validate(islice(batches, self._plan.most_validation))
        self._history.validation.append(validation)
        if self._task.on_nonfinite == "raise" and not math.isfinite(validation.loss):
            what = f"validation loss is {validation.loss} after {validation.step} updates"
            raise FloatingPointError(f"fit: {what}, expected a finite one: look at x and target of validation")
        self._call("on_validation", validation)

    def _call(self, event: str, *arguments: Any) -> None:
        """Call all callbacks, then stop where one of them asked for it."""
        request: StopTraining | None = None
        for callback in self._callbacks:
            try:
                getattr(callback, event)(self._view, *arguments)
            except StopTraining as error:
                if error.pause:
                    self._pause = self._pause or str(error) or "StopTraining"
                else:
                    request = request or error
        if self._updates.processes is not None:
            request = self._agreed(self._updates.processes, request)
        if request is not None:
            raise _Stop(str(request) or "StopTraining")

    def _agreed(self, processes: Processes, request: StopTraining | None) -> StopTraining | None:
        """The request to stop that any of several processes has; so with pauses, time and saves."""
        due = self._file is not None and self._file.is_due(self._updates.position.number)
        wishes = request is not None, bool(self._pause), self._is_time_over(), due
        stops, pauses, self._time_over, self._save_due = processes.agree(*wishes)
        if pauses:
            self._pause = self._pause or "another process paused"
        return request or (StopTraining("another process stopped") if stops else None)

    def _batches_count(self) -> int | None:
        """The number of batches of an epoch, None where it is not known."""
        try:
            count = len(self._plan.batches)
        except TypeError:
            return None
        return count if self._plan.most is None else min(count, self._plan.most)
