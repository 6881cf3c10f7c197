# SPDX-License-Identifier: Apache-2.0
"""The work of `bptt forecast`: CSV files, dates, seasons, the forecaster and its training."""

import re
from datetime import datetime

import numpy as np
import pytest

import bptt
from bptt.forecasting import (
    Forecaster,
    Network,
    Settings,
    Table,
    dates_of,
    divide,
    judge,
    read_table,
    season_of,
    train,
    training_rows,
    with_absent_rows,
)
from bptt.forecasting.peers import errors, naive, seasonal_naive, targets
from bptt.forecasting.steps import Step, step_of

RNG = np.random.default_rng(0)
T = np.arange(160)
WAVE = 10 + 0.1 * T + 3 * np.sin(2 * np.pi * T / 8) + 0.1 * RNG.standard_normal(len(T))


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


def table_of(*cells, column="when"):
    return Table("data.csv", (column, "v"), [[cell, "1"] for cell in cells], list(range(2, 2 + len(cells))))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-8", "\r")])
def test_a_table_is_read_whatever_its_separator_and_line_ends(tmp_path, separator, encoding, end):
    rows = [["day", "größe, m"], ["2024-01-01", " 3.5"], [], ["2024-01-02", "-4e1 "]]
    quoted = [separator.join(f'"{cell}"' if ", " in cell else cell for cell in row) for row in rows]
    table = read_table(written(tmp_path, end.join(quoted), encoding))
    assert table.columns == ("day", "größe, m")
    assert table.lines == [2, 4]
    values, filled = table.numbers("größe, m")
    assert (values.tolist(), filled) == ([3.5, -40.0], 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no text"),
        ("a,b\n", "a header only"),
        ("1,2\n3,4\n", "begins with figures in line 1"),
        ("2024-01-01,2\n2024-01-02,4\n", "begins with figures in line 1"),
        ('a,b\n1,"2\n3,4\n', "no readable line 3"),
        ("b,a\n" + "x" * 200_000 + ",1\n", "no readable line 2"),
        ("x" * 200_000 + ",a\n1,1\n", "no readable line 1"),
        ("a\n1\n-1e151\n", r"'-1e151' in line 3, column 'a', expected a number between -1e\+150"),
        ("a,b\n1,2\n1,2,3\n", "3 cells in line 3"),
        ("a,b\n1,2,3\n", "3 cells in line 2"),
        ("a\n1\nx\n", "'x' in line 3, column 'a'"),
        ("a\n1\n1_000\n", "'1_000' in line 3"),
        ("a\n1\ninf\n", "'inf' in line 3"),
        ("a\n1\n1e999\n", "'1e999' in line 3"),
        ('b;a\n1;"3,5"\n', "a decimal point: 3.5, not 3,5"),
        ("a\n1\nNaN\n\nnull\n2\n", r"2 missing values in column 'a', the first in line 3.*--missing"),
        ("a,a\n1,2\n", "2 columns 'a'"),
        ("aa,b\n1,2\n", "no column 'a', expected one of aa, b; the nearest is 'aa'"),
        ("a\nNA\n", "no value in column 'a'"),
        ("a\n\0\n", "zero bytes"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_table(written(tmp_path, text)).numbers("a")
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path):
    with pytest.raises(ValueError, match="line 2 that are not UTF-8, expected"):
        read_table(written(tmp_path, "a\nü\n", "latin-1"))
    with pytest.raises(FileNotFoundError, match="expected a CSV file"):
        read_table(tmp_path / "none.csv")


def test_missing_values_are_filled_as_asked(tmp_path):
    table = read_table(written(tmp_path, "t,a\n0,1\n1,\n2,NA\n3,4\n4,n/a\n"))
    assert table.numbers("a", "previous")[0].tolist() == [1, 1, 1, 4, 4]
    with pytest.raises(ValueError, match=r"expected a value in the last row"):
        table.numbers("a", "interpolate")
    table.rows.pop()
    values, filled = table.numbers("a", "interpolate")
    assert (values.tolist(), filled) == ([1, 2, 3, 4], 2)
    table.rows[0][1] = ""
    with pytest.raises(ValueError, match="expected a value in the first row"):
        table.numbers("a", "previous")


@pytest.mark.parametrize(
    ("cells", "step", "after"),
    [
        (["1999", "2000"], "1 year", "2001"),
        (["20240131", "20240229", "20240331"], "1 month", "20240430"),
        (["2024-01-30", "2024-02-29", "2024-03-30"], "1 month", "2024-04-30"),
        (["2024-01-01", "2024-01-08"], "1 week", "2024-01-15"),
        (["2024-11", "2024-12"], "1 month", "2025-01"),
        (["2023Q3", "2023Q4"], "3 months", "2024Q1"),
        (["2024-02-28 22:30", "2024-02-28 23:15"], "45 minutes", "2024-02-29 00:00"),
        (["2024-12-31T22:00:00Z", "2024-12-31T23:00:00Z"], "1 hour", "2025-01-01T00:00:00Z"),
        (["2024-03-31T01:00:00+01:00", "2024-03-31T03:00:00+02:00"], "1 hour", "2024-03-31T04:00:00+02:00"),
        (["2024-01-01 00:00:00.5", "2024-01-01 00:00:01"], "0.5 seconds", "2024-01-01 00:00:01.500"),
        (["30.12.2024", "31.12.2024"], "1 day", "01.01.2025"),
        (["01/30/2024", "01/31/2024"], "1 day", "02/01/2024"),
        (["Jan-1-1995", "Feb-1-1995"], "1 month", "Mar-01-1995"),
    ],
)
def test_dates_are_recognized_and_continued_in_their_form(cells, step, after):
    dates = dates_of(table_of(*cells), without="v") if not cells[0].isdecimal() else dates_of(table_of(*cells), "when")
    assert (dates.step.name, dates.text(len(cells))) == (step, after)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-05"], r"'2024-01-05' after '2024-01-03' in line 5.*1 day"),
        (["2024-01", "2024-02", "2024-04", "2024-05"], r"in line 4.*1 month"),
        (["2024-01-02", "2024-01-01"], "line 3.*ascend"),
        (["2024-01-01", "2024-01-01"], "line 3.*ascend"),
        (["2024-01-01", "soon"], "'soon' in line 3"),
        (["2024-01-01T00:00", "2024-01-02T00:00Z"], "'2024-01-02T00:00Z' in line 3"),
        (["2024-01-01T00:00Z", "2024-01-02T00:00"], "'2024-01-02T00:00' in line 3"),
        (["01/02/2024", "01/03/2024"], "DD/MM/YYYY and MM/DD/YYYY"),
        (["2024-01-01"], "one row"),
    ],
)
def test_dates_that_do_not_ascend_evenly_are_refused_with_their_line(cells, words):
    with pytest.raises(ValueError, match=words) as caught:
        dates_of(table_of(*cells), "when")
    assert "expected" in str(caught.value)
    rows = dates_of(table_of(*cells), "none")
    assert (rows.column, rows.step.name, rows.text(len(cells))) == (None, "1 row", str(len(cells) + 1))


