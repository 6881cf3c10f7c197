# SPDX-License-Identifier: Apache-2.0
"""`bptt forecast`: what it prints and writes, what it refuses, and how it stops."""

import csv
import os
import re
import signal

import numpy as np
import pytest

import bptt
from bptt import cli
from bptt.cli import files
from bptt.forecasting import Forecaster, read_table
from command import call, interrupt, snapshot
from stacks import threads

pytest.importorskip("matplotlib")
MONTHS = [f"{1990 + k // 12}-{k % 12 + 1:02d}" for k in range(120)]
SMALL = ["--hidden", "8", "--epochs", "8", "--lr", "0.01", "--threads", "1"]


def values_of(rows):
    k = np.arange(rows)
    return 50 + 0.2 * k + 5 * np.sin(2 * np.pi * k / 12) + np.random.default_rng(0).standard_normal(rows)


def write_series(path, rows=120, column="load", gap=None):
    cells = [f"{value:.3f}" for value in values_of(rows)]
    if gap is not None:
        cells[gap] = ""
    lines = [f"{month};{cell};x" for month, cell in zip(MONTHS[:rows], cells, strict=True)]
    path.write_text("\n".join([f"month;{column};note", *lines]), encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data.csv and what `bptt forecast` wrote."""
    folder = tmp_path_factory.mktemp("forecast")
    write_series(folder / "data.csv")
    assert call("forecast", "data.csv", *SMALL, cwd=folder).returncode == 0
    return folder


@pytest.fixture
def folder(tmp_path, trained, monkeypatch):
    """A new folder with the same files, in which the test runs."""
    for name, content in snapshot(trained).items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with threads(bptt.get_num_threads()):  # --threads holds for the process
        yield tmp_path


def refused(capsys, folder, *arguments):
    """The one line that says why; no file has changed."""
    before = snapshot(folder)
    assert cli.main(["forecast", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"bptt forecast: .*expected .*\n", error), error
    assert snapshot(folder) == before
    return error


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_it_says_what_it_found_did_and_wrote(folder, capsys):
    assert cli.main(["forecast", "data.csv", *SMALL]) == 0
    printed = capsys.readouterr()
    for words in (
        "Series:   data.csv, column 'load', 120 rows from 1990-01 to 1999-12, step 1 month\n",
        "season of 12 steps (12 months), from the dates, confirmed by autocorrelation",
        "78 rows to train on, 18 to stop the training, the last 24 held out\n",
        "forecasts 12 steps (12 months)\n",
        "Replaces: forecast.safetensors (a forecaster of column 'load', written 20",
        "Training: up to 8 epochs on 1 thread\n",
        "Held-out error of 13 forecasts, 1 to 12 steps ahead:\n",
        "naive (the last value)",
        "seasonal naive (12 steps ago)",
        "not trained again on the held-out rows",
        "Forecast of 12 steps, 2000-01 to 2000-12, with 10 % and 90 % quantiles",
        "Picture written to forecast.png\nModel written to forecast.safetensors\n",
    ):
        assert words in printed.out
    assert re.search(r"The mean absolute error is \d+ % below that of|That is not better than", printed.out)
    assert len(re.findall(r"^epoch \d+ of 8: loss [\d.]+, validation [\d.]+$", printed.err, re.MULTILINE)) == 8


def test_the_files_agree_with_each_other(folder):
    header, *rows = rows_of("forecast.csv")
    assert header == ["month", "forecast", "low", "high"]
    assert [row[0] for row in rows] == [f"2000-{month:02d}" for month in range(1, 13)]
    numbers = np.array([row[1:] for row in rows], float)
    values, _ = read_table("data.csv").numbers("load")
    forecaster = Forecaster.load("forecast.safetensors")
    np.testing.assert_allclose(numbers[:, 0], forecaster.predict(values, [119])[0], rtol=1e-7)  # 8 digits in the file
    np.testing.assert_allclose(numbers[:, 1:], numbers[:, :1] + forecaster.interval, rtol=1e-6)
    assert (folder / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_a_saved_model_forecasts_new_rows(folder, capsys):
    write_series(folder / "new.csv", 100)
    arguments = ["forecast", "new.csv", "--use", "forecast.safetensors", "--horizon", "5", "--out", "new_forecast.csv"]
    before = (folder / "forecast.safetensors").read_bytes()
    assert cli.main([*arguments, "--plot", "new.svg"]) == 0
    assert "Forecast of 5 steps, 1998-05 to 1998-09" in capsys.readouterr().out
    assert [row[0] for row in rows_of("new_forecast.csv")[1:]] == MONTHS[100:105]
    assert (folder / "forecast.safetensors").read_bytes() == before
    for wrong, words in (
        (["--horizon", "13"], "expected at most 12"),
        (["--hidden", "8"], "--use and --hidden"),
        (["--date", "none"], "step of 1 row, expected 1 month"),
    ):
        assert words in refused(capsys, folder, "new.csv", "--use", "forecast.safetensors", *wrong)
    write_series(folder / "short.csv", 20)
    assert "has 20 rows, expected at least 34" in refused(capsys, folder, "short.csv", "--use", "forecast.safetensors")


def test_diagnose_and_info_take_a_forecaster(folder, capsys):
    assert cli.main(["diagnose", "forecast.safetensors", "--data", "data.csv", "--rows", "3"]) == 0
    assert "column 'load', 3 windows of 22 steps, loss mse\n" in capsys.readouterr().out
    assert cli.main(["info", "forecast.safetensors"]) == 0
    assert "series      column 'load', step 1 month, season of 12 steps\n" in capsys.readouterr().out
    write_series(folder / "other.csv", column="price")
    for data in ([], ["--data", "other.csv"], ["--data", "data.csv", "--steps", "9"]):
        assert cli.main(["diagnose", "forecast.safetensors", *data]) == 2
        assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.csv"], "cannot read 'none.csv'"),
        (["data.csv", "--column", "laod"], "the nearest is 'load'"),
        (["data.csv", "--column", "note"], "'x' in line 2"),
        (["gap.csv"], "1 missing value in column 'load', the first in line 32"),
        (["data.csv", "--horizon", "60"], "120 rows, expected at least"),
        (["data.csv", "--horizon", "0"], "whole number from 1"),
        (["data.csv", "--test", "0.5", "--validation", "0.6"], "expected less than 1"),
        (["data.csv", "--test", "9.5"], "--test has 9.5, expected a share below 1 or a whole number"),
        (["data.csv", "--out", "data.csv"], "both name 'data.csv'"),
        (["data.csv", "--out", "gap.csv"], "is no table of 'bptt forecast'"),
        (["data.csv", "--plot", "gap.csv"], "ends in .png"),
        (["data.csv", "--out", "own.csv"], "is no table of 'bptt forecast'"),
        (["data.csv", "--plot", "text.png"], "is not a picture"),
        (["last.csv"], "beyond the year 9999, expected a smaller --horizon"),
        (["data.csv", "--use", "foreign.safetensors"], "no usable forecaster"),
        (["data.csv", "--use", "huge.safetensors"], "no usable forecaster"),
        (["data.csv", "--model", "gap.csv"], "is not a model"),
        (["data.csv", "--model", ""], "is not a regular file"),
        (["data.csv", "--model", "other.safetensors"], "holds no forecaster"),
        (["two.csv"], "2 columns of numbers, expected --column with one of a, b"),
        (["constant.csv"], "has the one value 3"),
    ],
)
def test_mistakes_are_refused_in_one_line(folder, capsys, arguments, words):
    write_series(folder / "gap.csv", gap=30)
    (folder / "text.png").write_text("text")
    (folder / "two.csv").write_text("a,b\n" + "1,2\n" * 50)
    (folder / "constant.csv").write_text("a\n" + "3\n" * 60)
    (folder / "own.csv").write_text("date,forecast,actual\n1,2,3\n")
    (folder / "last.csv").write_text("year,a\n" + "".join(f"{9880 + k},{k % 7}\n" for k in range(120)))
    bptt.save(bptt.Linear(2, 1), "other.safetensors")
    facts = bptt.load_extra("forecast.safetensors")["forecaster"]
    layers = bptt.Sequential(bptt.Linear(2, 4), bptt.Linear(4, 12))
    bptt.save(layers, "foreign.safetensors", extra={"forecaster": facts})
    model = bptt.load("forecast.safetensors")
    bptt.save(model, "huge.safetensors", extra={"forecaster": {**facts, "share": [10**400] * 12}})
    if "--horizon" in arguments and "0" in arguments:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["forecast", *arguments])
        assert words in capsys.readouterr().err
    else:
        assert words in refused(capsys, folder, *arguments)


@pytest.mark.parametrize("column", [r"a $\foo$ b", "_load", "売上"])
def test_a_picture_has_the_name_of_any_column(folder, capsys, column, recwarn):
    write_series(folder / "named.csv", column=column)
    assert cli.main(["forecast", "named.csv", *SMALL, "--epochs", "1", "--plot", "named.svg"]) == 0
    assert not [each for each in recwarn if "Glyph" in str(each.message)]
    assert "Picture written to named.svg" in capsys.readouterr().out


def test_numbers_that_are_large_beside_their_changes_keep_their_digits(folder):
    rows = "".join(f"{10**12 + value:.3f}\n" for value in values_of(120))
    (folder / "large.csv").write_text("load\n" + rows)
    assert cli.main(["forecast", "large.csv", *SMALL, "--season", "12", "--epochs", "1"]) == 0
    values, _ = read_table("large.csv").numbers("load")
    expected = Forecaster.load("forecast.safetensors").predict(values, [119])[0]
    np.testing.assert_allclose([float(row[1]) for row in rows_of("forecast.csv")[1:]], expected, rtol=0, atol=1e-3)


def test_a_series_of_another_unit_is_noticed(folder, capsys):
    lines = [f"{month},{value * 1000:.3f}" for month, value in zip(MONTHS, values_of(120), strict=True)]
    (folder / "unit.csv").write_text("\n".join(["month,load", *lines]))
    for name, noticed in (("unit.csv", True), ("data.csv", False)):
        assert cli.main(["forecast", name, "--use", "forecast.safetensors"]) == 0
        assert ("times as much as the one of the training" in capsys.readouterr().out) == noticed


def test_gaps_are_filled_where_that_is_asked_for(folder, capsys):
    write_series(folder / "gap.csv", gap=30)
    assert cli.main(["forecast", "gap.csv", "--missing", "interpolate", *SMALL, "--epochs", "1"]) == 0
    assert "1 missing value filled (--missing interpolate)\n" in capsys.readouterr().out
    lines = (folder / "gap.csv").read_text().splitlines()
    (folder / "gap.csv").write_text("\n".join(lines[:50] + lines[52:]))
    assert "--missing fills absent rows" in refused(capsys, folder, "gap.csv")
    assert "no column 'laod'" in refused(capsys, folder, "gap.csv", "--column", "laod")
    assert cli.main(["forecast", "gap.csv", "--missing", "previous", *SMALL, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "120 rows from" in printed
    assert "3 missing values filled, 2 of dates without a row (--missing previous)\n" in printed
    assert "With new rows: bptt forecast --use forecast.safetensors gap.csv --missing previous\n" in printed


def test_without_matplotlib_the_picture_is_left_out_or_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    (folder / "forecast.png").unlink()
    assert "pip install" in refused(capsys, folder, "data.csv", "--plot", "a.png")
    assert cli.main(["forecast", "data.csv", *SMALL, "--epochs", "1"]) == 0
    assert "No picture: matplotlib is not installed" in capsys.readouterr().out
    assert not (folder / "forecast.png").exists()


def test_a_model_that_is_worse_says_so(folder, capsys):
    walk = np.random.default_rng(0).standard_normal(200).cumsum()  # whose best forecast is the last value
    (folder / "walk.csv").write_text("x\n" + "\n".join(map(str, walk)))
    assert cli.main(["forecast", "walk.csv", *SMALL, "--epochs", "1", "--lr", "1e-9", "--season", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no season, given" in printed
    # a network with random weights adds noise to it
    assert "That is not better than the naive forecast: the mean absolute error is" in printed


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_keeps_the_best_model_so_far(folder):
    rows = "\n".join(f"{value:.3f}" for value in np.tile(values_of(120), 20))
    (folder / "long.csv").write_text("load\n" + rows)
    options = ["--hidden", "64", "--length", "200", "--epochs", "10000", "--lr", "1e-5", "--model", "long.safetensors"]
    code, out, err = interrupt(["forecast", "long.csv", *options, "--threads", "1"], folder, signal.SIGINT)
    assert code == 130, err
    assert "Stopped after" in out
    assert "Model written to long.safetensors" in out
    assert Forecaster.load(folder / "long.safetensors").column == "load"
