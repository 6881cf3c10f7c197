# SPDX-License-Identifier: Apache-2.0
"""Callbacks for `fit(..., callbacks=[...])`, under the names that Keras and Lightning made known.

A callback that monitors a value looks at it after each validation where its name starts with "validation_", else at
its mean over each epoch ("loss" and metrics). A value that is NaN is no improvement.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from bptt._arrays import brief, check_bool, check_number, check_size, first_of
from bptt._atomic_file import check_replaceable
from bptt.train.history import Step, Validation
from bptt.train.hooks import Callback, Run, StopTraining
from bptt.train.outputs import JSONLLogger

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "JSONLLogger",
    "LambdaCallback",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "Run",
]


class _Monitor(Callback):
    """Keeps the best value of what it monitors, and calls `judged` with whether the last one is better."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        where = type(self).__name__
        if not isinstance(monitor, str):
            raise TypeError(f"{where}: monitor has type {type(monitor).__name__}, expected a name such as 'loss'")
        if mode not in ("min", "max"):
            raise ValueError(f"{where}: mode has value {brief(mode)}, expected 'min' or 'max'")
        self.monitor, self._sign = monitor, 1.0 if mode == "min" else -1.0
        self._min_delta = check_number(where, "min_delta", min_delta)
        self.best = math.nan
        self.waited = 0  # values since the best

    def on_train_begin(self, run: Run) -> None:
        if self.monitor not in run.names:
            where, known = type(self).__name__, first_of(run.names, 60)
            validation = self.monitor.startswith("validation_") and "validation_loss" not in run.names
            advice = "; fit(validation=...) gives others" if validation else ""
            raise ValueError(f"{where}: monitor has value {brief(self.monitor)}, expected one of {known}{advice}")
        if not run.steps:  # else the run is continued
            self.best, self.waited = math.nan, 0

    def on_validation(self, run: Run, validation: Validation) -> None:
        if self.monitor.startswith("validation_"):
            self._judge(run, validation.row()[self.monitor])

    def on_epoch(self, run: Run) -> None:
        if not self.monitor.startswith("validation_"):
            history = run.history
            values = history.loss if self.monitor == "loss" else history.metrics[self.monitor]
            first = next(k for k, epoch in enumerate(history.epoch) if epoch == run.epoch)
            self._judge(run, sum(values[first:]) / len(values[first:]))

    def _judge(self, run: Run, value: float) -> None:
        better = math.isnan(self.best) or self._sign * value < self._sign * self.best - self._min_delta
        if better and not math.isnan(value):
            self.best, self.waited = value, 0
        else:
            better, self.waited = False, self.waited + 1
        self.judged(run, better)

    def judged(self, run: Run, better: bool) -> None:
        """After each value: whether it is the best one."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = math.nan if state["best"] is None else state["best"], state["waited"]


class EarlyStopping(_Monitor):
    """Ends the run when a value has not improved for some time.

    Args:
        patience: values without an improvement until the run ends, default 10.
        min_delta: an improvement is more than that, default 0.
        monitor: "validation_loss" (default), "loss", the name of a metric, or "validation_" and that name.
        restore_best_weights: whether the model has the parameters of the best value when the run ends by itself or by a
            callback, default True. After an exception it has the last ones.
        mode: "min" (default) where less is better, or "max".

    Attributes: best, the best value so far; waited, the number of values since.
    Source: Prechelt 1998.

    >>> import numpy as np, bptt
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.0)
    >>> stop = EarlyStopping(patience=3, monitor="loss")
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=100, callbacks=[stop])
    >>> len(history), history.stop_reason
    (4, 'EarlyStopping: loss has not improved for 3 values')
    """

    def __init__(
        self,
        patience: int = 10,
        min_delta: float = 0.0,
        monitor: str = "validation_loss",
        restore_best_weights: bool = True,
        mode: str = "min",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self._patience = check_size("EarlyStopping", "patience", patience)
        self._restores = check_bool("EarlyStopping", "restore_best_weights", restore_best_weights)
        self._weights: Array | None = None

    def on_train_begin(self, run: Run) -> None:
        """Check the name; forget another run."""
        super().on_train_begin(run)
        if not run.steps:
            self._weights = None

    def judged(self, run: Run, better: bool) -> None:
        """Keep the best weights; end the run after `patience` values."""
        if better and self._restores:
            self._weights = run.model.params.flat.copy()
        if self.waited >= self._patience:
            raise StopTraining(f"EarlyStopping: {self.monitor} has not improved for {self.waited} values")

    def on_train_end(self, run: Run) -> None:
        """Restore the best weights."""
        if self._weights is not None:
            with run.model.params.edit() as p:
                p.flat[...] = self._weights

    def state_dict(self) -> dict[str, Any]:
        """The best value, the number of values since, and the best weights."""
        weights = {} if self._weights is None else {"weights": self._weights}
        return super().state_dict() | weights

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._weights = state.get("weights")


class ModelCheckpoint(_Monitor):
    """Saves the model with `bptt.save` while it is trained; the file is replaced completely or not at all.

    Args:
        path: the file. Its directory must exist, which is checked before the first update.
        monitor: as of `EarlyStopping`, default "validation_loss"; it is used with save_best_only.
        save_best_only: True: save after each best value; False (default): after each epoch and at the end.
        mode: "min" (default) where less is better, or "max".

    >>> import tempfile, numpy as np, bptt
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, callbacks=[ModelCheckpoint(path)])
    >>> bptt.load(path)
    GRU(3, 3, dtype=float32)
    """

    writes = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "validation_loss",
        save_best_only: bool = False,
        mode: str = "min",
    ) -> None:
        super().__init__(monitor, mode, 0.0)
        self._path = os.fspath(path)
        self._best_only = check_bool("ModelCheckpoint", "save_best_only", save_best_only)

    def on_train_begin(self, run: Run) -> None:
        """Check the name and the file."""
        if self._best_only:
            super().on_train_begin(run)
        check_replaceable(self._path)

    def on_validation(self, run: Run, validation: Validation) -> None:
        """Look at the value."""
        if self._best_only:
            super().on_validation(run, validation)

    def on_epoch(self, run: Run) -> None:
        """Save, or look at the value."""
        if self._best_only:
            super().on_epoch(run)
        else:
            self._save(run)

    def on_train_end(self, run: Run) -> None:
        """Save the last model."""
        if not self._best_only:
            self._save(run)

    def judged(self, run: Run, better: bool) -> None:
        """Save the best model."""
        if better and self._best_only:
            self._save(run)

    def _save(self, run: Run) -> None:
        from bptt import saving  # imported here, since safetensors takes as long to import as all of bptt

        saving.save(run.model, self._path)


class ReduceLROnPlateau(_Monitor):
    """Lowers the learning rate when a value has not improved for some time: lr = max(factor lr, min_lr).

    Args:
        factor: in (0,1), default 0.1.
        patience: values without an improvement until then, and until the next time, default 10.
        min_lr: the least learning rate, default 0.
        monitor, min_delta, mode: as of `EarlyStopping`.

    Raises: ValueError in `fit` with a schedule, which would set the learning rate again.

    >>> import numpy as np, bptt
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.0)
    >>> sgd.lr, plateau = 1e-30, ReduceLROnPlateau(0.5, patience=2, monitor="loss")
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=6, callbacks=[plateau])
    >>> history.lr
    [1e-30, 1e-30, 1e-30, 5e-31, 5e-31, 2.5e-31]
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        min_lr: float = 0.0,
        monitor: str = "validation_loss",
        min_delta: float = 0.0,
        mode: str = "min",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self._factor = check_number("ReduceLROnPlateau", "factor", factor, 0.0, 1.0)
        if not self._factor:
            raise ValueError("ReduceLROnPlateau: factor has value 0, expected 0 < factor < 1")
        self._patience = check_size("ReduceLROnPlateau", "patience", patience)
        self._min_lr = check_number("ReduceLROnPlateau", "min_lr", min_lr)

    def on_train_begin(self, run: Run) -> None:
        """Check that nothing else sets the learning rate."""
        super().on_train_begin(run)
        if run.scheduled:
            raise ValueError("ReduceLROnPlateau: fit has a schedule, which sets lr too, expected one of them")

    def judged(self, run: Run, better: bool) -> None:
        """Lower the learning rate after `patience` values."""
        if self.waited >= self._patience:
            run.optimizer.lr = max(run.optimizer.lr * self._factor, min(self._min_lr, run.optimizer.lr))
            self.waited = 0


