# SPDX-License-Identifier: Apache-2.0
"""bptt.data without frames: windows, the split in time, the scaler."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.data import Scaler, split, windows

NAN = float("nan")


def table(T: int, F: int, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(T * 100 + F).standard_normal((T, F)).astype(dtype)


def looped(x: Any, y: Any, length: int, horizon: int, stride: int, each_step: bool) -> tuple[Any, Any]:
    """Windows and targets as the definition says, one by one: [N,length,F], [N,(length,)horizon*K]."""
    xs, ys = [], []
    for s in range(0, len(x) - length - horizon + 1, stride):
        xs.append(x[s : s + length])
        ends = range(s + 1, s + length + 1) if each_step else [s + length]
        ahead = [y[e : e + horizon].reshape(-1) for e in ends]
        ys.append(ahead if each_step else ahead[0])
    return np.array(xs), np.array(ys)


@pytest.mark.parametrize("each_step", [False, True])
@pytest.mark.parametrize(("length", "horizon", "stride"), [(1, 1, 1), (4, 1, 1), (4, 3, 2), (5, 8, 3), (6, 7, 50)])
@pytest.mark.parametrize(("F", "K"), [(1, 1), (3, 3), (3, 2)])
def test_windows_are_those_of_the_definition(
    length: int, horizon: int, stride: int, F: int, K: int, each_step: bool
) -> None:
    for dtype in (np.float32, np.float64):
        series, target = table(13, F, dtype), table(13, K, dtype)
        given = None if F == K else target
        expected = looped(series, series if given is None else target, length, horizon, stride, each_step)
        options: dict[str, Any] = {"stride": stride, "target": given, "each_step": each_step}
        x, y = windows(series, length, horizon, batch_first=True, **options)
        np.testing.assert_array_equal(x, expected[0])
        np.testing.assert_array_equal(y, expected[1])
        assert x.dtype == y.dtype == dtype
        turned, y = windows(series, length, horizon, **options)
        np.testing.assert_array_equal(turned.swapaxes(0, 1), expected[0])
        np.testing.assert_array_equal(y.swapaxes(0, 1) if each_step else y, expected[1])


def test_windows_are_read_only_views_where_that_can_be() -> None:
    series = table(1000, 2)
    for each_step in (False, True):
        for each in windows(series, 20, 5, each_step=each_step):
            assert np.shares_memory(each, series)
            assert not each.flags.writeable
    x, _ = windows(series[::2], 20, 5)
    np.testing.assert_array_equal(x[:, 3], series[6:46:2])
    x, y = windows(np.arange(8), 3, 1)  # integers become float64, [T] one feature
    assert (x.dtype, x.shape, y.tolist()) == (np.float64, (3, 5, 1), [[3], [4], [5], [6], [7]])
    assert windows(np.arange(8, dtype=np.float16), 3, 1)[0].dtype == np.float32
    x, y = windows([[1, 2], [3, 4]], 1, 1)
    assert (x.tolist(), y.tolist()) == ([[[1, 2]]], [[3, 4]])


@pytest.mark.parametrize("each_step", [False, True])
def test_missing_values_of_windows(each_step: bool) -> None:
    series, target = table(12, 2), table(12, 1)
    series[5, 1] = target[9, 0] = NAN
    options: dict[str, Any] = {"target": target, "each_step": each_step, "batch_first": True}
    whole = looped(series, target, 3, 2, 1, each_step)
    keep = [not (np.isnan(a).any() or np.isnan(b).any()) for a, b in zip(*whole, strict=True)]
    assert 0 < sum(keep) < len(keep)
    dropped = windows(series, 3, 2, missing="drop", **options)
    for got, expected in zip(dropped, whole, strict=True):
        np.testing.assert_array_equal(got, expected[keep])
    filled, ends = series.copy(), target.copy()
    filled[5, 1], ends[9, 0] = filled[4, 1], ends[8, 0]
    before = series.copy()
    for got, expected in zip(
        windows(series, 3, 2, missing="previous", **options), looped(filled, ends, 3, 2, 1, each_step), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(series, before)
    with pytest.raises(
        ValueError, match=r"^windows: series has 1 missing value, the first in row 5, column 1, expected"
    ):
        windows(series, 3, 2)
    series[5:9] = NAN
    with pytest.raises(ValueError, match=r"^windows: series has 8 missing values, the first in row 5, column 0, expec"):
        windows(series, 3, 2)
    with pytest.raises(ValueError, match=r"^windows: target has 1 missing value, the first in row 9, column 0"):
        windows(table(12, 2), 3, 2, target=target)
    with pytest.raises(ValueError, match=r"^windows: every window has a missing value, expected one without"):
        windows(series, 5, 4, missing="drop")
    series[0, 1] = NAN
    with pytest.raises(
        ValueError, match=r"^windows: series has no value in row 0, column 1, expected one to go on from"
    ):
        windows(series, 3, 2, missing="previous")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros(5), 4, 2), {}, ValueError, "series has 5 steps, expected at least length + horizon, 6"),
        ((np.zeros((0, 2)), 1, 1), {}, ValueError, "series has shape (0, 2), expected (T,) or (T, F), and at least"),
        ((np.zeros((9, 0)), 1, 1), {}, ValueError, "series has shape (9, 0), expected (T,) or (T, F)"),
        (([], 1, 1), {}, ValueError, "series has shape (0,), expected (T,) or (T, F)"),
        ((3.0, 1, 1), {}, ValueError, "series has shape (), expected (T,) or (T, F)"),
        ((np.zeros((2, 2, 2)), 1, 1), {}, ValueError, "series has shape (2, 2, 2), expected (T,) or (T, F)"),
        ((np.array(["a", "b"]), 1, 1), {}, TypeError, "series has dtype <U1, expected real numbers"),
        ((np.zeros(3, complex), 1, 1), {}, TypeError, "series has dtype complex128, expected real numbers"),
        ((np.zeros(9), 0, 1), {}, ValueError, "length has value 0, expected an integer >= 1"),
        ((np.zeros(9), 1, 0), {}, ValueError, "horizon has value 0, expected an integer >= 1"),
        ((np.zeros(9), 1, 1, 0), {}, ValueError, "stride has value 0, expected an integer >= 1"),
        ((np.zeros(9), 1.5, 1), {}, TypeError, "length has type float, expected an integer"),
        ((np.zeros(9), 10**30, 1), {}, ValueError, "length has value 1000000000000000000000000000000, expected"),
        ((np.zeros(9), 1, 1), {"target": np.zeros(8)}, ValueError, "target has shape (8, 1), expected 9 rows"),
        ((np.zeros(9), 1, 1), {"missing": "skip"}, ValueError, "missing has value 'skip', expected None, 'drop' or"),
        ((np.zeros(9), 1, 1), {"each_step": 1}, TypeError, "each_step has type int, expected True or False"),
    ],
)
def test_what_has_no_windows(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^windows: {re.escape(message)}") as caught:
        windows(*arguments, **options)
    assert len(str(caught.value)) < 200


def test_a_split_has_no_step_twice_and_keeps_the_gap() -> None:
    series = table(100, 2)
    for validation, gap, sizes in ((0.2, 0, (80, 20)), (0.25, 5, (70, 25)), (7, 3, (90, 7)), (1e-9, 0, (99, 1))):
        train, last = split(series, validation, gap)
        assert (len(train), len(last)) == sizes
        np.testing.assert_array_equal(train, series[: sizes[0]])
        np.testing.assert_array_equal(last, series[100 - sizes[1] :])
        assert np.shares_memory(train, series)
    steps = np.arange(60.0)
    train, last = split(steps, 0.3, gap=4)
    seen = {value for part in windows(train, 5, 2) for value in part.reshape(-1)}
    checked = {value for part in windows(last, 5, 2) for value in part.reshape(-1)}
    assert min(checked) - max(seen) == 5
    assert split([1, 2], 1)[1].tolist() == [2]
    for arguments, error, message in (
        ((np.zeros(1),), ValueError, "series has 1 steps, of which validation takes 1 and gap 0, expected at least"),
        ((np.zeros(10), 0.5, 5), ValueError, "series has 10 steps, of which validation takes 5 and gap 5"),
        ((np.zeros(10), 0.0), ValueError, "series has 10 steps, of which validation takes 0 and gap 0"),
        ((np.zeros(10), 1.0), ValueError, "validation has value 1.0, expected 0 <= validation < 1"),
        ((np.zeros(10), NAN), ValueError, "validation has value nan"),
        ((np.zeros(10), 0), ValueError, "validation has value 0, expected an integer >= 1"),
        ((np.zeros(10), True), TypeError, "validation has type bool, expected an integer"),
        ((np.zeros(10), 0.2, -1), ValueError, "gap has value -1"),
        ((3,), ValueError, r"series has shape \(\), expected \(T, ...\)"),
    ):
        with pytest.raises(error, match=f"^split: {message}"):
            split(*arguments)


@pytest.mark.parametrize("kind", ["standard", "minmax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_scaler_scales_each_feature_and_back(kind: str, dtype: Any) -> None:
    series = (table(500, 3) * [1e-3, 1.0, 1e6] + [5.0, 0.0, -1e7]).astype(dtype)
    scaler = Scaler(kind).fit(series)
    exact = series.astype(np.float64)
    if kind == "standard":
        offset, scale = exact.mean(axis=0), exact.std(axis=0)
    else:
        offset, scale = exact.min(axis=0), np.ptp(exact, axis=0)
    # Sums of 500 terms: each has a relative error below 500 eps of its terms' size, which is at most |offset| + range.
    eps = 500 * np.finfo(np.float64).eps * (np.abs(exact).max(axis=0) + np.ptp(exact, axis=0))
    assert (np.abs(scaler.offset - offset) <= eps).all()
    assert (np.abs(scaler.scale - scale) <= eps).all()
    scaled = scaler.transform(series)
    assert scaled.dtype == dtype
    assert scaled.shape == series.shape
    exact_scaled = (exact - scaler.offset) / scaler.scale
    np.testing.assert_array_equal(scaled, exact_scaled.astype(dtype))
    # Rounding of the scaled value, at most 4 ulp of |scaled| <= 6, comes back times the scale; then that of the result.
    bound = 8 * np.finfo(dtype).eps * (np.abs(exact).max(axis=0) + 6 * scaler.scale)
    assert (np.abs(scaler.inverse(scaled).astype(np.float64) - exact) <= bound).all()
    x, target = windows(scaled, 4, 3)
    assert scaler.transform(windows(series, 4, 3)[0]).shape == x.shape
    back = scaler.inverse(target)
    assert back.shape == target.shape
    np.testing.assert_array_equal(back.reshape(-1, 3, 3), scaler.inverse(target.reshape(-1, 3, 3)))
    empty = scaler.inverse(np.zeros((0, 6), dtype))
    assert (empty.shape, empty.dtype) == ((0, 6), dtype)


def test_one_feature_needs_no_axis() -> None:
    scaler = Scaler("minmax").fit([2, 4, 6])
    assert scaler.transform([4, 8]).tolist() == [0.5, 1.5]
    assert scaler.transform([[4], [8]]).tolist() == [[0.5], [1.5]]
    assert scaler.inverse([[0.5, 1.5]]).tolist() == [[4, 8]]
    assert float(scaler.inverse(0.5)) == 4


def test_features_of_one_value_and_of_extreme_ones() -> None:
    for kind in ("standard", "minmax"):
        scaler = Scaler(kind).fit(np.full((7, 1), 0.1))
        assert scaler.transform([[0.1], [1.1]]).tolist() == [[0], [1]]
        for size in (1e-300, 1e150, 8e307):
            scaled = Scaler(kind).fit([-size, size]).transform([-size, size])
            np.testing.assert_allclose(scaled, [-1, 1] if kind == "standard" else [0, 1], rtol=1e-15)
        for values in ([-1.7e308, 1.7e308], [1.0, np.inf]):
            with pytest.raises(ValueError, match=r"^Scaler.fit: series has values beyond float64 in column 0"):
                Scaler(kind).fit(values)


def test_missing_values_of_a_scaler() -> None:
    series = table(50, 2)
    series[3, 1] = series[9, 0] = NAN
    with pytest.raises(
        ValueError, match=r"^Scaler.fit: series has 2 missing values, the first in row 3, column 1, exp"
    ):
        Scaler().fit(series)
    for kind in ("standard", "minmax"):
        scaler = Scaler(kind, missing="ignore").fit(series)
        for k in range(2):
            alone = Scaler(kind).fit(series[~np.isnan(series[:, k]), k])
            np.testing.assert_allclose(scaler.offset[k], alone.offset[0], rtol=1e-14, atol=1e-14)  # another order
            np.testing.assert_allclose(scaler.scale[k], alone.scale[0], rtol=1e-14)
        np.testing.assert_array_equal(np.isnan(scaler.transform(series)), np.isnan(series))
        with pytest.raises(ValueError, match=r"^Scaler.transform: series has 2 missing values"):
            Scaler(kind).fit(table(50, 2)).transform(series)
        with pytest.raises(ValueError, match=r"^Scaler.fit: series has no value in column 1, expected at least one"):
            Scaler(kind, missing="ignore").fit([[1, NAN], [2, NAN]])


def test_a_scaler_goes_through_a_file_and_refuses_what_does_not_fit(tmp_path: Any) -> None:
    scaler = Scaler("minmax", missing="ignore").fit(table(20, 3))
    bptt.save(bptt.GRU(3, 4), tmp_path / "model", extra={"scaler": scaler.state()})
    again = Scaler.from_state(bptt.load_extra(tmp_path / "model")["scaler"])
    assert repr(again) == repr(scaler) == "Scaler('minmax', missing='ignore'; features=3)"
    np.testing.assert_array_equal(again.transform(table(9, 3)), scaler.transform(table(9, 3)))
    state = scaler.state()
    for wrong in (
        {}, state | {"more": 1}, state | {"scale": np.ones(2)}, state | {"scale": np.zeros(3)},
        state | {"kind": "robust"}, state | {"offset": [NAN] * 3},
        state | {"columns": ["a"]}, state | {"offset": [], "scale": []}, [],
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^Scaler(.from_state)?: (state|kind) has "):
            Scaler.from_state(wrong)  # type: ignore[arg-type]
    for method in ("transform", "inverse"):
        with pytest.raises(
            RuntimeError, match=rf"^Scaler.{method}: the scaler has no offset and scale yet, expected fit"
        ):
            getattr(Scaler(), method)([1.0])
        with pytest.raises(
            ValueError, match=rf"^Scaler.{method}: (series|values) has shape \(2, 4\), expected \(\.\.\., "
        ):
            getattr(scaler, method)(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"^Scaler: kind has value 'robust', expected 'standard' or 'minmax'"):
        Scaler("robust")
    with pytest.raises(ValueError, match=r"^Scaler: missing has value 'drop', expected None or 'ignore'"):
        Scaler(missing="drop")
    for empty in ([], np.zeros((0, 3)), 1.0):
        with pytest.raises(ValueError, match=r"^Scaler.fit: series has shape .* expected at least one value"):
            Scaler().fit(empty)
