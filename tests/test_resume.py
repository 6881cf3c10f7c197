# SPDX-License-Identifier: Apache-2.0
"""fit(..., resume=path): a run that was killed or cut goes on with the bits of one that never was."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
import resumed_run
from bptt import checkpoint, losses, optim
from bptt.callbacks import Callback, EarlyStopping
from bptt.layers import Stateless
from bptt.train.source import Source
from bptt.train.state import StateFile
from bptt.train.updates import Task, Updates

Result = tuple[NDArray[Any], bptt.History]
TIMES = ("time_s", "targets_per_s")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run without an interruption."""
    model, history = resumed_run.run(tmp_path_factory.mktemp("whole"))
    assert len(set(history.lr)) > 1
    assert history.stopped
    return np.array(model.params.flat), history


def without_times(history: bptt.History) -> dict[str, Any]:
    table = history.to_dict()
    rows = table.pop("validation")
    assert isinstance(rows, dict)
    return {
        **{name: values for name, values in table.items() if name not in TIMES},
        **{f"v {name}": values for name, values in rows.items() if name != "validation_time_s"},
        "end": [history.stop_reason, history.skipped],
    }


def assert_same(folder: Path, weights: NDArray[Any], history: bptt.History, whole: Result) -> None:
    np.testing.assert_array_equal(weights, whole[0])
    assert without_times(history) == without_times(whole[1])
    logged = bptt.History.read(folder / "run.jsonl")
    assert logged.to_dict() == history.to_dict()
    rows = (folder / "run.csv").read_text().splitlines()
    assert len(rows) == 1 + len(history) + len(history.validation)


def killed_until_done(folder: Path, kills: int, epochs: int) -> int:
    """Run in processes that are killed after some updates and milliseconds; return how many were at work."""
    draw, killed = random.Random(kills), 0
    command = [sys.executable, resumed_run.__file__, str(folder), str(epochs)]
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            [process.stdout.readline() for _ in range(draw.randint(1, 7))]
            time.sleep(draw.uniform(0.0, 0.005))
            process.kill()
            killed += "ends" not in process.stdout.read()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return killed


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path, whole: Result) -> None:
    assert killed_until_done(tmp_path, 5, resumed_run.EPOCHS) >= 3
    _, history = resumed_run.run(tmp_path)  # which has ended, and returns at once
    assert_same(tmp_path, np.load(tmp_path / "weights.npy"), history, whole)


@pytest.mark.slow
def test_a_run_killed_fifty_times_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    model, expected = resumed_run.run(tmp_path / "whole", epochs=40)
    assert killed_until_done(tmp_path, 50, 40) >= 25
    _, history = resumed_run.run(tmp_path, epochs=40)
    assert_same(tmp_path, np.load(tmp_path / "weights.npy"), history, (np.array(model.params.flat), expected))


@pytest.mark.parametrize("cuts", [[1], [4], [7, 8, 21], [20], [30, 31]])
def test_a_run_with_a_limit_goes_on_with_a_higher_one(tmp_path: Path, whole: Result, cuts: list[int]) -> None:
    """20 is the end of an epoch."""
    for cut in cuts:
        assert len(resumed_run.run(tmp_path, max_steps=cut)[1]) == cut
    model, history = resumed_run.run(tmp_path)
    assert_same(tmp_path, np.array(model.params.flat), history, whole)


def test_a_run_that_an_exception_ended_goes_on_from_the_last_save(tmp_path: Path, whole: Result) -> None:
    def on_step(step: Any) -> None:
        if step.number == 9:
            raise LookupError

    with pytest.raises(LookupError):
        resumed_run.run(tmp_path, 4, on_step=on_step)
    model, history = resumed_run.run(tmp_path)
    assert_same(tmp_path, np.array(model.params.flat), history, whole)


def test_a_run_that_paused_goes_on_and_one_that_stopped_does_not(tmp_path: Path, whole: Result) -> None:
    def pausing(step: Any) -> None:
        if step.number == 9:
            raise bptt.StopTraining("SIGTERM", pause=True)

    _, history = resumed_run.run(tmp_path, on_step=pausing)
    assert (len(history), history.stop_reason) == (10, "SIGTERM")
    model, history = resumed_run.run(tmp_path)
    assert_same(tmp_path, np.array(model.params.flat), history, whole)
    assert len(resumed_run.run(tmp_path)[1]) == len(history)  # EarlyStopping has ended it


