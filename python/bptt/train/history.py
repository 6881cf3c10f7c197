# SPDX-License-Identifier: Apache-2.0
"""What happened in a run of `fit`: a row for each update and each validation. Nothing is trained here.

The log format is JSON Lines, one object a line: {"event": "step", ...}, {"event": "validation", ...} and, at the end of
a run, {"event": "end", ...}. A number that is not finite is written as null and read as NaN.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from bptt._arrays import brief

__all__ = ["History", "Step", "Validation"]

_NONE: Mapping[str, float] = MappingProxyType({})


class Step(NamedTuple):
    """One update: its number from 0, its epoch from 0, the loss, the gradient's norm, whether it was clipped.

    `targets` is the number of targets in the loss, one for each step of a row that counts (one for each row where the
    model's output has no time axis). `clipped_norm` is the gradient's norm after all clipping, `lr` the learning rate,
    `time_s` the seconds from the forward pass to the update, without the making of batches; `metrics` has the values of
    fit's `metric`.
    """

    number: int
    epoch: int
    loss: float
    grad_norm: float
    clipped: bool
    targets: int
    clipped_norm: float = math.nan
    lr: float = math.nan
    time_s: float = math.nan
    metrics: Mapping[str, float] = _NONE

    @property
    def targets_per_s(self) -> float:
        """Targets (tokens, of a language model) per second of the update."""
        return self.targets / self.time_s if self.time_s > 0 else math.nan

    def row(self) -> dict[str, Any]:
        """All values by the names of the table's columns."""
        values = self._asdict()
        del values["metrics"], values["number"]
        return {"step": self.number, **values, "targets_per_s": self.targets_per_s, **self.metrics}


class Validation(NamedTuple):
    """One evaluation of the validation batches, after `step` updates, in this epoch: mean loss and metrics."""

    step: int
    epoch: int
    loss: float
    time_s: float = math.nan
    metrics: Mapping[str, float] = _NONE

    def row(self) -> dict[str, Any]:
        """All values by the names of the table's columns."""
        own = {"step": self.step, "epoch": self.epoch, "validation_loss": self.loss, "validation_time_s": self.time_s}
        return own | {f"validation_{name}": value for name, value in self.metrics.items()}


class History:
    """The updates and validations of a run, and how it ended.

    Attributes:
        step, epoch, loss, grad_norm, clipped, targets, clipped_norm, lr, time_s: lists with a value for each update, as
            in `Step`; metrics: a dict of such lists.
        validation: a list of `Validation`.
        skipped: the number of updates that were left out (`on_nonfinite="skip"`).
        stopped: whether the run was stopped before its end; stop_reason: by what, "" if it was not.

    >>> history = History()
    >>> history.append(Step(0, 0, 1.5, 2.0, False, 32, time_s=0.5))
    >>> history.append(Step(1, 0, 1.0, 4.0, True, 32, clipped_norm=3.0, time_s=0.5))
    >>> len(history), history.loss, history.clip_rate
    (2, [1.5, 1.0], 0.5)
    >>> history.to_dict()["targets_per_s"]
    [64.0, 64.0]
    """

    def __init__(self) -> None:
        self.step: list[int] = []
        self.epoch: list[int] = []
        self.loss: list[float] = []
        self.grad_norm: list[float] = []
        self.clipped: list[bool] = []
        self.targets: list[int] = []
        self.clipped_norm: list[float] = []
        self.lr: list[float] = []
        self.time_s: list[float] = []
        self.metrics: dict[str, list[float]] = {}
        self.validation: list[Validation] = []
        self.skipped = 0
        self.stop_reason = ""

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped before its end; `stop_reason` says by what."""
        return bool(self.stop_reason)

    def append(self, step: Step) -> None:
        """Add one update."""
        self.step.append(step.number)
        self.epoch.append(step.epoch)
        self.loss.append(step.loss)
        self.grad_norm.append(step.grad_norm)
        self.clipped.append(step.clipped)
        self.targets.append(step.targets)
        self.clipped_norm.append(step.clipped_norm)
        self.lr.append(step.lr)
        self.time_s.append(step.time_s)
        for name, value in step.metrics.items():
            self.metrics.setdefault(name, []).append(value)

    @property
    def clip_rate(self) -> float:
        """The share of updates whose gradient was clipped, from 0 to 1; NaN without updates."""
        return sum(self.clipped) / len(self) if len(self) else math.nan

    def steps(self) -> Iterator[Step]:
        """The updates, in order."""
        for k in range(len(self)):
            metrics = {name: values[k] for name, values in self.metrics.items()}
            yield Step(
                self.step[k],
                self.epoch[k],
                self.loss[k],
                self.grad_norm[k],
                self.clipped[k],
                self.targets[k],
                self.clipped_norm[k],
                self.lr[k],
                self.time_s[k],
                metrics,
            )

    def events(self) -> Iterator[Step | Validation]:
        """Updates and validations in the order in which they happened."""
        later = iter(self.validation)
        validation = next(later, None)
        for step in self.steps():
            while validation is not None and validation.step <= step.number:
                yield validation
                validation = next(later, None)
            yield step
        while validation is not None:
            yield validation
            validation = next(later, None)

    def to_dict(self) -> dict[str, Any]:
        """All columns as lists, for a table such as `pandas.DataFrame`; "validation" is a dict of such columns.

        Columns: step, epoch, loss, grad_norm, clipped, targets, clipped_norm, lr, time_s, targets_per_s and those of
        `metrics`; of "validation": step, epoch, validation_loss, validation_time_s and validation_<metric>.
        """
        columns = _columns([step.row() for step in self.steps()], Step(0, 0, 0.0, 0.0, False, 0).row())
        return columns | {"validation": _columns([each.row() for each in self.validation], Validation(0, 0, 0.0).row())}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """Read the file that `fit(..., history=path)` or `JSONLLogger` wrote, also of a run that goes on or crashed.

        A last line without an end, which a crash leaves, is left out.
        Raises: OSError where the file cannot be read; ValueError that names a line that is not of such a file.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.jsonl")
        >>> size = path.write_text(to_line(Step(0, 0, 1.5, 2.0, False, 32)) + '{"event": "st')
        >>> History.read(path).loss
        [1.5]
        """
        import json  # imported here and below, since most runs write no file

        history = cls()
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]  # what stands behind the last end of line was cut off
        for number, line in enumerate(lines, 1):
            try:
                history._add(json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError):
                shown = brief(line.decode("utf-8", "replace"))
                where = f"{brief(os.fspath(path), 80)}, line {number},"
                raise ValueError(f"History.read: {where} is {shown}, expected a line of a history") from None
        return history

    def _add(self, line: dict[str, Any]) -> None:
        """Take one line of a log."""
        event = line.pop("event")
        if event == "end":
            self.skipped, self.stop_reason = int(line["skipped"]), str(line["stop_reason"])
            return
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in line.items()}
        if event == "step":
            del values["targets_per_s"]
            own = {name: values.pop(name) for name in Step._fields if name not in ("number", "metrics")}
            self.append(Step(values.pop("step"), metrics=values, **own))
        elif event == "validation":
            parts: list[Any] = [values.pop(name) for name in ("step", "epoch", "validation_loss", "validation_time_s")]
            metrics = {name.removeprefix("validation_"): value for name, value in values.items()}
            self.validation.append(Validation._make([*parts, metrics]))
        else:
            raise ValueError(event)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw loss, validation, up to three of its metrics, gradient norm and learning rate over the updates.

        Args: path of a picture to write, .png, .svg or .pdf; default None: nothing is written.
        Returns: the matplotlib `Figure`, which notebooks show.
        Raises: ModuleNotFoundError without matplotlib, which the extra `plot` installs; ValueError for a history
            without updates and for another ending; OSError where the file cannot be written.
        """
        from bptt.train.plot import draw  # imported here, since matplotlib is an extra

        return draw(self, path)

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        parts = [f"{len(self)} steps"]
        if self.loss:
            parts.append(f"last loss {self.loss[-1]:.4g}")
        if self.validation:
            parts.append(f"validation loss {self.validation[-1].loss:.4g}")
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        if self.stopped:
            parts.append(f"stopped: {self.stop_reason}")
        return f"History({', '.join(parts)})"


def to_line(event: Step | Validation) -> str:
    """An update or a validation as a line of a log."""
    kind = "step" if isinstance(event, Step) else "validation"
    return _line({"event": kind, **event.row()})


def end_line(history: History) -> str:
    """The line of a log that says how the run ended."""
    return _line({"event": "end", "skipped": history.skipped, "stop_reason": history.stop_reason})


def _line(values: dict[str, Any]) -> str:
    import json

    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return json.dumps(plain) + "\n"


def _columns(rows: list[dict[str, Any]], empty: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else empty)}