class CSVLogger(Callback):
    """Writes each update and each validation as a row of a CSV file while the run goes on.

    Columns: step, epoch, loss, grad_norm, clipped, targets, clipped_norm, lr, time_s, targets_per_s, metrics, then
    validation_loss, validation_time_s and validation_<metric>. A row of a validation, whose step is the number of
    updates before it, has values in these last columns only. A file of that name is replaced, except in a run that
    `resume` continues: the file then begins with the rows so far.
    Args: path.

    >>> import tempfile, numpy as np, bptt
    >>> path = os.path.join(tempfile.mkdtemp(), "run.csv")
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=3, callbacks=[CSVLogger(path)])
    >>> with open(path) as file:
    ...     file.readline().split(",")[:4], len(file.readlines())
    (['step', 'epoch', 'loss', 'grad_norm'], 3)
    """

    writes = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._file: TextIO | None = None
        self._writer: Any = None

    def on_train_begin(self, run: Run) -> None:
        """Begin the file with the names of columns and the rows so far."""
        check_replaceable(self._path)
        metrics = [name for name in run.names if name != "loss" and not name.startswith("validation_")]
        zeros = dict.fromkeys(metrics, 0.0)
        columns = [*Step(0, 0, 0.0, 0.0, False, 0, metrics=zeros).row()]
        if any(name.startswith("validation_") for name in run.names):
            columns += [name for name in Validation(0, 0, 0.0, metrics=zeros).row() if name not in columns]
        self._file = open(self._path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - `close` closes it
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(each.row() for each in run.history.events())
        self._file.flush()

    def on_step(self, run: Run, step: Step) -> None:
        """Add a row."""
        self._write(step.row())

    def on_validation(self, run: Run, validation: Validation) -> None:
        """Add a row."""
        self._write(validation.row())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = self._writer = None

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None
        self._writer.writerow(row)
        self._file.flush()


class LambdaCallback(Callback):
    """Calls the functions it was given, with the arguments of `Callback`'s methods of these names.

    >>> import numpy as np, bptt
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> show = LambdaCallback(on_epoch=lambda run: print("epoch", run.epoch))
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=2, callbacks=[show])
    epoch 0
    epoch 1
    """

    def __init__(
        self,
        *,
        on_train_begin: Callable[[Run], object] | None = None,
        on_step: Callable[[Run, Step], object] | None = None,
        on_validation: Callable[[Run, Validation], object] | None = None,
        on_epoch: Callable[[Run], object] | None = None,
        on_train_end: Callable[[Run], object] | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "on_train_begin": on_train_begin,
            "on_step": on_step,
            "on_validation": on_validation,
            "on_epoch": on_epoch,
            "on_train_end": on_train_end,
        }
        for name, function in given.items():
            if function is not None:
                if not callable(function):
                    has = f"{name} has type {type(function).__name__}"
                    raise TypeError(f"LambdaCallback: {has}, expected a function")
                setattr(self, name, function)