@pytest.mark.parametrize(
    ("cells", "added"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06"], {2: "2024-01-03", 3: "2024-01-04"}),
        (["31.01.2024", "29.02.2024", "30.04.2024", "31.05.2024"], {2: "31.03.2024"}),
        (["2023Q3", "2023Q4", "2024Q2", "2024Q3"], {2: "2024Q1"}),
        (
            ["2024-03-31T01:00+01:00", "2024-03-31T04:00+02:00", "2024-03-31T05:00+02:00", "2024-03-31T06:00+02:00"],
            {1: "2024-03-31T03:00+02:00"},
        ),
        (["1", "2", "4"], {2: "3"}),
    ],
)
def test_rows_of_absent_dates_are_added_empty(cells, added):
    table = table_of(*cells, column="index" if cells[0] == "1" else "when")
    with pytest.raises(ValueError, match="--missing fills absent rows"):
        dates_of(table, without="v")
    whole = with_absent_rows(table, without="v")
    assert {k: row[0] for k, row in enumerate(whole.rows) if row[1] == ""} == added
    assert [row for row in whole.rows if row[1]] == table.rows
    assert whole.lines[min(added)] == table.lines[min(added)]  # that of the row that follows
    assert with_absent_rows(whole, without="v") == whole
    assert dates_of(whole, without="v").text(len(whole.rows) - 1) == cells[-1]


