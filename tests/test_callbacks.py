# SPDX-License-Identifier: Apache-2.0
"""bptt.callbacks: when they are called, what they see, and what each of them does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import callbacks as kit
from bptt import checkpoint, optim
from bptt.callbacks import Callback, EarlyStopping, LambdaCallback, ModelCheckpoint, ReduceLROnPlateau
from runs import DATA, HELD, fitted, mean_error, model_of

EVENTS = ("on_train_begin", "on_step", "on_validation", "on_epoch", "on_train_end")


class Recorder(Callback):
    """Keeps the events, and ends or breaks the run at one of them."""

    def __init__(self, at: str = "", error: BaseException | None = None) -> None:
        self.events: list[Any] = []
        self._at, self._error = at, error
        self.closed = 0

    def _seen(self, event: str, run: Any, *what: Any) -> None:
        self.events.append((event, run.epoch, run.steps, *(type(each).__name__ for each in what)))
        if event == self._at and self._error is not None:
            raise self._error

    def on_train_begin(self, run: Any) -> None:
        self._seen("begin", run)

    def on_step(self, run: Any, step: Any) -> None:
        assert run.history.loss[-1] == step.loss
        assert run.steps == step.number + 1
        self._seen("step", run, step)

    def on_validation(self, run: Any, validation: Any) -> None:
        assert run.history.validation[-1] is validation
        self._seen("validation", run, validation)

    def on_epoch(self, run: Any) -> None:
        self._seen("epoch", run)

    def on_train_end(self, run: Any) -> None:
        self._seen("end", run)

    def close(self) -> None:
        self.closed += 1


def test_the_order_of_events() -> None:
    recorder = Recorder()
    fitted(DATA[:2], epochs=2, max_steps=3, validation=HELD, callbacks=[recorder])
    assert recorder.events == [
        ("begin", 0, 0),
        ("step", 0, 1, "Step"),
        ("step", 0, 2, "Step"),
        ("validation", 0, 2, "Validation"),
        ("epoch", 0, 2),
        ("step", 1, 3, "Step"),
        ("validation", 1, 3, "Validation"),
        ("end", 1, 3),
    ]
    assert recorder.closed == 1


def test_the_view_of_the_run() -> None:
    runs: list[Any] = []
    model, sgd = model_of(), optim.SGD(0.1)
    show = LambdaCallback(on_train_begin=runs.append)
    _, history = fitted(model=model, optimizer=sgd, epochs=2, validation=HELD, metric=mean_error, callbacks=[show])
    (run,) = runs
    assert run.model is model
    assert run.optimizer is sgd
    assert run.history is history
    assert (run.epochs, run.max_steps, run.scheduled) == (2, None, False)
    assert run.names == ("loss", "metric", "validation_loss", "validation_metric")


@pytest.mark.parametrize("event", ["begin", "step", "validation", "epoch", "end"])
def test_a_request_to_stop_is_followed_after_all_callbacks_were_called(event: str) -> None:
    first, second = Recorder(event, bptt.StopTraining("enough")), Recorder(event, bptt.StopTraining("later"))
    _, history = fitted(epochs=2, validation=HELD, callbacks=[first, second])
    assert first.events == second.events
    assert first.events[-1][0] == "end"
    steps = {"begin": 0, "step": 1, "validation": 3, "epoch": 3, "end": 6}[event]
    assert (len(history), history.stop_reason) == (steps, "" if event == "end" else "enough")


@pytest.mark.parametrize("event", ["begin", "step", "validation", "epoch", "end"])
@pytest.mark.parametrize("error", [LookupError("no"), KeyboardInterrupt()])
def test_an_exception_ends_the_run_with_whole_updates(event: str, error: BaseException) -> None:
    broken, after, model = Recorder(event, error), Recorder(), model_of()
    with pytest.raises(type(error)):
        fitted(model=model, epochs=2, validation=HELD, callbacks=[broken, after, EarlyStopping(1)])
    steps = {"begin": 0, "step": 1, "validation": 3, "epoch": 3, "end": 6}[event]
    expected = fitted(max_steps=steps)[0] if steps else model_of()
    np.testing.assert_array_equal(model.params.flat, expected.params.flat)
    assert broken.closed == after.closed == 1
    assert ("end" in [each[0] for each in after.events]) is False


class Valued:
    """A run whose validation loss takes given values: the loss does not depend on the model."""

    def __init__(self, values: list[float], **options: Any) -> None:
        self.weights: list[Any] = []
        later = iter(values)

        def loss(y: Any, target: Any) -> Any:
            return (next(later) if target is HELD[0][1] else 1.0), np.full(y.shape, 1e-3)

        keep = LambdaCallback(on_validation=lambda run, v: self.weights.append(run.model.params.flat.copy()))
        callbacks = [keep, *options.pop("callbacks")]
        self.model, self.history = fitted(
            DATA[:1], loss=loss, epochs=len(values), validation=HELD[:1], callbacks=callbacks, **options
        )

    def best(self) -> int:
        """The validation whose weights the model has now."""
        (found,) = [k for k, each in enumerate(self.weights) if np.array_equal(each, self.model.params.flat)]
        return found


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([5, 4, 3, 2, 1], {}, 5, 4),
        ([5, 4, 4, 6, 3, 2], {}, 4, 1),
        ([5, 4, 4, 6, 3, 2], {"restore_best_weights": False}, 4, 3),
        ([5, 4, 6, 3, 7, 8, 1], {}, 6, 3),
        ([5, 4.5, 4.2, 3, 2], {"min_delta": 1}, 3, 0),
        ([1, 2, 3, 3, 3], {"mode": "max"}, 5, 2),
        ([1, 2, 3, 3, 3], {"mode": "max", "min_delta": 1}, 5, 2),
        ([float("nan"), 4, float("nan"), float("nan"), 1], {}, 4, 1),
        ([float("nan"), float("nan"), 1], {}, 2, 1),
        ([float("inf"), 3, 4, 2], {}, 4, 3),
    ],
)
def test_early_stopping(values: list[float], options: dict[str, Any], epochs: int, best: int) -> None:
    stop = EarlyStopping(patience=2, **options)
    run = Valued(values, callbacks=[stop], on_nonfinite="skip")  # a NaN is no improvement
    assert len(run.history) == epochs
    assert run.best() == best
    assert run.history.stopped == (epochs < len(values) or "not improved" in run.history.stop_reason)
    if run.history.stopped:
        assert run.history.stop_reason == "EarlyStopping: validation_loss has not improved for 2 values"


def test_early_stopping_has_the_best_weights_after_the_last_epoch_too() -> None:
    assert Valued([3, 1, 2], callbacks=[EarlyStopping(5)]).best() == 1


def test_a_callback_of_one_run_serves_another() -> None:
    stop, plateau = EarlyStopping(2), ReduceLROnPlateau(0.5, 2)
    Valued([1, 2, 2, 2], callbacks=[stop, plateau])
    run = Valued([5, 4, 3, 3, 3, 3], callbacks=[stop, plateau], lr=0.1)
    assert (len(run.history), run.best(), run.history.lr[3:]) == (5, 2, [0.1, 0.1])


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "min"), ("loss", "max"), ("a", "min"), ("validation_a", "min")])
def test_what_can_be_monitored(monitor: str, mode: str) -> None:
    seen: list[float] = []
    stop = EarlyStopping(2, monitor=monitor, mode=mode)
    show = LambdaCallback(on_epoch=lambda run: seen.append(stop.best))
    options = {"epochs": 3, "validation": HELD, "metric": {"a": mean_error}, "callbacks": [stop, show]}
    _, history = fitted(**options)
    if monitor == "validation_a":
        values = [each.metrics["a"] for each in history.validation]
    else:
        column = history.loss if monitor == "loss" else history.metrics["a"]
        values = [sum(column[k : k + 3]) / 3 for k in range(0, 9, 3)]
    best = min if mode == "min" else max
    assert seen == [best(values[: k + 1]) for k in range(3)]


def test_the_learning_rate_falls_on_a_plateau() -> None:
    plateau = ReduceLROnPlateau(0.5, patience=2, min_lr=0.03)
    run = Valued([5, 5, 5, 4, 4, 4, 4, 4, 4], lr=0.1, callbacks=[plateau])
    assert run.history.lr == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.03, 0.03]


def test_a_plateau_never_raises_the_learning_rate() -> None:
    run = Valued([5, 5, 5, 5], lr=0.01, callbacks=[ReduceLROnPlateau(0.5, patience=1, min_lr=0.02)])
    assert run.history.lr == [0.01] * 4


def weights_of(path: Path) -> dict[str, Any]:
    return checkpoint.load(path)[0]


def test_a_checkpoint_is_the_best_or_the_last_model(tmp_path: Path) -> None:
    best, last = tmp_path / "best", tmp_path / "last"
    counts: list[int] = []
    seen = LambdaCallback(on_epoch=lambda run: counts.append(last.exists()))
    run = Valued([3, 1, 2], callbacks=[ModelCheckpoint(best, save_best_only=True), ModelCheckpoint(last), seen])
    for path, k in ((best, 1), (last, 2)):
        flat = np.concatenate([each.reshape(-1) for each in map(weights_of(path).__getitem__, run.model.params)])
        np.testing.assert_array_equal(flat, run.weights[k])
    assert counts == [True] * 3


def test_a_checkpoint_that_cannot_be_written_is_named_before_the_first_update(tmp_path: Path) -> None:
    model = model_of()
    before = model.params.flat.copy()
    for callback in (ModelCheckpoint, kit.CSVLogger, kit.JSONLLogger):
        with pytest.raises(FileNotFoundError, match="cannot write"):
            fitted(model=model, callbacks=[callback(tmp_path / "no" / "file")])
    np.testing.assert_array_equal(model.params.flat, before)


def test_a_csv_file_has_a_row_for_each_update_and_validation(tmp_path: Path) -> None:
    path, lines = tmp_path / "run.csv", []
    show = LambdaCallback(on_step=lambda run, step: lines.append(len(path.read_text().splitlines())))
    options: dict[str, Any] = {"validation": HELD, "metric": mean_error, "epochs": 2}
    _, history = fitted(callbacks=[kit.CSVLogger(path), show], **options)
    assert lines == [2, 3, 4, 6, 7, 8]  # written while it runs
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = history.to_dict()
    updates = [row for row in rows if row["loss"]]
    for name in table.keys() - {"validation"}:
        assert [row[name] for row in updates] == [str(value) for value in table[name]]
    validations = [row for row in rows if not row["loss"]]
    for name, values in table["validation"].items():
        assert [row[name] for row in validations] == [str(value) for value in values]
    with path.open("a") as file:
        file.write("old\n")
    fitted(callbacks=[kit.CSVLogger(path)])
    assert "old" not in path.read_text()
    assert path.read_text().splitlines()[0].endswith("targets_per_s")


def test_functions_of_a_lambda_callback_get_the_arguments_of_their_methods() -> None:
    seen: list[Any] = []

    def keep(name: str) -> Any:
        return lambda *arguments: seen.append((name, [type(each).__name__ for each in arguments]))

    fitted(DATA[:1], validation=HELD, callbacks=[LambdaCallback(**{name: keep(name) for name in EVENTS})])
    assert seen == [
        ("on_train_begin", ["Run"]),
        ("on_step", ["Run", "Step"]),
        ("on_validation", ["Run", "Validation"]),
        ("on_epoch", ["Run"]),
        ("on_train_end", ["Run"]),
    ]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EarlyStopping(0), ValueError, "EarlyStopping: patience has value 0, expected an integer >= 1"),
        (lambda: EarlyStopping(mode="least"), ValueError, "EarlyStopping: mode has value 'least', expected 'min' or"),
        (lambda: EarlyStopping(monitor=3), TypeError, "EarlyStopping: monitor has type int, expected a name"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "EarlyStopping: min_delta has value -1.0, expected 0 <="),
        (lambda: EarlyStopping(restore_best_weights=1), TypeError, "EarlyStopping: restore_best_weights has type int"),
        (lambda: ModelCheckpoint("x", save_best_only=1), TypeError, "ModelCheckpoint: save_best_only has type int"),
        (lambda: ReduceLROnPlateau(1.0), ValueError, "ReduceLROnPlateau: factor has value 1.0, expected 0 <= factor"),
        (lambda: ReduceLROnPlateau(0), ValueError, "ReduceLROnPlateau: factor has value 0, expected 0 < factor < 1"),
        (lambda: ReduceLROnPlateau(min_lr="1"), TypeError, "ReduceLROnPlateau: min_lr has type str, expected a number"),
        (lambda: LambdaCallback(on_step=3), TypeError, "LambdaCallback: on_step has type int, expected a function"),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        make()
    assert len(str(caught.value)) < 200


def test_what_does_not_fit_the_run_is_named_before_the_first_update() -> None:
    message = "EarlyStopping: monitor has value 'validation_loss', expected one of loss"
    with pytest.raises(ValueError, match=rf"^{message}; fit\(validation=...\) gives others$"):
        fitted(callbacks=[EarlyStopping()])
    with pytest.raises(ValueError, match=r"^ModelCheckpoint: monitor has value 'validation_loss', expected one of"):
        fitted(callbacks=[ModelCheckpoint("model", save_best_only=True)])
    with pytest.raises(ValueError, match=r"^ReduceLROnPlateau: fit has a schedule, which sets lr too"):
        fitted(validation=HELD, schedule=lambda step: 0.1, callbacks=[ReduceLROnPlateau()])


def test_callbacks_are_imported_when_they_are_asked_for() -> None:
    assert bptt.callbacks is kit
    assert "callbacks" in dir(bptt)
    assert set(kit.__all__) <= set(dir(kit))