X = np.random.default_rng(0).standard_normal((6, 4, 3))
DATA = [(X, X[:, :, :2]), (X[::-1], X[:, :, 1:])]


def fitted(path: Path | None, make: Any = None, data: Any = DATA, model: Any = None, **options: Any) -> Any:
    model = bptt.GRU(3, 2, seed=0, dtype="float64") if model is None else model
    optimizer = optim.Adam(0.1) if make is None else make()
    options = {"loss": losses.mse, "epochs": 4, "save_every_s": None, **options}
    history = bptt.fit(model, data, optimizer=optimizer, resume=path, **options)
    return model, history, optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.SGD(0.1),
        lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: optim.Adam(0.1, betas=(0.8, 0.9), weight_decay=0.1, clip_value=0.01),
        lambda: optim.AdamW(0.1, amsgrad=True, clip_norm_adaptive=1.5),
        lambda: optim.NAdam(0.1),
        lambda: optim.RMSprop(0.1, momentum=0.5, centered=True),
        lambda: optim.Lion(0.01),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_optimizer_goes_on(tmp_path: Path, make: Any, dtype: str) -> None:
    model, expected, _ = fitted(None, make, model=bptt.GRU(3, 2, seed=0, dtype=dtype))
    path = tmp_path / "state"
    fitted(path, make, max_steps=3, model=bptt.GRU(3, 2, seed=0, dtype=dtype))
    other, history, optimizer = fitted(path, lambda: make(), model=bptt.GRU(3, 2, seed=5, dtype=dtype))
    np.testing.assert_array_equal(other.params.flat, model.params.flat)
    assert history.loss == expected.loss
    assert repr(optimizer).startswith(repr(make()).removesuffix(")"))


@pytest.mark.parametrize("threads", [1, 2])
def test_packed_and_ragged_batches_and_schedules_go_on(tmp_path: Path, threads: int) -> None:
    rng = np.random.default_rng(3)
    ragged = ([rng.standard_normal((n, 3)) for n in (4, 6, 2)], [rng.standard_normal((n, 2)) for n in (4, 6, 2)])
    packed = bptt.Packed(rng.standard_normal((7, 3)), [3, 2, 2]), rng.standard_normal((7, 2))
    options: dict[str, Any] = {"data": [ragged, packed], "schedule": lambda step: 0.1 / (1 + step), "stateful": False}
    before = bptt.get_num_threads()
    try:
        bptt.set_num_threads(threads)
        model, expected, _ = fitted(None, **options)
        for cut in (1, 2, 5):
            fitted(tmp_path / "state", max_steps=cut, **options)
        other, history, _ = fitted(tmp_path / "state", **options)
    finally:
        bptt.set_num_threads(before)
    np.testing.assert_array_equal(other.params.flat, model.params.flat)
    assert (history.loss, history.lr) == (expected.loss, expected.lr)


def test_a_finished_run_returns_at_once_and_more_epochs_go_on(tmp_path: Path) -> None:
    path = tmp_path / "state"
    model, history, _ = fitted(path)
    seen: list[Any] = []
    again, same, _ = fitted(path, on_step=seen.append)
    assert seen == []
    assert same.to_dict() == history.to_dict()
    np.testing.assert_array_equal(again.params.flat, model.params.flat)
    longer, _, _ = fitted(path, epochs=6)
    np.testing.assert_array_equal(longer.params.flat, fitted(None, epochs=6)[0].params.flat)


def test_skipped_updates_and_metrics_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    def loss(y: Any, target: Any) -> Any:
        value, dy = losses.mse(y, target)
        return (np.nan if target is DATA[1][1] else value), dy

    options: dict[str, Any] = {"loss": loss, "on_nonfinite": "skip", "metric": lambda y, target: np.inf}
    for cut in (2, 3):
        _, history, _ = fitted(tmp_path / "state", max_steps=cut, **options)
    assert history.skipped == 2
    assert history.metrics == {"metric": [np.inf] * 3}
    assert history.step == [0, 1, 2]


def test_a_save_is_due_by_updates_or_by_time(tmp_path: Path) -> None:
    path, sizes = tmp_path / "state", []

    def on_step(step: Any) -> None:
        sizes.append(json.loads(read_position(path))["number"] if path.exists() else 0)

    fitted(path, save_every=3, save_every_s=None, on_step=on_step)
    assert sizes == [0, 0, 0, 3, 3, 3, 6, 6]
    os.remove(path)
    sizes.clear()
    fitted(path, save_every=None, save_every_s=0, on_step=on_step)
    assert sizes == [0, 1, 2, 3, 4, 5, 6, 7]
    os.remove(path)
    fitted(path, save_every=None, save_every_s=None)
    assert json.loads(read_position(path))["epoch"] == 4  # the end is written


