# SPDX-License-Identifier: Apache-2.0
"""bptt.data with frames of pandas and polars; skipped where narwhals or the frame's library is not installed."""

from __future__ import annotations

import datetime
import importlib
import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.data import Scaler, split, windows

LIBRARIES = ("pandas", "polars")
COLUMNS = {"load": np.arange(12.0) ** 2, "wind": np.linspace(0, 1, 12, dtype=np.float32), "day": np.arange(12) % 7}


@pytest.fixture(params=LIBRARIES)
def frames(request: Any) -> Any:
    pytest.importorskip("narwhals")
    return pytest.importorskip(request.param)


def values() -> Any:
    return np.stack([np.asarray(column, np.float64) for column in COLUMNS.values()], axis=1)


def test_a_frame_is_its_columns(frames: Any) -> None:
    frame = frames.DataFrame(COLUMNS)
    for got, expected in zip(windows(frame, 3, 2), windows(values(), 3, 2), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.float64
    target = windows(frame, 3, 2, target=frame["load"])[1]
    np.testing.assert_array_equal(target, windows(values(), 3, 2, target=COLUMNS["load"])[1])
    assert windows(frame[["wind"]], 3, 2)[0].dtype == np.float32
    assert windows(frames.DataFrame({"on": [True, False, True]}), 1, 1)[1].tolist() == [[0], [1]]


def test_a_split_gives_frames(frames: Any) -> None:
    train, last = split(frames.DataFrame(COLUMNS), 0.25, gap=1)
    assert type(train) is type(last) is frames.DataFrame
    assert train["day"].to_list() == (np.arange(8) % 7).tolist()
    assert last["load"].to_list() == [81, 100, 121]
    assert split(frames.Series([1, 2, 3]), 1)[1].to_list() == [3]


def test_a_scaler_knows_the_columns(frames: Any, tmp_path: Any) -> None:
    frame = frames.DataFrame(COLUMNS)
    scaler = Scaler().fit(frame)
    assert scaler.columns == ("load", "wind", "day")
    np.testing.assert_array_equal(scaler.transform(frame), Scaler().fit(values()).transform(values()))
    np.testing.assert_array_equal(scaler.transform(values()), scaler.transform(frame))
    bptt.save(bptt.GRU(3, 2), tmp_path / "model", extra=scaler.state())
    again = Scaler.from_state(bptt.load_extra(tmp_path / "model"))
    with pytest.raises(
        ValueError, match=r"^Scaler.transform: series has columns \['day', 'load', 'wind'\], expected \['lo"
    ):
        again.transform(frame[["day", "load", "wind"]])
    with pytest.raises(ValueError, match=r"^Scaler.transform: series has shape \(12, 2\), expected \(\.\.\., 3\)"):
        again.transform(values()[:, :2])


def test_missing_values_are_named_by_column(frames: Any) -> None:
    for column in ([1, 2, None, 4, 5], [1.0, 2.0, None, 4.0, 5.0], [1.0, 2.0, float("nan"), 4.0, 5.0]):
        frame = frames.DataFrame({"day": [1, 2, 3, 4, 5], "load": column})
        with pytest.raises(
            ValueError, match=r"^windows: series has 1 missing value, the first in row 2, column 'load'"
        ):
            windows(frame, 1, 1)
        assert windows(frame, 1, 1, missing="drop")[0][0].tolist() == [[1, 1], [4, 4]]
        assert windows(frame, 1, 1, missing="previous")[0][0, :, 1].tolist() == [1, 2, 2, 4]
        with pytest.raises(
            ValueError, match=r"^Scaler.fit: series has 1 missing value, the first in row 2, column 'load'"
        ):
            Scaler().fit(frame)
        assert Scaler("minmax", missing="ignore").fit(frame).scale.tolist() == [4, 4]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"^windows: series has no value in row 0, column 'a', expected one to go on"):
        windows(frames.DataFrame({"a": [None, 2.0]}), 1, 1, missing="previous")


def test_columns_that_are_not_numbers_are_named(frames: Any) -> None:
    day = datetime.datetime(2026, 1, 1)
    for name, column in (("name", ["a", "b"]), ("date", [day, day]), ("span", [day - day] * 2)):
        frame = frames.DataFrame({"load": [1.0, 2.0], name: column})
        for function in (lambda x: windows(x, 1, 1), Scaler().fit):
            with pytest.raises(TypeError, match=rf"column '{name}' of series has dtype .*, expected numbers: drop it"):
                function(frame)
    with pytest.raises(ValueError, match=r"^windows: series is a frame without columns, expected at least one"):
        windows(frames.DataFrame({}), 1, 1)
    with pytest.raises(ValueError, match=r"^windows: series has shape \(0, 1\), expected \(T,\) or \(T, F\)"):
        windows(frames.DataFrame({"a": np.zeros(0)}), 1, 1)


def test_nullable_and_lazy_frames() -> None:
    pytest.importorskip("narwhals")
    pandas, polars = (pytest.importorskip(name) for name in LIBRARIES)
    nullable = pandas.DataFrame({"a": pandas.array([1, None, 3], dtype="Int64")})
    assert windows(nullable, 1, 1, missing="previous")[0].tolist() == [[[1], [1]]]
    with pytest.raises(
        TypeError, match=r"^windows: series has type polars LazyFrame, expected a frame in memory, such"
    ):
        windows(polars.LazyFrame({"a": [1.0]}), 1, 1)


def test_a_frame_without_narwhals_says_what_to_install(monkeypatch: Any) -> None:
    foreign = type("DataFrame", (), {"__module__": "pandas.core.frame"})()
    monkeypatch.setitem(sys.modules, "narwhals.stable.v1", None)
    for function in (lambda x: windows(x, 1, 1), split, Scaler().fit):
        with pytest.raises(ImportError, match=re.escape("expected `pip install 'bptt[data]'`, or an array")) as caught:
            function(foreign)
        assert len(str(caught.value)) < 200


def test_neither_bptt_nor_its_data_imports_a_library_of_frames() -> None:
    code = "import sys, json, bptt.data; bptt.data.windows([1, 2, 3], 2, 1); print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"narwhals", *LIBRARIES} & {*json.loads(done.stdout)}
    assert importlib.import_module("bptt.data").windows is windows