@pytest.mark.parametrize(
    "cells",
    [
        ["2024-01-01", "2024-01-02", "2024-01-03 12:00"],
        ["2024-01-02", "2024-01-01"],
        ["2024-01-01", "2024-01-02", "2924-01-03"],  # a slip of the pen does not fill the memory
    ],
)
def test_dates_that_are_not_whole_steps_apart_are_left_to_the_error(cells):
    table = table_of(*cells)
    assert with_absent_rows(table, "when") is table
    with pytest.raises(ValueError, match="in line") as caught:
        dates_of(table, "when")
    assert "--missing" not in str(caught.value)
    assert with_absent_rows(table, "none") is table


def test_whole_numbers_are_dates_only_by_name():
    assert dates_of(table_of("1990", "1991", column="sold")).column is None
    assert dates_of(table_of("1990", "1991", column="Year")).step == Step(months=12, day=1)
    assert dates_of(table_of("10", "12", column="index")).text(2) == "14"
    assert dates_of(table_of("10", "12", column="")).text(2) == "14"
    assert dates_of(table_of("1.0823", "1.0824", column="rate")).column is None  # no months of the year 823
    assert dates_of(table_of("1.1990", "2.1990", column="month")).text(2) == "03.1990"


def test_a_column_of_dates_that_cannot_be_read_is_not_passed_over():
    for cells in (["1/2/24", "1/3/24"], ["01/02/2024 1:00 PM", "01/02/2024 2:00 PM"], ["", "2024-01-02"]):
        with pytest.raises(ValueError, match="in line 2, column 'date', expected dates of one form"):
            dates_of(table_of(*cells, column="date"))
    assert dates_of(table_of("0.1", "0.2", column="time")).column is None  # seconds


def test_the_season_is_found_in_rows_that_are_trained_on_for_every_season():
    for T in (60, 100, 300, 1000):
        for shares in ({}, {"test": 1.0}, {"test": 5.0, "validation": 3.0}, {"test": 0.01, "validation": 0.01}):
            for season in (1, 4, 13, 24):
                assert training_rows(T, None, **shares) <= divide(T, season, length=2, **shares).train


def test_values_too_small_to_square_are_refused():
    parts = divide(len(WAVE), 8)
    forecaster = Forecaster.create(Network(parts.length, parts.horizon, hidden=4), WAVE * 1e-160, "wave")
    with pytest.raises(ValueError, match=r"expected a range of at least 1e-150"):
        train(forecaster, WAVE * 1e-160, parts)


def test_values_beyond_float32_on_the_scale_of_the_training_are_no_forecast():
    forecaster = Forecaster.create(Network(10, 3, hidden=4), WAVE * 1e-30, "wave")
    with pytest.raises(ValueError, match=r"no finite forecast, expected values like those of column 'wave'"):
        forecaster.predict(WAVE * 1e30, [len(WAVE) - 1])


def test_one_uneven_row_does_not_change_the_step():
    days = [datetime(2024, 1, day) for day in (1, 2, 4, 5, 6)]
    assert step_of(days) == (Step(seconds=86400.0), 2)


def test_peers_take_values_that_are_known():
    values, origins = np.arange(12.0), np.array([5, 8])
    assert targets(values, origins, 3).tolist() == [[6, 7, 8], [9, 10, 11]]
    assert naive(values, origins, 2).tolist() == [[5, 5], [8, 8]]
    assert seasonal_naive(values, origins, 5, 2).tolist() == [[4, 5, 4, 5, 4], [7, 8, 7, 8, 7]]
    assert errors(np.zeros((1, 2)), np.array([[3.0, 4.0]])) == (3.5, pytest.approx(np.sqrt(12.5)))


