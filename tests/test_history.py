# SPDX-License-Identifier: Apache-2.0
"""History: the table, its file in every state that a crash can leave, and its picture."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import bptt
from bptt import optim
from bptt.callbacks import JSONLLogger
from bptt.train import Step, Validation
from bptt.train.history import to_line
from runs import HELD, fitted, mean_error


def run(path: Path | None = None, **options: Any) -> bptt.History:
    options = {"epochs": 2, "validation": HELD, "metric": mean_error, **options}
    return fitted(optimizer=optim.Adam(0.01, clip_norm=0.1), history=path, **options)[1]


def test_the_table_has_a_row_for_each_update_and_validation() -> None:
    history = run()
    table = history.to_dict()
    rows = table.pop("validation")
    assert {len(column) for column in table.values()} == {6}
    assert {len(column) for column in rows.values()} == {2}
    assert list(table) == [
        "step", "epoch", "loss", "grad_norm", "clipped", "targets", "clipped_norm", "lr", "time_s", "targets_per_s",
        "metric",
    ]  # fmt: skip
    assert list(rows) == ["step", "epoch", "validation_loss", "validation_time_s", "validation_metric"]
    assert (table["step"], table["epoch"], rows["step"]) == ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1], [3, 6])
    assert history.clip_rate == sum(history.clipped) / 6 > 0
    kinds = [type(each).__name__[0] for each in history.events()]
    assert "".join(kinds) == "SSSVSSSV"
    assert [each for each in history.events() if isinstance(each, Step)] == list(history.steps())


def test_an_empty_history() -> None:
    history = bptt.History()
    assert len(history) == 0
    assert math.isnan(history.clip_rate)
    assert set(history.to_dict()) >= {"step", "loss", "validation", "targets_per_s"}
    assert list(history.events()) == []
    assert (history.stopped, history.stop_reason, history.skipped) == (False, "", 0)


def test_the_text() -> None:
    history = run(on_nonfinite="skip")
    history.skipped, history.stop_reason = 2, "late"
    loss, validation = history.loss[-1], history.validation[-1].loss
    assert repr(history) == (
        f"History(6 steps, last loss {loss:.4g}, validation loss {validation:.4g}, 2 skipped, stopped: late)"
    )


def test_a_file_has_every_bit_and_both_ways_write_it(tmp_path: Path) -> None:
    history = run(tmp_path / "a", callbacks=[JSONLLogger(tmp_path / "b")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert bptt.History.read(tmp_path / "a").to_dict() == history.to_dict()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk of Linux")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    def fill(run: object) -> None:
        logger.close()
        logger._file = open("/dev/full", "w")  # noqa: SIM115 - the logger closes it

    logger = JSONLLogger(tmp_path / "a")
    with pytest.raises(OSError, match=r"cannot write '.*a' \(No space left on device\), expected room") as caught:
        run(callbacks=[logger, bptt.callbacks.LambdaCallback(on_train_begin=fill)])
    assert caught.value.errno is None


def test_a_file_says_how_the_run_ended(tmp_path: Path) -> None:
    def on_step(step: Step) -> None:
        if step.number == 1:
            raise bptt.StopTraining("enough")

    history = run(tmp_path / "a", on_step=on_step)
    read = bptt.History.read(tmp_path / "a")
    assert (len(read), read.stop_reason) == (len(history), "enough")


def test_a_file_is_written_while_the_run_goes_on(tmp_path: Path) -> None:
    lengths: list[int] = []

    def on_step(step: Step) -> None:
        if step.number:
            lengths.append(len(bptt.History.read(tmp_path / "a")))

    run(tmp_path / "a", on_step=on_step)
    assert lengths == [1, 2, 3, 4, 5]  # on_step is called first


def test_a_file_that_was_cut_anywhere_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    history = run(tmp_path / "a")
    contents = (tmp_path / "a").read_bytes()
    sizes = [*range(0, len(contents), 41), *range(len(contents) - 60, len(contents))]
    for size in sizes:
        (tmp_path / "b").write_bytes(contents[:size])
        read = bptt.History.read(tmp_path / "b")
        assert read.loss == history.loss[: len(read)]
    assert len(read) == 6


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    rows = [Step(0, 0, 1.0, 2.0, False, 3, lr=math.inf), Validation(1, 0, math.nan)]
    text = "".join(map(to_line, rows))  # type: ignore[arg-type]
    for line in text.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
    (tmp_path / "a").write_text(text)
    history = bptt.History.read(tmp_path / "a")
    assert math.isnan(history.lr[0])
    assert math.isnan(history.validation[0].loss)


@pytest.mark.parametrize(
    "line",
    ["x", "[]", "3", "{}", '{"event": "other"}', '{"event": "step"}', '{"event": "validation", "step": 1}', "\xff"],
)
def test_a_line_of_another_file_is_named(tmp_path: Path, line: str) -> None:
    good = to_line(Step(0, 0, 1.0, 2.0, False, 3))
    (tmp_path / "a").write_text(good + line + "\n" + good, encoding="latin-1")
    with pytest.raises(ValueError, match=r"^History.read: '.*, line 2, is .*, expected a line of a history$") as caught:
        bptt.History.read(tmp_path / "a")
    assert len(str(caught.value)) < 200


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bptt.History.read(tmp_path / "no")
    (tmp_path / "a").write_text("")
    assert len(bptt.History.read(tmp_path / "a")) == 0


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, history in {"a": run(tmp_path / "log"), "b": run(validation=None), "c": run(epochs=20)}.items():
        figure = history.plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        loss, *metrics, norm, rate = figure.axes
        names = ["validation metric"] if history.validation else []
        assert [each.get_ylabel() for each in figure.axes] == ["loss", *names, "gradient norm", "learning rate"]
        for axes in metrics:
            assert list(axes.lines[0].get_ydata()) == [each.metrics["metric"] for each in history.validation]
        assert rate.get_xlabel() == "updates"
        lines = {each.get_label().partition(" (")[0]: each.get_ydata() for each in loss.lines}
        if history.validation:
            assert list(lines["validation"]) == [each.loss for each in history.validation]
        if name != "c":
            assert list(lines["training"]) == history.loss
        assert any(list(each.get_ydata()) == history.clipped_norm for each in norm.lines)
        assert list(rate.lines[0].get_ydata()) == history.lr
    bptt.History.read(tmp_path / "log").plot()


def test_a_picture_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history, path = run(), tmp_path / "a.png"
    path.write_text("mine")
    history.loss[0] = None  # type: ignore[call-overload]  # nothing that matplotlib can draw
    with pytest.raises(TypeError):
        history.plot(path)
    with pytest.raises(ValueError, match=r"^History.plot: path has the ending .gif, expected one of .png, .svg, .pdf$"):
        run().plot(tmp_path / "a.gif")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.png", "mine")]


def test_a_picture_of_nothing_and_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^History.plot: history has no updates, expected at least one$"):
        bptt.History().plot()
    history = run()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"^History.plot: matplotlib is not .* pip install 'bptt\[plot\]'$"):
        history.plot()
