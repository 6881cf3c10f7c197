# SPDX-License-Identifier: Apache-2.0
"""The forms of batches that fit takes: one pair, lists of sequences, and outputs without a time axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import Batch, losses
from runs import DATA, HELD, RNG, B, T, assert_same_run, fitted, model_of


def test_one_pair_is_one_batch() -> None:
    x, target = DATA[0]
    mask = RNG.random((T, B)) < 0.5
    assert_same_run(fitted((x, target), epochs=2), fitted([(x, target)], epochs=2))
    assert_same_run(fitted((x, target, mask)), fitted([(x, target, mask)]))
    assert_same_run(fitted(Batch(x, target, [6, 2, 3, 4])), fitted([Batch(x, target, [6, 2, 3, 4])]))
    assert_same_run(fitted(tuple(DATA)), fitted(DATA))
    assert_same_run(fitted(validation=HELD[0]), fitted(validation=[HELD[0]]))


LENGTHS = (6, 2, 4, 1)


def sequences(batch_first: bool = False) -> tuple[list[NDArray[Any]], list[NDArray[Any]], Batch]:
    """The first batch as rows of these lengths, and padded."""
    x, target = (np.array(each) for each in DATA[0])
    rows = [[each[:n, b].copy() for b, n in enumerate(LENGTHS)] for each in (x, target)]
    for each in (x, target):
        for b, n in enumerate(LENGTHS):
            each[n:, b] = 0
    if batch_first:
        x, target = x.swapaxes(0, 1).copy(), target.swapaxes(0, 1).copy()
    return rows[0], rows[1], Batch(x, target, LENGTHS)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("tbptt", [None, 4])
def test_lists_of_sequences_are_padded_rows_with_lengths(batch_first: bool, tbptt: Any) -> None:
    x, target, padded = sequences(batch_first)
    for rows in ((x, target), [x, target], Batch(tuple(x), target)):
        got = fitted([rows], model_of(batch_first=batch_first), tbptt=tbptt)
        assert_same_run(got, fitted([padded], model_of(batch_first=batch_first), tbptt=tbptt))
    resets = [RNG.random(n) < 0.4 for n in LENGTHS]
    mask = [RNG.random(n) < 0.7 for n in LENGTHS]
    mask[0][0] = True
    whole: dict[str, Any] = {}
    for name, parts in (("resets", resets), ("mask", mask)):
        whole[name] = np.zeros((T, B), bool)
        for b, part in enumerate(parts):
            whole[name][: len(part), b] = part
        whole[name] = whole[name].T if batch_first else whole[name]
    got = fitted([Batch(x, target, None, resets, mask)], model_of(batch_first=batch_first), tbptt=tbptt)
    assert_same_run(got, fitted([padded._replace(**whole)], model_of(batch_first=batch_first), tbptt=tbptt))


def test_sequences_of_one_length_are_rows_too() -> None:
    x, target = DATA[0]
    rows = [list(each.swapaxes(0, 1)) for each in (x, target)]
    assert_same_run(fitted([tuple(rows)]), fitted([Batch(x, target, [T] * B)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": sequences()[1][:3]}, "target has length 3, expected a list of 4 sequences, as x is one"),
        ({"target": DATA[0][1]}, "target has type ndarray, expected a list of 4 sequences"),
        (
            {"target": [0, 1, 1, 0]},
            "target has numbers, expected a list of 4 sequences, .* one y for each row: bptt.Last",
        ),
        ({"target": [each[:1] for each in sequences()[1]]}, r"target 0 has shape \(1, 2\), expected \(6, 2\)"),
        ({"x": [*sequences()[0][:3], np.ones((1, 9))]}, r"x 3 has shape \(1, 9\), expected \(1, 3\)"),
        ({"lengths": [1, 1, 1, 1]}, "lengths is given with a list of sequences, expected one of them"),
        ({"x": [np.ones((0, 3))] * 4, "target": [np.ones((0, 2))] * 4}, r"x has shape \(0, 4, 3\), expected at least"),
    ],
)
def test_wrong_lists_of_sequences_are_named(change: dict[str, Any], message: str) -> None:
    x, target, _ = sequences()
    with pytest.raises(ValueError, match=f"^fit: {message}") as caught:
        fitted([Batch(x, target)._replace(**change)])
    assert len(str(caught.value)) < 200


def test_lists_that_may_be_one_batch_or_several_are_refused() -> None:
    """Two lists of two sequences would be two batches of wrong pairs."""
    x, target, _ = sequences()
    with pytest.raises(ValueError, match=r"^fit: batches has lists, .* expected bptt.data.batches, Batch\(x, t"):
        fitted((x[:2], target[:2]))
    one = [np.ones(5), np.ones(3)]  # without features
    with pytest.raises(ValueError, match=r"^fit: x has shape \(5, 2\), expected \(T, B, features\)"):
        fitted([(one, one)])


def test_an_output_without_a_time_axis_has_one_target_a_row_and_no_mask_of_lengths() -> None:
    def loss(y: Any, target: Any) -> Any:  # a mask would be a third argument
        shapes.append((y.shape, target.shape))
        return losses.mse(y, target)

    shapes: list[Any] = []
    model = bptt.Sequential(bptt.GRU(3, 2, seed=0, dtype="float64"), bptt.Last())
    target = RNG.standard_normal((B, 2))
    seen: list[int] = []
    x = sequences()[0]
    data = [Batch(DATA[0][0], target, [6, 6, 6, 6]), (DATA[0][0], target), (x, target)]
    _, history = fitted(data, model, loss=loss, validation=data, on_step=lambda step: seen.append(step.targets))
    assert seen == [B] * 3
    assert shapes == [((B, 2), (B, 2))] * 6
    assert len(history) == 3
    with pytest.raises(ValueError, match="model has one output for each row"):
        fitted(data, model, tbptt=2)


@pytest.mark.parametrize("count", [2, 3])
def test_one_batch_as_a_list_of_arrays_is_refused(count: int) -> None:
    x, target = DATA[0]
    arrays = [x, target, np.ones((T, B), bool)][:count]
    with pytest.raises(ValueError, match=r"^fit: batches is a list with arrays, .*expected a tuple \(x, target\)"):
        fitted(arrays)
    with pytest.raises(ValueError, match=r"^fit: validation is a list with arrays"):
        fitted([DATA[0]], validation=arrays)
    with pytest.raises(ValueError, match=r"^fit: batches is a list with arrays"):
        fitted([sequences()[0], np.zeros(B, int)])  # sequences, and a class for each
    assert_same_run(fitted([arrays]), fitted(tuple(arrays)))
