# SPDX-License-Identifier: Apache-2.0
"""What `fit` shows while it runs: the progress bar, `log`, and the log file. Each is a callback."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from bptt.train.history import end_line, to_line
from bptt.train.hooks import Callback

if TYPE_CHECKING:
    from bptt.train.history import Step, Validation
    from bptt.train.hooks import Run

__all__ = ["JSONLLogger", "Log", "OnStep", "Progress"]

_SHOWN = ("loss", "grad_norm", "lr")


class OnStep(Callback):
    """Calls a function with each `Step`."""

    def __init__(self, function: Callable[[Step], object]) -> None:
        self._function = function

    def on_step(self, run: Run, step: Step) -> None:
        """Call it."""
        self._function(step)


class Progress(Callback):
    """A bar on stderr.

    total: a function that returns the number of updates of the whole run as far as it is known, or None.
    """

    def __init__(self, total: Callable[[], int | None]) -> None:
        self._total = total
        self._bar: Any = None
        self._validation = ""

    def on_train_begin(self, run: Run) -> None:
        """Show an empty bar."""
        from tqdm import tqdm  # imported here, since it takes longer to import than all of bptt

        self._bar = tqdm(unit="step", initial=run.steps, total=self._total(), dynamic_ncols=True)

    def on_step(self, run: Run, step: Step) -> None:
        """Move the bar."""
        self._bar.total = self._total()
        text = f"epoch={step.epoch}, loss={step.loss:.4f}, norm={step.grad_norm:.3g}"
        if not math.isnan(step.lr):
            text += f", lr={step.lr:.3g}"
        self._bar.set_postfix_str(text + self._validation, refresh=False)
        self._bar.update()

    def on_validation(self, run: Run, validation: Validation) -> None:
        """Show the loss from now on."""
        self._validation = f", validation={validation.loss:.4f}"

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class Log(Callback):
    """Hands the figures to a function (dict, step), or to `add_scalar(name, value, step)` of an object."""

    writes = True

    def __init__(self, log: Any) -> None:
        self._add_scalar = getattr(log, "add_scalar", None)
        self._log = log

    def on_step(self, run: Run, step: Step) -> None:
        """Hand on those of the update."""
        self._send({name: getattr(step, name) for name in _SHOWN} | dict(step.metrics), step.number)

    def on_validation(self, run: Run, validation: Validation) -> None:
        """Hand on those of the validation, for the update it follows."""
        values = {"validation_loss": validation.loss}
        values |= {f"validation_{name}": value for name, value in validation.metrics.items()}
        self._send(values, validation.step - 1)

    def _send(self, values: dict[str, float], step: int) -> None:
        if self._add_scalar is None:
            self._log(values, step)
            return
        for name, value in values.items():
            self._add_scalar(name, value, step)


class JSONLLogger(Callback):
    """Writes each update and validation as a line of JSON while the run goes on; `bptt.History.read` reads the file.

    The same as `fit(..., history=path)`. A file of that name is replaced, except in a run that `resume` continues: the
    file then begins with the history so far. Every line is handed to the system at once, so that a crash of the process
    loses at most the line being written.
    Args: path.

    >>> import tempfile, numpy as np, bptt
    >>> path = os.path.join(tempfile.mkdtemp(), "run.jsonl")
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> history = bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=sgd, epochs=3, callbacks=[JSONLLogger(path)])
    >>> bptt.History.read(path).loss == history.loss
    True
    """

    writes = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._file: TextIO | None = None

    def on_train_begin(self, run: Run) -> None:
        """Begin the file with the history so far."""
        from bptt._atomic_file import check_replaceable  # imported here, since most runs write no file

        check_replaceable(self._path)
        self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 - `close` closes it
        self._write("".join(map(to_line, run.history.events())))

    def on_step(self, run: Run, step: Step) -> None:
        """Add a line."""
        self._write(to_line(step))

    def on_validation(self, run: Run, validation: Validation) -> None:
        """Add a line."""
        self._write(to_line(validation))

    def on_train_end(self, run: Run) -> None:
        """Say how the run ended."""
        self._write(end_line(run.history))

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, line: str) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):  # closing tries again to write the line
                self.close()
            has = f"cannot write {self._path!r} ({error.strerror or error})"
            raise type(error)(f"{has}, expected room for the log of the run") from error