def test_the_season_is_found_where_there_is_one():
    assert season_of(WAVE)[0] == 8
    assert season_of(WAVE, usual=16)[0] == 16  # a multiple, which the dates suggest
    assert season_of(RNG.standard_normal(200), usual=12) == (1, 0.0)
    assert season_of(2.0 * T) == (1, 0.0)
    assert season_of(np.ones(2)) == (1, 0.0)


def test_parts_follow_each_other_and_the_least_length_is_exact():
    parts = divide(160, season=8)
    assert (parts.train, parts.test, parts.horizon, parts.length) == (104, 128, 8, 24)
    assert (parts.origins[0], parts.origins[-1] + parts.horizon) == (127, 159)
    with pytest.raises(ValueError, match=r"has 40 rows, expected at least \d+ for --horizon 8") as caught:
        divide(40, 8, horizon=8, length=24)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert divide(least, 8, horizon=8, length=24).train < least
    with pytest.raises(ValueError, match=f"expected at least {least}"):
        divide(least - 1, 8, horizon=8, length=24)
    for sizes in ({"validation": 1e9}, {"horizon": 10**5, "length": 10**6}, {"test": 0.8499999999}):  # all at once
        with pytest.raises(ValueError, match=r"expected at least [\d,]+ for") as caught:
            divide(160, **sizes)
        least = int(re.search(r"at least ([\d,]+)", str(caught.value))[1].replace(",", ""))
        divide(least, **sizes)
        with pytest.raises(ValueError, match=f"expected at least {least:,}"):
            divide(least - 1, **sizes)
    with pytest.raises(ValueError, match="expected less than 1 together"):
        divide(160, validation=0.5, test=0.5)


@pytest.fixture(scope="module")
def fitted():
    """A forecaster of WAVE, its parts and its judgement."""
    parts = divide(len(WAVE), season=8)
    forecaster = Forecaster.create(Network(24, 8, hidden=8), WAVE[: parts.train], "wave", season=8, least=0.0)
    history = train(forecaster, WAVE, parts, Settings(epochs=30, lr=1e-2))
    return forecaster, parts, judge(forecaster, WAVE, parts), history


def test_a_trend_with_a_season_is_forecast_better_than_by_its_peers(fitted):
    forecaster, parts, judgement, _ = fitted
    assert sorted(judgement.by_name) == ["naive", "seasonal naive", "this model"]
    assert judgement.best_peer == "seasonal naive"
    assert judgement.ratio < 0.6  # the trend alone is 0.8 of the peer's error, which the model can learn
    actual = targets(WAVE, parts.origins, 8)
    assert judgement.by_name["this model"] == errors(judgement.forecasts, actual)
    below, above = (actual - judgement.forecasts).min(axis=0), (actual - judgement.forecasts).max(axis=0)
    assert (below <= forecaster.interval[:, 0]).all()
    assert (forecaster.interval[:, 1] <= above).all()


def test_held_out_rows_change_neither_the_model_nor_the_scales(fitted):
    forecaster, parts, _, history = fitted
    other = WAVE.copy()
    other[parts.test :] = 1e6
    again = Forecaster.create(Network(24, 8, hidden=8), other[: parts.train], "wave", season=8)
    assert train(again, other, parts, Settings(epochs=30, lr=1e-2)).loss == history.loss
    np.testing.assert_array_equal(again.model.params.flat, forecaster.model.params.flat)
    assert again.scaler.state()["offset"].tolist() == forecaster.scaler.state()["offset"].tolist()


