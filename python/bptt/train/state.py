# SPDX-License-Identifier: Apache-2.0
"""The training state in one file, from which `fit(..., resume=path)` goes on with the same bits.

In the file (see `bptt.checkpoint`): parameters, the optimizer's state, the random states of layers, the position in the
data with the carried state of the model, the history, and what callbacks keep. It is replaced completely or not at all.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import brief, first_of
from bptt.train.history import History, Step, Validation
from bptt.train.updates import Position

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.train.hooks import Callback
    from bptt.train.updates import Task, Updates

__all__ = ["KEY", "PARAM", "SavedRun", "StateFile", "saved_run"]

KEY = "training_state"  # of the configuration; its value is the format's version
FORMAT = 2
PARAM = "param."  # with which the names of the parameters begin
_STEP_COLUMNS = ("step", "epoch", "loss", "grad_norm", "clipped", "targets", "clipped_norm", "lr", "time_s")


class SavedRun(NamedTuple):
    """What a training state says of its run: updates, the reason if it was stopped, what callbacks keep by their types.

    Arrays that callbacks keep are None here.
    """

    updates: int
    stop_reason: str
    callbacks: dict[str, dict[str, Any]]


def saved_run(path: str | os.PathLike[str], config: Mapping[str, Any]) -> SavedRun:
    """The run of a training state, from the configuration of its file alone; ValueError where that is none."""
    from bptt import checkpoint

    if config.get(KEY) != FORMAT:
        has = f"resume is {brief(os.fspath(path))}, which has no training state of this version of bptt"
        raise ValueError(f"fit: {has}, expected another file")
    no_arrays: Mapping[str, Any] = defaultdict(lambda: None)
    with _complete(path):
        callbacks = {
            each["type"]: {**checkpoint.put_together(each["state"], no_arrays)} for each in config["callbacks"]
        }
        place = config["position"]
        if not all(isinstance(value, int) for name, value in place.items() if name != "state"):
            raise TypeError(f"its position is {brief(place)}")
        return SavedRun(place["number"], str(config["stop_reason"]), callbacks)


@contextmanager
def _complete(path: str | os.PathLike[str]) -> Iterator[None]:
    """What is missing in a file, or of another kind, becomes a ValueError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        has = f"resume is {brief(os.fspath(path))}, a damaged training state ({type(error).__name__}: {error})"
        raise ValueError(f"fit: {has}, expected one that fit wrote") from error


class StateFile:
    """The file of one run: `load` comes first and continues from it; `save` replaces it, when it `is_due`.

    every_steps: updates between two saves, None for no such rule; every_s: seconds, likewise.
    """

    def __init__(self, path: str | os.PathLike[str], every_steps: int | None, every_s: float | None) -> None:
        self._path, self._every_steps, self._every_s = path, every_steps, every_s
        self._last_s, self._last_number = time.monotonic(), 0
        self._settings: dict[str, Any] = {}

    def load(self, task: Task, updates: Updates, history: History, callbacks: Sequence[Callback]) -> bool:
        """Take the state of the file into all of these; False where there is no file. Nothing changes on an error."""
        from bptt import checkpoint  # imported here, since safetensors takes as long to import as all of bptt

        self._settings = _settings(task)  # now, since callbacks may change options during the run
        found = checkpoint.check_writable(self._path)
        if found is None:
            return False
        saved_run(self._path, found)
        arrays, config = checkpoint.load(self._path)
        with _complete(self._path):
            self._take(arrays, config, task, updates, history, callbacks)
        return True

    def _take(
        self,
        arrays: dict[str, Array],
        config: dict[str, Any],
        task: Task,
        updates: Updates,
        history: History,
        callbacks: Sequence[Callback],
    ) -> None:
        from bptt import checkpoint

        ours, saved = self._settings, config["settings"]
        for name in {**ours, **saved}:
            if ours.get(name) != saved.get(name):
                has = f"{name} {brief(ours.get(name), 50)}"
                raise ValueError(f"fit: this run has {has}, expected {brief(saved.get(name), 50)} as in {self._name}")
        self._check_params(task, arrays)
        stateful = [callback for callback in callbacks if callback.state_dict()]
        kinds = [each["type"] for each in config["callbacks"]]
        if [type(each).__name__ for each in stateful] != kinds:
            raise ValueError(f"fit: callbacks differ from those in {self._name}, expected {', '.join(kinds) or 'none'}")
        carried = _tuples(checkpoint.put_together(config["carried"], arrays))
        position = Position(**{**config["position"], "state": carried})
        place = checkpoint.put_together(config["batches"], arrays)
        updates.source.load(place, position.batch, inside=position.start > 0)
        optimizer: Any = task.optimizer
        optimizer.load_state_dict(checkpoint.put_together(config["optimizer"], arrays))
        for callback, entry in zip(stateful, config["callbacks"], strict=True):
            callback.load_state_dict(checkpoint.put_together(entry["state"], arrays))
        with task.model.params.edit() as p:
            for name in p:
                p[name][...] = arrays[PARAM + name]
        for layer, masks in zip(task.model._layers, config["masks"], strict=True):
            layer._set_mask_state(masks)
        updates.position = position
        updates.skipped = config["skipped"]
        _fill(history, arrays, config)
        self._last_number = updates.position.number

    def is_due(self, number: int) -> bool:
        """Whether enough updates or seconds have passed for another save. number: of updates so far."""
        if self._every_steps is not None and number - self._last_number >= self._every_steps:
            return True
        return self._every_s is not None and time.monotonic() - self._last_s >= self._every_s

    def save(self, task: Task, updates: Updates, history: History, callbacks: Sequence[Callback]) -> None:
        """Replace the file by the present state."""
        from bptt import checkpoint

        arrays: dict[str, Array] = {PARAM + name: array for name, array in task.model.params.items()}
        position = updates.position

        def apart(value: Any, name: str) -> Any:
            plain, found = checkpoint.taken_apart(value, name)
            arrays.update(found)
            return plain

        config = {
            KEY: FORMAT,
            "settings": self._settings,
            "position": asdict(replace(position, state=None)),
            "batches": apart(updates.source.saved(inside=position.start > 0), "batches"),
            "carried": apart(position.state, "carried"),
            "optimizer": apart(task.optimizer.state_dict(), "optimizer"),
            "masks": [layer._mask_state() for layer in task.model._layers],
            "skipped": updates.skipped,
            "stop_reason": history.stop_reason,
            "metrics": [*history.metrics],
            "validation_metrics": [*history.validation[0].metrics] if history.validation else [],
            "callbacks": [
                {"type": type(callback).__name__, "state": apart(state, f"callback.{k}")}
                for k, (callback, state) in enumerate((each, each.state_dict()) for each in callbacks)
                if state
            ],
        }
        for name, values in _columns(history).items():
            arrays[f"history.{name}"] = np.array(values, np.bool_ if name == "clipped" else np.float64)
        checkpoint.save(self._path, arrays, config)
        self._last_s, self._last_number = time.monotonic(), position.number

    @property
    def _name(self) -> str:
        return brief(os.fspath(self._path))

    def _check_params(self, task: Task, arrays: Mapping[str, Array]) -> None:
        params = task.model.params
        saved = {name.removeprefix(PARAM): each for name, each in arrays.items() if name.startswith(PARAM)}
        wrong = [name for name in {**params.shapes, **saved} if name not in params or name not in saved]
        wrong += [name for name, each in saved.items() if name in params and each.shape != params.shapes[name]]
        wrong += [name for name, each in saved.items() if each.dtype != params.dtype and name not in wrong]
        if wrong:
            raise ValueError(f"fit: model differs in {first_of(wrong)} from that in {self._name}, expected the same")