def read_position(path: Path) -> str:
    return json.dumps(checkpoint.load(path)[1]["position"], default=str)


def stateful_callbacks() -> list[Callback]:
    return [EarlyStopping(2, monitor="loss")]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tbptt": 2}, ValueError, r"this run has tbptt \[2, 2\], expected None as in"),
        ({"stateful": True}, ValueError, "this run has stateful True, expected False as in"),
        ({"make": lambda: optim.SGD(0.1)}, ValueError, "this run has optimizer 'SGD', expected 'Adam' as in"),
        ({"model": bptt.GRU(3, 2, seed=0)}, ValueError, "this run has layer 0 "),
        (
            {"model": bptt.GRU(3, 2, dtype="float64", learn_initial_state=True)},
            ValueError,
            "this run has layer 0 ",
        ),
        ({"callbacks": stateful_callbacks()}, ValueError, "callbacks differ from those in .*, expected none$"),
        (
            {"data": [(X * 2, X[:, :, :2]), DATA[1]]},
            ValueError,
            "batch 0 of epoch 0 differs from that of the run that is",
        ),
        ({"data": DATA[1:]}, ValueError, "batch 0 of epoch 0 differs from"),
        ({"save_every": 0}, ValueError, "save_every has value 0, expected an integer >= 1"),
        ({"save_every_s": -1}, ValueError, "save_every_s has value -1.0, expected 0 <= save_every_s"),
    ],
)
def test_what_does_not_belong_to_the_file_is_named(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "state"
    fitted(path, max_steps=1)
    before, model = path.read_bytes(), change.get("model", bptt.GRU(3, 2, seed=7, dtype="float64"))
    weights = copy.deepcopy(model.params.flat)
    with pytest.raises(error, match=f"^fit: {message}") as caught:
        fitted(path, **{"model": model, **change})
    assert len(str(caught.value)) < 200
    assert path.read_bytes() == before
    np.testing.assert_array_equal(model.params.flat, weights)


def test_files_and_objects_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    class Plain:
        def step(self, params: Any, grads: Any) -> Any:
            raise AssertionError

    with pytest.raises(TypeError, match="has type Plain, expected one with state_dict and load_state_dict"):
        fitted(tmp_path / "state", Plain)
    with pytest.raises(TypeError, match=r"^fit: resume has type int, expected the path of a file"):
        fitted(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="cannot write"):
        fitted(tmp_path / "no" / "state")
    checkpoint.save(tmp_path / "model", {"w": np.ones(3)}, {"cell": "gru"})
    with pytest.raises(ValueError, match=r"^fit: resume is '.*, which has no training state of this version"):
        fitted(tmp_path / "model")
    (tmp_path / "text").write_text("mine")
    with pytest.raises(ValueError, match="expected another name: it would be overwritten"):
        fitted(tmp_path / "text")
    fitted(tmp_path / "state", max_steps=1)
    damaged = bytearray((tmp_path / "state").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "state").write_bytes(damaged)
    with pytest.raises(ValueError, match="is damaged"):
        fitted(tmp_path / "state")


class Scale(Stateless):
    """A layer of a user, without a text of its own."""

    _has_features = True

    def __init__(self, *shape: int) -> None:
        self.params = bptt.Params({"scale": shape})


def test_parameters_of_layers_without_a_text_are_compared(tmp_path: Path) -> None:
    def model_of(*shape: int) -> bptt.Sequential:
        return bptt.Sequential(bptt.GRU(3, 2, seed=0), Scale(*shape))

    task = Task(model_of(2), losses.mse, optim.SGD(0.1))
    file = StateFile(tmp_path / "state", None, None)
    assert not file.load(task, Updates(task, Source([])), bptt.History(), [])
    file.save(task, Updates(task, Source([])), bptt.History(), [])
    other = task._replace(model=model_of(3))
    with pytest.raises(ValueError, match=r"^fit: model differs in 1.scale from that in .*, expected the same$"):
        StateFile(tmp_path / "state", None, None).load(other, Updates(other, Source([])), bptt.History(), [])


def test_fewer_batches_than_before_are_named(tmp_path: Path) -> None:
    fitted(tmp_path / "state", data=Twice(DATA), max_steps=2)
    with pytest.raises(ValueError, match=r"^fit: batches has 1 in epoch 0, fewer than in the run that is continued"):
        fitted(tmp_path / "state", data=Twice(DATA[:1]))


class Twice:  # no list: it is gone through again
    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data)