def test_a_forecast_knows_nothing_after_its_origin_and_moves_with_the_level(fitted):
    forecaster, *_ = fitted
    origins = np.array([60, 90])
    expected = forecaster.predict(WAVE, origins)
    later = WAVE.copy()
    later[91:] = -1e3
    np.testing.assert_array_equal(forecaster.predict(later, origins), expected)
    # float64 sums in the scaling, float32 in the network: relative to values of about 1000
    np.testing.assert_allclose(forecaster.predict(WAVE + 1000, origins) - 1000, expected, atol=1e-2)
    with pytest.raises(ValueError, match=f"expected at least {forecaster.rows} values"):
        forecaster.predict(WAVE, [forecaster.rows - 2])


def test_no_forecast_is_below_the_least(fitted):
    forecaster, *_ = fitted
    assert (forecaster.predict(WAVE - 1000, [100]) == 0).all()


def test_the_base_is_the_mix_of_both_peers(fitted):
    forecaster, *_ = fitted
    s, z = forecaster.season, forecaster.scaler.transform(WAVE)[: forecaster.rows, np.newaxis]
    base = forecaster.base(z, np.array([s + 3]))[0, 0]
    last, of_season = z[s + 3, 0], z[s + 3 + 1 + np.arange(8) - s, 0]
    np.testing.assert_allclose(base, last + forecaster.share * (of_season - last), rtol=1e-12)
    assert (forecaster.share >= 0).all()
    assert (forecaster.share <= 1).all()


def test_a_file_gives_the_same_forecasts(fitted, tmp_path):
    forecaster, *_ = fitted
    path = tmp_path / "model.safetensors"
    forecaster.save(path)
    again = Forecaster.load(path)
    np.testing.assert_array_equal(again.predict(WAVE, [100]), forecaster.predict(WAVE, [100]))
    np.testing.assert_array_equal(again.interval, forecaster.interval)
    facts = ("column", "season", "step", "least", "network")
    assert [getattr(again, name) for name in facts] == [getattr(forecaster, name) for name in facts]


@pytest.mark.parametrize(
    "change", [{"share": [1.0]}, {"interval": [[1.0]]}, {"season": 0}, {"column": 3}, {"length": "x"}, {"scaler": None}]
)
def test_a_file_that_does_not_fit_together_is_refused(fitted, tmp_path, change):
    forecaster, *_ = fitted
    path = tmp_path / "model.safetensors"
    forecaster.save(path)
    facts = bptt.load_extra(path)["forecaster"]
    bptt.save(forecaster.model, path, extra={"forecaster": facts | change})
    with pytest.raises(ValueError, match=r"no usable forecaster.*expected a file from 'bptt forecast'"):
        Forecaster.load(path)
    bptt.save(bptt.Linear(2, 1), path)
    with pytest.raises(ValueError, match="is no forecaster, expected"):
        Forecaster.load(path)


def test_a_stop_keeps_the_best_weights(fitted):
    _, parts, _, history = fitted
    forecaster = Forecaster.create(Network(24, 8, hidden=8), WAVE[: parts.train], "wave", season=8)
    stop = 3 * len(history) // 30 + 1  # in the fourth epoch

    def on_step(step):
        if step.number == stop:
            raise bptt.StopTraining

    stopped = train(forecaster, WAVE, parts, Settings(epochs=30, lr=1e-2), on_step=on_step)
    assert stopped.stopped
    assert len(stopped.validation) == 3
    best = min(range(3), key=lambda k: stopped.validation[k].loss)
    until = Forecaster.create(Network(24, 8, hidden=8), WAVE[: parts.train], "wave", season=8)

    def at_best(step):
        if step.number == (best + 1) * len(history) // 30:
            raise bptt.StopTraining

    train(until, WAVE, parts, Settings(epochs=30, lr=1e-2), on_step=at_best)
    np.testing.assert_array_equal(until.model.params.flat, forecaster.model.params.flat)


def test_a_constant_series_is_refused():
    values = np.full(100, 5.0)
    parts = divide(100)
    forecaster = Forecaster.create(Network(parts.length, parts.horizon), values[: parts.train], "c")
    with pytest.raises(ValueError, match="has the one value 5, expected a series that varies"):
        train(forecaster, values, parts)
