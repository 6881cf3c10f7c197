# SPDX-License-Identifier: Apache-2.0
"""The updates of a run and its evaluations. Nothing here knows of callbacks, files or limits.

An update is: forward, loss, backward, optimizer step. Between two updates everything is whole: the model, the optimizer
and the `Position` from which the run goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from bptt._arrays import is_number
from bptt.train.batch import Batch, Steps
from bptt.train.history import Step, Validation
from bptt.train.model_and_loss import loss_and_gradient
from bptt.train.processes import Processes
from bptt.train.training_step import Gradients

if TYPE_CHECKING:
    from bptt.layers.recurrent import Recurrent
    from bptt.layers.sequential import Sequential
    from bptt.optim import Optimizer
    from bptt.train.model_and_loss import Loss
    from bptt.train.source import Source

    Metrics: TypeAlias = Mapping[str, Callable[..., float]]

__all__ = ["NotFinite", "Position", "Task", "Updates"]


class Task(NamedTuple):
    """What is trained and how, checked; the arguments of `fit` of these names, `window` is its tbptt as (k1, k2)."""

    model: Sequential | Recurrent
    loss: Loss
    optimizer: Optimizer
    window: tuple[int, int] | None = None
    stateful: bool = False
    schedule: Callable[[int], float] | None = None
    metrics: Metrics = MappingProxyType({})
    on_nonfinite: str = "raise"
    all_reduce: Callable[[Any], object] | None = None


@dataclass(slots=True)
class Position:
    """Where a run goes on: after `number` updates, at step `start` of batch `batch` of this epoch.

    state: that of the model before step `at` of this batch, None for the initial one.
    rows: of the batches of this epoch, where the state is carried from one to the next; 0 before the first.
    made, skipped: updates made and left out in this epoch.
    """

    number: int = 0
    epoch: int = 0
    batch: int = 0
    start: int = 0
    at: int = 0
    rows: int = 0
    made: int = 0
    skipped: int = 0
    state: Any = None


class NotFinite(Exception):  # noqa: N818 (a request, like StopIteration)
    """An update was not finite, and the run ends without it."""


class Updates:
    """The updates of one run, from `position` on, with the batches of `source`."""

    def __init__(self, task: Task, source: Source) -> None:
        self._task, self.source = task, source
        self._model, self._loss, self._optimizer = task.model, task.loss, task.optimizer
        self._gradients = Gradients(task.model, task.loss)
        self._grads = self._gradients.grads
        self.position = Position()
        self.batch: Steps | None = None  # the present one
        self.skipped = 0  # in all epochs
        self.processes = None if task.all_reduce is None else Processes(task.all_reduce, task.model.params)

    def of_epoch(self) -> Iterator[Step]:
        """Make the updates of the present epoch that are still to be made."""
        position = self.position
        batch = -1
        for batch, given in self.source.epoch(position.epoch):
            if batch < position.batch:  # a continued run has learned it before
                continue
            self.batch = Steps(given, self._model, cut=self._task.window is not None)
            if self._task.stateful:
                position.rows = _same_rows(f"batch {batch} of epoch {position.epoch}", self.batch.rows, position.rows)
            yield from self._of_batch(self.batch)
        if self.processes is not None:
            self.processes.end_epoch(len(self._task.metrics))
        if batch < 0:
            raise ValueError(f"fit: batches has no batch in epoch {position.epoch}, expected at least one")
        if position.start:
            what = f"batches has {batch + 1} in epoch {position.epoch}, fewer than in the run that is continued"
            raise ValueError(f"fit: {what}, expected the same")
        if not position.made and position.skipped:
            raise FloatingPointError(f"fit: no update of epoch {position.epoch} is finite, expected at least one")
        if not position.made:
            what = f"no step of epoch {position.epoch} counts"
            raise ValueError(f"fit: {what}, expected a longer row or a True in a mask")

    def next_epoch(self) -> None:
        """Go on with the next epoch."""
        before = self.position
        self.position = Position(before.number, before.epoch + 1)

    def chunks(self, steps: int) -> int:
        """The number of updates that so many steps of a batch make, where none is left out."""
        return -(-steps // self._task.window[0]) if self._task.window else int(steps > 0)

    def validate(self, batches: Iterable[Any]) -> Validation:
        """The mean loss and metrics of some batches, weighted by their targets; nothing is changed."""
        start_s = time.perf_counter()
        totals: dict[str, float] = {}
        count = 0
        state: Any = None
        rows = 0
        for batch, given in enumerate(batches):
            steps = Steps(given, self._model, cut=self._task.window is not None)
            if self._task.stateful:
                rows = _same_rows(f"batch {batch} of validation", steps.rows, rows)
            else:
                state = None
            k = self._task.window[0] if self._task.window else steps.count
            for start in range(0, steps.count, k):
                part = steps.cut(start, min(start + k, steps.count))
                y, state = self._model(part.x, state, part.lengths, part.resets)
                targets = steps.targets(part)
                if targets == 0:
                    continue
                y = y.data if hasattr(y, "batch_sizes") else y
                values = {"loss": self.scored(y, part)[0], **self._measured(y, part)}
                for name, value in values.items():
                    totals[name] = totals.get(name, 0.0) + value * targets
                count += targets
        if self.processes is not None:
            names = ("loss", *self._task.metrics)
            total, *sums = self.processes.add([count, *[totals.get(name, 0.0) for name in names]])
            count, totals = round(total), dict(zip(names, sums, strict=True))
        if not count:
            raise ValueError("fit: validation has no step that counts, expected at least one batch with targets")
        means = {name: total / count for name, total in totals.items()}
        position = self.position
        return Validation(position.number, position.epoch, means.pop("loss"), time.perf_counter() - start_s, means)

    def _of_batch(self, steps: Steps) -> Iterator[Step]:
        position, stateful = self.position, self._task.stateful
        k1, k2 = self._task.window or (steps.count, steps.count)
        if not (position.start or stateful):
            position.state = None
        while (start := position.start) < steps.count:
            stop = min(start + k1, steps.count)
            new = steps.cut(start, stop)
            targets = steps.targets(new)
            if targets == 0 and self.processes is None:
                position.start = stop
                continue
            first = start if k1 == k2 else max(position.at, stop - k2)
            if position.at < first:
                position.state, position.at = self._moved(steps.cut(position.at, first), position.state), first
            step, after = self._update(steps, new, targets, steps.cut(first, stop), start - first)
            position.start = stop
            if step is None:  # the next window starts here, from the state before
                position.at, position.skipped = stop, position.skipped + 1
                self.skipped += 1
                continue
            if k1 == k2:
                position.state, position.at = after, stop
            if not step.targets:  # of no process
                continue
            position.number += 1
            position.made += 1
            yield step
        if stateful and position.at < steps.count:
            position.state = self._moved(steps.cut(position.at, steps.count), position.state)
        position.batch, position.start, position.at = position.batch + 1, 0, 0

    def _moved(self, part: Batch, state: Any) -> Any:
        """The state after these steps."""
        return self._model(part.x, state, part.lengths, part.resets)[1]

    def _update(self, steps: Steps, new: Batch, targets: int, seen: Batch, before: int) -> tuple[Step | None, Any]:
        """Make one update, and return the state after it; None where it is left out.

        A step without targets, of several processes, is one that no process makes.
        seen: the steps that the gradient goes back over; new: those of the loss, all of `seen` but the first `before`.
        """
        start_s = time.perf_counter()
        task, position = self._task, self.position
        if task.schedule is not None:
            self._optimizer.lr = task.schedule(position.number)
        lr = getattr(self._optimizer, "lr", math.nan)
        value, metrics = 0.0, _none_of(task)
        tape: Any = None
        dy: Any = None
        found = self._native(new, seen, before) if targets else None
        if found is not None:
            value, after = found
        else:
            y, after, tape = self._model.forward(seen.x, position.state, seen.lengths, seen.resets)
            if targets:
                value, dy, metrics = self._scored_end(y, steps.axis, before, new)
        try:
            if math.isfinite(value):
                if dy is not None:
                    self._model.backward(tape, dy, grads=self._grads)
            elif self.processes is None:
                raise FloatingPointError(f"loss has the value {value}, expected a finite one; nothing changed")
            if self.processes is not None:
                place = position.number, float(lr)
                value, metrics, targets = self.processes.update(self._grads, value, metrics, targets, place)
                if not targets:
                    return Step(position.number, position.epoch, 0.0, 0.0, False, 0), after
            info = self._optimizer.step(self._model.params, self._grads)
        except FloatingPointError as error:
            if task.on_nonfinite == "skip":
                return None, None
            blamed = self._blamed(error, steps.not_finite(seen, new, self._model.params))
            if task.on_nonfinite == "stop":
                raise NotFinite(str(blamed)) from error
            raise blamed from error
        norm, clipped = info.grad_norm, info.clipped
        if not math.isfinite(norm):  # the optimizer left the step out by itself
            return None, None
        clipped_norm = info.clipped_norm if clipped else norm
        time_s = time.perf_counter() - start_s
        number, epoch = position.number, position.epoch
        return Step(number, epoch, value, norm, clipped, targets, clipped_norm, lr, time_s, metrics), after

    def _native(self, new: Batch, seen: Batch, before: int) -> tuple[float, Any] | None:
        """The loss and the state after these steps, with the gradients computed; None where no native call has them."""
        if before or self._task.metrics or new.mask is not None or seen.lengths is not None or seen.resets is not None:
            return None
        return self._gradients.native(seen.x, new.target, self.position.state)

    def _scored_end(self, y: Any, axis: int, before: int, new: Batch) -> tuple[float, Any, dict[str, float]]:
        """The loss of y without its first `before` steps, the gradient of all of y, and the metrics."""
        y = y.data if hasattr(y, "batch_sizes") else y
        at = (*(slice(None),) * axis, slice(before, None)) if before else ()
        scored = y[at] if before else y
        value, dy = self.scored(scored, new)
        metrics = self._measured(scored, new) if self._task.metrics else {}
        if before:
            whole = np.zeros(y.shape, np.asarray(dy).dtype)
            whole[at] = dy
            dy = whole
        return value, dy, metrics

    def scored(self, y: Any, new: Batch) -> tuple[float, Any]:
        """The loss of y and its gradient."""
        return loss_and_gradient("fit", self._loss, y, new.target, new.mask)

    def _measured(self, y: Any, new: Batch) -> dict[str, float]:
        """The metrics of y."""
        values = {}
        for name, metric in self._task.metrics.items():
            value = metric(y, new.target) if new.mask is None else metric(y, new.target, new.mask)
            if not is_number(value):
                raise TypeError(f"fit: metric {name} returned {type(value).__name__}, expected a number")
            values[name] = float(value)
        return values

    def _blamed(self, error: FloatingPointError, found: str) -> FloatingPointError:
        """The error of an update; `found` says what is not finite in x, target or the parameters."""
        number = self.position.number
        if found:
            expected = f"expected finite {self._model.params.dtype} numbers; nothing changed"
            return FloatingPointError(f"fit: {found} in update {number}, {expected}")
        return FloatingPointError(f"fit: {error} (update {number}; x, target and parameters are finite)")


def _none_of(task: Task) -> dict[str, float]:
    return dict.fromkeys(task.metrics, 0.0)


def _same_rows(where: str, rows: int, before: int) -> int:
    """The number of rows of a batch; the state of those before must fit it. before: 0 for none."""
    if before and rows != before:
        what = f"{where} has {rows} rows and the batch before has {before}"
        raise ValueError(f"fit: {what}, expected as many: stateful carries the state of each row")
    return rows
