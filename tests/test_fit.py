# SPDX-License-Identifier: Apache-2.0
"""fit around its updates: limits, schedules, updates that are not finite, logs, the bar, short runs."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt import losses, optim
from bptt.callbacks import Callback, CSVLogger, LambdaCallback, ModelCheckpoint
from runs import DATA, HELD, T, assert_same_run, broken, fitted, mean_error, model_of


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 3), ({"epochs": 2}, 6), ({"max_steps": 8}, 8), ({"epochs": 2, "max_steps": 8}, 6), ({"max_time_s": 0}, 1)],
)
def test_the_first_limit_ends_the_run(options: dict[str, Any], steps: int) -> None:
    assert len(fitted(**options)[1]) == steps


def test_an_iterator_ends_after_one_epoch_whatever_the_limit() -> None:
    assert len(fitted(iter(DATA), max_steps=8)[1]) == 3
    assert len(fitted(iter(DATA), max_time_s=60)[1]) == 3


def test_time_ends_the_run_after_the_update_that_passes_it() -> None:
    def slow(step: Any) -> None:
        time.sleep(0.03)

    begin_s = time.monotonic()
    _, history = fitted(max_time_s=0.1, on_step=slow)
    assert time.monotonic() - begin_s >= 0.1
    assert 1 <= len(history) <= 4
    assert not history.stopped


def test_a_schedule_gives_each_update_its_learning_rate() -> None:
    rates = [0.1, 0.05, 0.0]
    model, history = fitted(schedule=lambda step: rates[step])
    assert history.lr == rates
    other = model_of()
    for batch, lr in zip(DATA, rates, strict=True):
        fitted([batch], other, lr)
    np.testing.assert_array_equal(model.params.flat, other.params.flat)
    with pytest.raises(ValueError, match=r"^SGD: lr has value -1.0, expected 0 <= lr < inf$"):
        fitted(schedule=lambda step: -1.0)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("stateful", [False, True])
def test_skip_leaves_the_update_out_and_keeps_the_state(place: int, stateful: bool) -> None:
    seen: list[Any] = []
    model, history = fitted(broken(1, place), on_nonfinite="skip", stateful=stateful, on_step=seen.append)
    expected = fitted([DATA[0], DATA[2]], stateful=stateful)
    assert_same_run((model, history), expected)
    assert (history.skipped, history.stopped) == (1, False)
    assert [step.number for step in seen] == [0, 1]
    assert "1 skipped" in repr(history)


@pytest.mark.parametrize("tbptt", [2, (2, 4), (1, 3), (2, 2)])
@pytest.mark.parametrize("stateful", [False, True])
def test_skip_inside_a_batch_goes_on_behind_the_chunk(tbptt: Any, stateful: bool) -> None:
    model, history = fitted(broken(1), on_nonfinite="skip", stateful=stateful, tbptt=tbptt, epochs=2)
    assert history.skipped == 2
    k1 = tbptt if isinstance(tbptt, int) else tbptt[0]
    assert len(history) == 2 * (3 * T // k1 - 1)
    assert np.isfinite(model.params.flat).all()


@pytest.mark.parametrize("on_nonfinite", ["raise", "stop"])
def test_an_optimizer_that_skips_what_fit_must_not_is_refused(on_nonfinite: str) -> None:
    skipping = optim.SGD(0.1, nonfinite="skip")
    both = f"optimizer has nonfinite='skip' and fit on_nonfinite='{on_nonfinite}', expected on_nonfinite='skip'"
    with pytest.raises(ValueError, match=f"^fit: {both}"):
        fitted(optimizer=skipping, on_nonfinite=on_nonfinite)
    assert fitted(broken(1), optimizer=skipping, on_nonfinite="skip")[1].skipped == 1


def test_skip_of_everything_is_an_error() -> None:
    data = [tuple(each * np.nan for each in batch) for batch in DATA]
    model = model_of()
    before = model.params.flat.copy()
    with pytest.raises(FloatingPointError, match=r"^fit: no update of epoch 0 is finite, expected at least one$"):
        fitted(data, model, on_nonfinite="skip")
    np.testing.assert_array_equal(model.params.flat, before)


def test_stop_ends_with_the_last_good_weights_and_says_why() -> None:
    model, history = fitted(broken(2), on_nonfinite="stop", validation=HELD)
    np.testing.assert_array_equal(model.params.flat, fitted(DATA[:2])[0].params.flat)
    assert history.stopped
    assert history.stop_reason.startswith("fit: x has the value nan in update 2, expected finite float64 numbers")
    assert history.validation == []


@pytest.mark.parametrize(
    ("clip", "after"),
    [
        ({}, lambda g: g),
        ({"clip_norm": 0.01}, lambda g: g * min(1, 0.01 / np.linalg.norm(g))),
        ({"clip_value": 0.005}, lambda g: np.clip(g, -0.005, 0.005)),
        ({"clip_norm": 0.05, "clip_value": 0.005}, lambda g: np.clip(g * 0.05 / np.linalg.norm(g), -0.005, 0.005)),
        ({"clip_norm_per_parameter": 0.01}, lambda g: np.full(len(model_of().params), 0.01)),
    ],
)
def test_the_norm_after_clipping(clip: dict[str, float], after: Any) -> None:
    model = model_of()
    y, _, tape = model.forward(DATA[0][0])
    g = np.array(model.backward(tape, losses.mse(y, DATA[0][1])[1])[2].flat)
    _, history = fitted(DATA[:1], model, optimizer=optim.SGD(0.1, **clip))
    assert history.clipped == [bool(clip)]
    rtol = g.size * np.finfo(np.float64).eps  # sums of squares in another order
    np.testing.assert_allclose(history.clipped_norm, np.linalg.norm(after(g)), rtol=rtol)


def test_the_norm_after_clipping_is_what_the_optimizer_says() -> None:
    class Other(optim.SGD):
        """Of a user, who clips in another way."""

        def step(self, params: Any, grads: Any) -> Any:
            norm = super().step(params, grads).grad_norm
            return optim.StepInfo(norm, True, norm / 3)

    class Older(optim.SGD):
        def step(self, params: Any, grads: Any) -> Any:
            return optim.StepInfo(*super().step(params, grads)[:2])

    history = fitted(optimizer=Other(0.1))[1]
    assert history.clipped_norm == [norm / 3 for norm in history.grad_norm]
    history = fitted(optimizer=Older(0.1))[1]
    assert history.clipped_norm == history.grad_norm
    assert all(map(math.isnan, fitted(optimizer=Older(0.1, clip_norm=1e-3))[1].clipped_norm))


def test_a_step_that_the_optimizer_left_out_counts_as_skipped() -> None:
    class Skipping(optim.SGD):
        def step(self, params: Any, grads: Any) -> Any:
            if not np.isfinite(grads.flat).all():
                return optim.StepInfo(math.nan, False)
            return super().step(params, grads)

    def loss(y: Any, target: Any) -> Any:
        value, dy = losses.mse(y, target)
        return value, dy * (np.nan if target is DATA[1][1] else 1.0)

    _, history = fitted(loss=loss, optimizer=Skipping(0.1))
    assert (len(history), history.skipped) == (2, 1)


def test_a_step_says_how_long_it_took() -> None:
    _, history = fitted()
    table = history.to_dict()
    for targets, time_s, rate in zip(table["targets"], table["time_s"], table["targets_per_s"], strict=True):
        assert rate == targets / time_s > 0


class Writer:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen.append((name, value, step))


def test_a_log_gets_all_figures() -> None:
    calls: list[Any] = []
    options: dict[str, Any] = {"validation": HELD, "metric": mean_error}
    _, history = fitted(log=lambda values, step: calls.append((values, step)), **options)
    assert [step for _, step in calls] == [0, 1, 2, 2]
    for k in range(3):
        names = {"loss": history.loss, "grad_norm": history.grad_norm, "lr": history.lr, **history.metrics}
        assert calls[k][0] == {name: values[k] for name, values in names.items()}
    last = history.validation[0]
    assert calls[3][0] == {"validation_loss": last.loss, "validation_metric": last.metrics["metric"]}
    writer = Writer()
    fitted(log=writer, **options)
    assert writer.seen == [(name, value, step) for values, step in calls for name, value in values.items()]


class Lengths:
    """Batches that know their number, and are no list."""

    def __len__(self) -> int:
        return len(DATA)

    def __iter__(self) -> Any:
        return iter(DATA)


@pytest.mark.parametrize(
    ("data", "options", "total"),
    [
        (DATA, {"epochs": 2}, "6/6"),
        (DATA, {"epochs": 2, "tbptt": 4}, "12/12"),
        (Lengths(), {"epochs": 2, "tbptt": (4, 5)}, "12/12"),
        (Lengths(), {"epochs": 2, "tbptt": 4, "max_steps": 5}, "5/5"),
        (iter(DATA), {}, "3step"),
        (iter(DATA), {"max_steps": 2}, "2/2"),
        (DATA, {"max_time_s": 0}, "1step"),
        (DATA, {"overfit_batches": 2, "epochs": 4}, "8/8"),
        (DATA, {"fast_dev_run": 2}, "2/2"),
    ],
)
def test_the_bar_has_a_total_where_it_can_be_known(data: Any, options: Any, total: str, capsys: Any) -> None:
    fitted(data, progress=True, validation=HELD, **options)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert total in last
    for name in ("epoch=", "loss=", "norm=", "lr="):
        assert name in last


def test_the_bar_closes_after_an_exception(capsys: Any) -> None:
    with pytest.raises(FloatingPointError):
        fitted(broken(1), progress=True)
    assert capsys.readouterr().err.endswith("\n")


def test_a_fast_run_takes_some_batches_and_writes_nothing(tmp_path: Path) -> None:
    seen: list[Any] = []
    called: list[str] = []
    callbacks: list[Callback] = [
        ModelCheckpoint(tmp_path / "model"),
        CSVLogger(tmp_path / "table"),
        LambdaCallback(on_epoch=lambda run: called.append("epoch"), on_validation=lambda run, v: called.append("val")),
    ]
    _, history = fitted(
        validation=HELD, fast_dev_run=2, epochs=9, callbacks=callbacks, on_step=seen.append, resume=tmp_path / "state",
        history=tmp_path / "history", log=lambda values, step: called.append("log"),
    )  # fmt: skip
    assert (len(history), len(seen), called) == (2, 2, ["val", "epoch"])
    assert list(tmp_path.iterdir()) == []
    one = fitted(validation=HELD[:1], max_steps=1, epochs=1)[1]
    assert fitted(validation=HELD, fast_dev_run=True)[1].validation[0].loss == one.validation[0].loss
    assert_same_run(fitted(fast_dev_run=False), fitted())


def test_overfitting_takes_the_same_batches_in_each_epoch() -> None:
    class Changing:
        def __init__(self) -> None:
            self.epoch = 0

        def __iter__(self) -> Any:
            self.epoch += 1
            return iter([(x * self.epoch, target) for x, target in DATA])

    assert_same_run(fitted(Changing(), overfit_batches=2, epochs=3), fitted(DATA[:2], epochs=3))
    assert len(fitted(overfit_batches=9)[1]) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_time_s": -1}, ValueError, "max_time_s has value -1.0, expected 0 <= max_time_s < inf"),
        ({"max_time_s": "1"}, TypeError, "max_time_s has type str, expected a number"),
        ({"max_time_s": math.nan}, ValueError, "max_time_s has value nan, expected"),
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite has value 'ignore', expected 'raise', 'skip' or 'stop'"),
        ({"on_nonfinite": None}, ValueError, "on_nonfinite has value None, expected 'raise', 'skip' or 'stop'"),
        ({"schedule": 0.1}, TypeError, "schedule has type float, expected a function of the update's number"),
        ({"validation": 3}, TypeError, "validation has type int, expected a list or other iterable of batches"),
        ({"validation": iter(HELD)}, ValueError, "validation is an iterator, which ends after one pass"),
        ({"validation": []}, ValueError, "validation has no step that counts, expected at least one"),
        ({"validate_every": 0, "validation": HELD}, ValueError, "validate_every has value 0, expected an integer >= 1"),
        ({"validate_every": 2}, ValueError, "validate_every is given without validation, expected both"),
        ({"metric": 3}, TypeError, "metric has 'metric' of type int, expected a function of"),
        ({"metric": {1: mean_error}}, TypeError, "metric has 1 of type function, expected a function of"),
        ({"metric": {"loss": mean_error}}, ValueError, "metric has the name 'loss', expected one that the"),
        ({"metric": {"validation_x": mean_error}}, ValueError, "metric has the name 'validation_x', expected one that"),
        ({"metric": lambda y, t: y}, TypeError, "metric metric returned ndarray, expected a number"),
        ({"callbacks": LambdaCallback()}, TypeError, "callbacks has type LambdaCallback, expected a list of callbacks"),
        ({"callbacks": [print]}, TypeError, "callback has type builtin_function_or_method, expected an object"),
        ({"callbacks": [CSVLogger]}, TypeError, "callback is the class CSVLogger, expected an object"),
        ({"log": 3}, TypeError, r"log has type int, expected a function of \(dict, step\) or an object"),
        ({"fast_dev_run": -1}, ValueError, "fast_dev_run has value -1, expected an integer >= 0"),
        ({"fast_dev_run": 1.5}, TypeError, "fast_dev_run has type float, expected an integer"),
        ({"overfit_batches": 0}, ValueError, "overfit_batches has value 0, expected an integer >= 1"),
        ({"overfit_batches": True}, TypeError, "overfit_batches has type bool, expected an integer"),
    ],
)
def test_wrong_options_are_named(options: Any, error: type[Exception], message: str) -> None:
    model = model_of()
    before = copy.deepcopy(model.params.flat)
    with pytest.raises(error, match=f"^fit: {message}") as caught:
        fitted(model=model, **options)
    assert len(str(caught.value)) < 200
    if "validation" not in options:
        np.testing.assert_array_equal(model.params.flat, before)