def _settings(task: Task) -> dict[str, Any]:
    """What must be the same in the call that goes on; of the optimizer all but lr, which schedules change."""
    state: Any = task.optimizer
    options = {name: value for name, value in state.state_dict().get("options", {}).items() if name != "lr"}
    loss: Any = getattr(task.loss, "func", task.loss)  # of a functools.partial
    return {
        "tbptt": None if task.window is None else list(task.window),
        "stateful": task.stateful,
        "schedule": "None" if task.schedule is None else "a function",
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "metrics": [*task.metrics],
        "optimizer": type(task.optimizer).__name__,
        **{f"{name} of the optimizer": value for name, value in options.items()},
        **{f"layer {k}": _text(layer) for k, layer in enumerate(task.model._layers)},
    }


def _text(layer: Any) -> str:
    """What a layer is: its `repr`, which without one of its own would be its address."""
    own: Any = type(layer).__repr__
    return type(layer).__name__ if own is object.__repr__ else repr(layer)


def _tuples(value: Any) -> Any:
    """The carried state, whose tuples a file keeps as lists."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _columns(history: History) -> dict[str, list[Any]]:
    """The history as columns of numbers."""
    columns = {name: getattr(history, name) for name in _STEP_COLUMNS}
    columns |= {f"metric.{name}": values for name, values in history.metrics.items()}
    for name in ("step", "epoch", "loss", "time_s"):
        columns[f"validation.{name}"] = [getattr(each, name) for each in history.validation]
    for name in history.validation[0].metrics if history.validation else ():
        columns[f"validation.metric.{name}"] = [each.metrics[name] for each in history.validation]
    return columns


def _fill(history: History, arrays: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    """Take the saved history."""

    def column(name: str) -> list[Any]:
        values: list[Any] = arrays[f"history.{name}"].tolist()
        return [int(value) for value in values] if name.rpartition(".")[2] in ("step", "epoch", "targets") else values

    parts = [column(name) for name in _STEP_COLUMNS]
    metrics = {name: arrays[f"history.metric.{name}"].tolist() for name in config["metrics"]}
    for k, values in enumerate(zip(*parts, strict=True)):
        row = {name: each[k] for name, each in metrics.items()}
        history.append(Step._make([*values, row]))
    of_validation = [column(f"validation.{name}") for name in ("step", "epoch", "loss", "time_s")]
    metrics = {name: arrays[f"history.validation.metric.{name}"].tolist() for name in config["validation_metrics"]}
    for k, values in enumerate(zip(*of_validation, strict=True)):
        row = {name: each[k] for name, each in metrics.items()}
        history.validation.append(Validation._make([*values, row]))
    history.skipped, history.stop_reason = config["skipped"], config["stop_reason"]
