# SPDX-License-Identifier: Apache-2.0
"""bptt.data: padded and packed sequences; batches, their orders, and runs that are resumed."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import data
from bptt.data import batches, pack, pad, windows

NAN = float("nan")


def sequences(lengths: Any, F: int = 3) -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((length, F)).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("batch_first", [False, True])
def test_padded_sequences_are_those_given(batch_first: bool) -> None:
    given = sequences([3, 0, 5, 1])
    array, lengths = pad(given, batch_first=batch_first)
    rows = array if batch_first else array.swapaxes(0, 1)
    assert (rows.shape, rows.dtype, lengths.tolist()) == ((4, 5, 3), np.float32, [3, 0, 5, 1])
    for row, sequence in zip(rows, given, strict=True):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert not row[len(sequence) :].any()


def test_sequences_of_every_kind() -> None:
    ids, lengths = pad([[4, 5], [6]])
    assert (ids.dtype.kind, ids.tolist(), lengths.dtype) == ("i", [[4, 6], [5, 0]], np.int64)
    assert pad([[1, 2], [0.5]])[0].dtype == np.float64
    assert pad([[], [3]])[0].dtype.kind == "i"
    assert pad([np.zeros((0, 2), np.float32)])[0].shape == (0, 1, 2)
    assert pad([np.zeros((2, 3, 4))])[0].shape == (2, 1, 3, 4)
    for function in (pad, pack):
        name = function.__name__
        for wrong, error, message in (
            ([], ValueError, "sequences has length 0, expected at least one"),
            (np.zeros((2, 3)), TypeError, "sequences has type ndarray, expected a list of arrays"),
            ([np.zeros((2, 3)), np.zeros((2, 4))], ValueError, r"sequences\[1\] has shape \(2, 4\), expected \(T, 3\)"),
            ([np.zeros(2), 3.0], ValueError, r"sequences\[1\] has shape \(\), expected \(T,\)"),
            ([["a"]], TypeError, r"sequences\[0\] has dtype <U1, expected real numbers"),
            ([[1.0], [NAN, 1.0]], ValueError, r"sequences\[1\] has missing values \(NaN\), expected none"),
        ):
            with pytest.raises(error, match=f"^{name}: {message}"):
                function(wrong)
    with pytest.raises(ValueError, match=r"^pack: sequence 1 has no steps, expected at least one, or pad\(\)"):
        pack(sequences([2, 0]))


@pytest.mark.parametrize("lengths", [[3, 1, 5, 3], [5, 3, 3, 1], [2], [1, 2, 3, 4, 5, 6, 7]])
def test_packed_sequences_give_what_padded_ones_give(lengths: list[int]) -> None:
    given = sequences(lengths)
    rows = pack(given)
    assert (rows.sorted_indices is None) == (sorted(lengths, reverse=True) == lengths)
    lstm = bptt.LSTM(3, 6, num_layers=2, bidirectional=True, seed=0)
    array, counts = pad(given)
    y, state, tape = lstm.forward(rows)
    expected, final, other = lstm.forward(array, lengths=counts)
    for a, b in zip(state, final, strict=True):
        np.testing.assert_array_equal(a, b)  # in the order given
    padded_y = pack([expected[:length, b] for b, length in enumerate(lengths)])
    np.testing.assert_array_equal(y.data, padded_y.data)
    dx, _, grads = lstm.backward(tape, y)
    dexpected, _, others = lstm.backward(other, expected)
    np.testing.assert_array_equal(dx.data, pack([dexpected[:n, b] for b, n in enumerate(lengths)]).data)
    np.testing.assert_allclose(grads.flat, others.flat, rtol=1e-4, atol=1e-5)  # sums in another order of rows
    ids = pack([[1, 2], [3]])
    assert ids.data.tolist() == [1, 3, 2]


def all_of(made: Any) -> list[Any]:
    return [batch.target[..., 0].reshape(-1).tolist() for batch in made]


def rows_of(N: int) -> tuple[Any, Any]:
    """x and target that say which row they are."""
    x = np.broadcast_to(np.arange(N, dtype=np.float32)[:, None], (4, N, 2))
    return x, np.arange(N)[:, np.newaxis]


@pytest.mark.parametrize("N", [1, 5, 12])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_have_every_row_once(N: int, drop_last: bool) -> None:
    x, target = rows_of(N)
    if drop_last and N < 5:
        with pytest.raises(
            ValueError, match="x has 1 rows, which drop_last leaves out, expected at least batch_size, 5"
        ):
            batches(x, target, 5, drop_last=True)
        return
    for shuffle in (False, True):
        made = batches(x, target, 5, shuffle=shuffle, seed=0, drop_last=drop_last)
        assert len(made) == (N // 5 if drop_last else -(-N // 5))
        for _ in range(2):
            found = [*made]
            assert len(found) == len(made)
            for batch in found:
                assert isinstance(batch, bptt.Batch)
                assert batch.x.flags.c_contiguous
                np.testing.assert_array_equal(batch.x[0, :, 0], batch.target[:, 0])
            rows = sorted(int(row) for batch in found for row in batch.target[:, 0])
            assert len({*rows}) == len(rows) == (N - N % 5 if drop_last else N)
            if not shuffle:
                assert rows == [int(row) for batch in found for row in batch.target[:, 0]]


def test_orders_are_those_of_the_seed_and_the_epoch() -> None:
    x, target = rows_of(40)
    first, twin, other = (batches(x, target, 7, shuffle=True, seed=seed) for seed in (3, 3, 4))
    epochs = [all_of(first) for _ in range(3)]
    assert epochs == [all_of(twin) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    assert all_of(other) != epochs[0]
    assert all_of(batches(x, target, 7, shuffle=True)) != all_of(batches(x, target, 7, shuffle=True))
    plain = batches(x, target, 7)
    assert all_of(plain) == all_of(plain)


@pytest.mark.parametrize("options", [{"shuffle": True}, {}, {"shuffle": True, "bucket": True}, {"drop_last": True}])
def test_a_position_is_all_that_a_resumed_run_needs(options: dict[str, Any]) -> None:
    options = dict(options)
    x: Any
    x, target = rows_of(23)
    if options.pop("bucket", False):
        options["bucket_by_length"] = True
        x = sequences(np.random.default_rng(0).integers(1, 9, 23))
    whole = batches(x, target, 4, seed=5, **options)
    expected = [[*all_of(whole)] for _ in range(3)]
    flat = [batch for epoch in expected for batch in epoch]
    count = len(whole)
    for stop in (0, 1, 3, count, count + 2, 2 * count):
        run = batches(x, target, 4, seed=5, **options)
        seen: list[Any] = []
        state = run.state()
        while len(seen) < stop:
            for batch in run:
                seen.append(batch.target[..., 0].reshape(-1).tolist())
                state = run.state()
                if len(seen) == stop:
                    break
        state = json.loads(json.dumps(state))
        resumed = batches(x, target, 4, seed=99, **options)
        resumed.restore(state)
        assert resumed.state() == state
        rest: list[Any] = []
        while len(seen) + len(rest) < len(flat):
            rest += all_of(resumed)
        assert seen + rest == flat


def test_a_loop_that_was_left_is_followed_by_a_whole_epoch() -> None:
    x, target = rows_of(10)
    made = batches(x, target, 3, shuffle=True, seed=1)
    for _ in made:
        break
    assert len([*made]) == len(made) == 4
    assert "next: epoch 2, batch 0" in repr(made)


def test_a_state_of_other_batches_is_refused() -> None:
    x, target = rows_of(10)
    made = batches(x, target, 3, seed=1)
    state = made.state()
    for change, error, message in (
        ({"rows": 11}, ValueError, "state has rows 11, expected 10, as these"),
        ({"batch_size": 4}, ValueError, "state has batch_size 4, expected 3, as these"),
        ({"shuffle": True}, ValueError, "state has shuffle True, expected False, as these"),
        ({"batch": 4}, ValueError, "batch has value 4, expected an integer <= 3"),
        ({"epoch": -1}, ValueError, "epoch has value -1"),
        ({"seed": "x"}, TypeError, "seed has type str"),
    ):
        with pytest.raises(error, match=f"^Batches.restore: {message}"):
            made.restore(state | change)
        assert made.state() == state
    for wrong in ({}, 3, None):
        with pytest.raises(
            TypeError, match=r"^Batches.restore: state lacks an entry, expected seed, epoch, batch, rows"
        ):
            made.restore(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_sequences_are_padded_batch_by_batch(shuffle: bool, batch_first: bool) -> None:
    lengths = np.random.default_rng(2).integers(1, 200, 50).tolist()
    given, target = sequences(lengths), [array[:, :1] * 2 for array in sequences(lengths)]
    options: dict[str, Any] = {"shuffle": shuffle, "seed": 0, "batch_first": batch_first}
    padding = {}
    for bucket in (False, True):
        found = []
        total = 0
        for batch in batches(given, target, 4, bucket_by_length=bucket, **options):
            x, y = (part if batch_first else part.swapaxes(0, 1) for part in (batch.x, batch.target))
            counts = [x.shape[1]] * len(x) if batch.lengths is None else batch.lengths.tolist()
            assert x.shape[1] == max(counts)
            total += x.shape[0] * x.shape[1]
            for row, ends, length in zip(x, y, counts, strict=True):
                np.testing.assert_array_equal(ends[:length], row[:length, :1] * 2)
                assert not row[length:].any()
                found.append((length, float(row[0, 0])))
        assert sorted(found) == sorted((len(each), float(each[0, 0])) for each in given)
        padding[bucket] = total - sum(lengths)
    assert padding[True] < padding[False] / 3
    equal = next(iter(batches(sequences([4, 4]), [0, 1], 2)))
    assert equal.target.tolist() == [0, 1]
    assert equal.lengths is None


def test_layouts_of_targets() -> None:
    x = np.zeros((4, 6, 2), np.float32)
    for shape, axis in (((6,), 0), ((6, 5), 0), ((4, 6), 1), ((3, 6, 2), 1), ((6, 4), 0)):
        target = np.moveaxis(np.broadcast_to(np.arange(6), (*np.delete(shape, axis), 6)), -1, axis)
        batch = next(iter(batches(x, target, 2)))
        assert batch.target.shape == tuple(2 if k == axis else n for k, n in enumerate(shape))
        assert {*batch.target.reshape(-1).tolist()} == {0, 1}
    first = next(iter(batches(np.zeros((6, 4, 2)), np.zeros((6, 4)), 2, batch_first=True)))
    assert first.x.shape == (2, 4, 2)
    assert first.target.shape == (2, 4)
    square = np.arange(36).reshape(6, 6)
    with pytest.raises(ValueError, match=r"^batches: target has shape \(6, 6\) and x 6 rows: either axis could be"):
        batches(x, square, 2)
    assert next(iter(batches(x, square, 2, target_axis=0))).target.tolist() == square[:2].tolist()
    assert next(iter(batches(x, square, 2, target_axis=1))).target.tolist() == square[:, :2].tolist()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (np.zeros((4, 6)), np.zeros((5, 5)), 2),
            {},
            ValueError,
            "target has shape (5, 5), expected (6, ...) or (T, 6",
        ),
        (
            (np.zeros((6, 4)), np.zeros((4, 6)), 2),
            {"batch_first": True},
            ValueError,
            "target has shape (4, 6), expected",
        ),
        ((np.zeros((4, 6)), np.zeros(6), 2), {"target_axis": 1}, ValueError, "target has shape (6,), expected"),
        ((np.zeros((4, 6)), np.zeros(6), 2), {"target_axis": 2}, ValueError, "target_axis has value 2, expected an"),
        ((np.zeros(4), np.zeros(4), 2), {}, ValueError, "x has shape (4,), expected (T, N, ...)"),
        ((np.zeros((4, 0)), np.zeros(0), 2), {}, ValueError, "x has 0 rows, expected at least one"),
        ((np.full((4, 6), NAN), np.zeros(6), 2), {}, ValueError, "x has missing values (NaN), expected none"),
        ((np.zeros((4, 6)), np.full(6, NAN), 2), {}, ValueError, "target has missing values (NaN), expected none"),
        ((np.zeros((4, 6)), np.zeros(6), 0), {}, ValueError, "batch_size has value 0, expected an integer >= 1"),
        ((np.zeros((4, 6)), np.zeros(6), 2), {"shuffle": 1}, TypeError, "shuffle has type int, expected True or False"),
        ((np.zeros((4, 6)), np.zeros(6), 2), {"seed": -1}, ValueError, "seed has value -1, expected an integer >= 0"),
        (
            (np.zeros((4, 6)), np.zeros(6), 2),
            {"bucket_by_length": True},
            ValueError,
            "bucket_by_length is given with an",
        ),
        (([[1.0]], np.zeros(1), 2), {"target_axis": 0}, ValueError, "target_axis is given with a list of sequences"),
        (([], np.zeros(0), 2), {}, ValueError, "x has length 0, expected at least one"),
        (([[1.0]], np.zeros(2), 2), {}, ValueError, "target has shape (2,), expected (1, ...)"),
        (([[1.0]], [[1.0], [2.0]], 2), {}, ValueError, "target has length 2, expected 1, as x has"),
        (
            ([[1.0]], [[1.0, 2.0]], 2),
            {},
            ValueError,
            "target[0] has 2 steps, expected 1, as x[0] has; targets of whole",
        ),
    ],
)
def test_what_makes_no_batches(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^batches: {re.escape(message)}") as caught:
        batches(*arguments, **options)
    assert len(str(caught.value)) < 200


def test_batches_of_windows_copy_one_batch_at_a_time() -> None:
    """All windows together would be 8 TB."""
    series = np.zeros(1_000_000, np.float32)
    x, target = windows(series, 1000, 1, stride=1)
    assert x.shape == (1000, 999_000, 1)
    small = batches(x[:, :50], target[:50], 8)  # a check for missing values reads all that is given
    assert next(iter(small)).x.shape == (1000, 8, 1)


def test_a_run_that_is_resumed_ends_with_the_same_bits(tmp_path: Any) -> None:
    """Batches, masks and moments go through one file in the middle of an epoch."""
    series = np.sin(np.arange(200.0) / 5)
    x, target = windows(series, 20, 1, each_step=True)

    def run(steps: int, path: Any = None) -> Any:
        if path is None:
            model = bptt.Sequential(
                bptt.GRU(1, 6, zoneout=0.2, seed=0), bptt.Dropout(0.2, seed=1), bptt.Linear(6, 1, seed=2)
            )
            feed = batches(x, target, 32, shuffle=True, seed=3)
        else:
            model, feed = bptt.load(path), batches(x, target, 32, shuffle=True)
            feed.restore(bptt.load_extra(path)["batches"])
        sgd = bptt.optim.SGD(0.05)
        bptt.fit(model, feed, loss=bptt.losses.mse, optimizer=sgd, epochs=9, max_steps=steps)
        bptt.save(model, tmp_path / "model", extra={"batches": feed.state()})
        return model

    whole = run(14)
    run(8)
    np.testing.assert_array_equal(run(6, tmp_path / "model").params.flat, whole.params.flat)


def test_public_names() -> None:
    assert bptt.data is data
    assert "data" in dir(bptt)