def changed(**parts: Any) -> list[Any]:
    """The data with another part of the first batch."""
    return [bptt.Batch(*DATA[0])._replace(**parts), DATA[1]]


@pytest.mark.parametrize(
    "data",
    [
        DATA[::-1],
        changed(x=X * 2),
        changed(target=2 * X[:, :, :2]),
        changed(mask=np.arange(24).reshape(6, 4) > 3),
        changed(lengths=[6, 6, 6, 5]),
        changed(resets=np.arange(24).reshape(6, 4) == 7),
    ],
)
@pytest.mark.parametrize(("kind", "end"), [(list, {"epochs": 2}), (list, {"max_steps": 2}), (Twice, {"epochs": 2})])
def test_other_data_are_named_wherever_the_run_ended(tmp_path: Path, data: Any, kind: Any, end: Any) -> None:
    fitted(tmp_path / "state", data=DATA, **end)
    fitted(tmp_path / "state", data=kind([bptt.Batch(*each) for each in DATA]), **end)  # the same data
    with pytest.raises(ValueError, match=r"^fit: batch 0 of epoch 0 differs from that of the run that is continued"):
        fitted(tmp_path / "state", data=kind(data), **end)


def test_batches_of_another_size_are_refused_before_anything_changes(tmp_path: Path) -> None:
    def feed(size: int) -> Any:
        return bptt.data.batches(X, X[:, :, :2], size, shuffle=True, seed=0)

    fitted(tmp_path / "state", data=feed(2), max_steps=3)
    model = bptt.GRU(3, 2, seed=7, dtype="float64")
    weights = model.params.flat.copy()
    with pytest.raises(ValueError, match=r"^Batches.restore: state has batch_size 2, expected 1, as these"):
        fitted(tmp_path / "state", data=feed(1), model=model)
    np.testing.assert_array_equal(model.params.flat, weights)


@pytest.mark.parametrize("cuts", [[1], [4], [7, 8, 21], [20, 40]])
def test_batches_that_know_their_place_are_put_there(tmp_path: Path, cuts: list[int]) -> None:
    """20 is the end of an epoch, of 5 batches with 4 updates each."""
    x, taken = np.random.default_rng(1).standard_normal((8, 10, 3)), []

    class Counted(bptt.data.Batches):
        def _rest(self, epoch: int, first: int) -> Any:
            for batch in super()._rest(epoch, first):
                taken.append(epoch)
                yield batch

    def feed(seed: int) -> Any:
        made = bptt.data.batches(x, x[:, :, :2], 2, shuffle=True, seed=seed)
        return Counted(made._source, 2, seed, shuffle=True, bucket_by_length=False, drop_last=False)

    options: dict[str, Any] = {"tbptt": 2, "stateful": True, "epochs": 3}
    whole, expected, _ = fitted(None, data=feed(3), **options)
    for cut in cuts:
        fitted(tmp_path / "state", data=feed(3), max_steps=cut, **options)
    taken.clear()
    model, history, _ = fitted(tmp_path / "state", data=feed(4), **options)  # the file's seed holds
    np.testing.assert_array_equal(model.params.flat, whole.params.flat)
    assert history.loss == expected.loss
    assert taken.count(0) <= 1 + 5 * (cuts[-1] < 20)  # past epochs are not gone through again, but for the first batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": losses.mae}, "loss 'mae', expected 'mse'"),
        ({"metric": lambda y, target: 0.0}, r"metrics \['metric'\], expected \[\]"),
        ({"schedule": lambda step: 0.1}, "schedule 'a function', expected 'None'"),
        ({"make": lambda: optim.Adam(0.1, weight_decay=0.5)}, "weight_decay of the optimizer 0.5, expected 0.0"),
    ],
)
def test_another_call_than_that_of_the_saved_run_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fitted(tmp_path / "state", max_steps=2)
    with pytest.raises(ValueError, match=f"^fit: this run has {message} as in "):
        fitted(tmp_path / "state", **change)
