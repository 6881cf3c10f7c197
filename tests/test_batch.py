# SPDX-License-Identifier: Apache-2.0
"""Batches of fit with lengths, resets, masks and packed rows: against the loop written out, and each row alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import Batch, losses, optim

T, B, I = 7, 4, 2  # noqa: E741
LENGTHS = np.array([3, 7, 1, 5])
INSIDE = np.arange(T)[:, None] < LENGTHS  # [T,B]
RESETS = np.random.default_rng(1).random((T, B)) < 0.3
HOLES = INSIDE & (np.random.default_rng(2).random((T, B)) < 0.7)  # counts in the loss; no padding mask
SCATTERED = HOLES.copy()
SCATTERED[-1] = True  # no row looks padded


def model_of(*, both: bool = True, batch_first: bool = False) -> bptt.Sequential:
    options: dict[str, Any] = {"dtype": "float64", "seed": 1, "batch_first": batch_first}
    gru = bptt.GRU(I, 3, num_layers=2, bidirectional=both, **options)
    lstm = bptt.LSTM(6 if both else 3, 3, **options)
    return bptt.Sequential(gru, lstm, bptt.Linear(3, 1, dtype="float64", seed=2))


def arrays(padding: float = 0.0, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    x, target = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, 1))
    x[~INSIDE] = target[~INSIDE] = padding
    return x, target


def fitted(model: Any, batches: Any, lr: float = 0.1, **options: Any) -> tuple[list[float], NDArray[Any]]:
    options = {"loss": losses.mse, "optimizer": optim.SGD(lr), **options}
    return bptt.fit(model, batches, **options).loss, model.params.flat.copy()


def by_hand(model: Any, x: Any, target: Any, lengths: Any, resets: Any, mask: Any) -> tuple[list[float], Any]:
    """One update."""
    y, _, tape = model.forward(x, None, lengths, resets)
    value, dy = losses.mse(y, target, mask)
    optim.SGD(0.1).step(model.params, model.backward(tape, dy)[2])
    return [value], model.params.flat.copy()


def assert_same(got: tuple[list[float], Any], expected: tuple[list[float], Any]) -> None:
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"lengths": LENGTHS},
        {"lengths": LENGTHS.tolist(), "resets": RESETS},
        {"lengths": LENGTHS, "mask": HOLES},
        {"lengths": LENGTHS, "mask": np.ones((T, B), bool)},
        {"resets": RESETS},
        {"mask": SCATTERED},
        {"lengths": [T] * B, "mask": INSIDE},
        {"resets": RESETS, "mask": SCATTERED},
    ],
)
def test_lengths_resets_and_masks_reach_layers_and_loss(both: bool, fields: dict[str, Any]) -> None:
    x, target = arrays()
    lengths, resets = (fields.get(name) for name in ("lengths", "resets"))
    mask = fields.get("mask")
    if lengths is not None:
        inside = np.arange(T)[:, None] < np.asarray(lengths)
        mask = inside if mask is None else inside & mask
    expected = by_hand(model_of(both=both), x, target, lengths, resets, mask)
    assert_same(fitted(model_of(both=both), [Batch(x, target, **fields)]), expected)
    turned = {name: np.transpose(value) if name != "lengths" else value for name, value in fields.items()}
    model = model_of(both=both, batch_first=True)
    got = fitted(model, [Batch(x.swapaxes(0, 1), target.swapaxes(0, 1), **turned)])
    tolerance = 64 * np.finfo(np.float64).eps  # the loss and gradients of a bias add up 28 terms in another order
    np.testing.assert_allclose(got[0], expected[0], rtol=tolerance)
    np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("fields", [{"lengths": LENGTHS}, {"mask": INSIDE}, {"lengths": LENGTHS, "mask": HOLES}])
def test_padding_does_not_reach_a_bidirectional_model(fields: dict[str, Any]) -> None:
    results = [fitted(model_of(), [Batch(*arrays(padding), **fields)], epochs=3) for padding in (0.0, 100.0, np.nan)]
    for other in results[1:]:
        assert_same(other, results[0])


def test_a_plain_mask_of_padding_gives_the_lengths() -> None:
    """A reported fault: the first losses depended on the contents of the padding."""
    for rows in (np.array([5, 3]), np.array([5, 0]), np.array([5, 5])):
        mask = np.arange(5)[:, None] < rows
        results = []
        for padding in (0.0, 100.0):
            x, target = np.random.default_rng(0).standard_normal((5, 2, 2)), np.ones((5, 2, 1))
            x[~mask] = padding
            model = bptt.Sequential(bptt.GRU(2, 4, bidirectional=True, seed=0), bptt.Linear(8, 1, seed=1))
            y = model(x, lengths=rows)[0]
            results.append(fitted(model, [(x, target, mask)]))
            assert results[-1][0] == [losses.mse(y, target, mask)[0]]
        assert_same(*results)


@pytest.mark.parametrize("both", [True, False])
def test_a_mask_that_is_no_padding_hides_steps_from_the_loss_alone(both: bool) -> None:
    x, target = arrays()
    for mask in (SCATTERED, INSIDE[::-1], np.ones((T, B), bool)):
        expected = by_hand(model_of(both=both), x, target, None, None, mask)
        assert_same(fitted(model_of(both=both), [(x, target, mask)]), expected)
    if not both:  # a row's last steps cannot reach the steps before
        assert_same(
            fitted(model_of(both=both), [(x, target, INSIDE)]),
            by_hand(model_of(both=both), x, target, None, None, INSIDE),
        )


@pytest.mark.parametrize("tbptt", [2, 3, (2, 5), (1, 7), (3, 100)])
@pytest.mark.parametrize("stateful", [True, False])
def test_chunks_of_ragged_rows_are_those_of_whole_rows(tbptt: Any, stateful: bool) -> None:
    """Without learning, each chunk's loss is that of these steps in a whole pass; a row that ended keeps its state."""
    data = [arrays(9.0, seed) for seed in (0, 1)]
    orders = ([0, 1, 2, 3], [1, 3, 0, 2])
    batches = [Batch(*each, LENGTHS[order], RESETS) for each, order in zip(data, orders, strict=True)]
    got, _ = fitted(model_of(both=False), batches, 0.0, tbptt=tbptt, stateful=stateful)
    model, state, expected = model_of(both=False), None, []
    k = tbptt if isinstance(tbptt, int) else tbptt[0]
    for x, target, lengths, resets, _ in batches:
        y, after = model(x, state if stateful else None, lengths, resets)
        state = after
        inside = np.arange(T)[:, None] < lengths
        for at in (slice(start, start + k) for start in range(0, T, k)):
            expected.append(losses.mse(y[at], target[at], inside[at])[0])
    assert got == expected


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 5), (5, 6)])
def test_updates_of_ragged_chunks_are_their_windows(k1: int, k2: int) -> None:
    x, target = arrays(9.0)
    mask = HOLES.copy()
    mask[3:6] = False  # a chunk without a step that counts, where k1 = 3
    got = fitted(model_of(both=False), [Batch(x, target, LENGTHS, RESETS, mask)], tbptt=(k1, k2))
    model, sgd, values = model_of(both=False), optim.SGD(0.1), []
    state: Any = None
    at = 0
    for start in range(0, T, k1):
        stop = min(start + k1, T)
        if not mask[start:stop].any():
            continue
        first = start if k1 == k2 else max(0, stop - k2)
        for t in range(at, first):  # one step after the other
            state = model(x[t : t + 1], state, (t < LENGTHS).astype(int), RESETS[t : t + 1])[1]
        seen = slice(first, stop)
        lengths = np.minimum(np.maximum(LENGTHS - first, 0), stop - first)
        y, after, tape = model.forward(x[seen], state, lengths, RESETS[seen])
        dy = np.zeros_like(y)
        value, dy[start - first :] = losses.mse(y[start - first :], target[start:stop], mask[start:stop])
        sgd.step(model.params, model.backward(tape, dy)[2])
        values.append(value)
        state, at = (after, stop) if k1 == k2 else (state, first)
    assert_same(got, (values, model.params.flat))


def test_one_row_without_a_batch_axis() -> None:
    x, target = (each[:, 1] for each in arrays())
    for batch_first in (False, True):
        for tbptt, both in ((None, True), (3, False)):
            batch = Batch(x, target, lengths=[5], resets=RESETS[:, 0])
            got = fitted(model_of(both=both, batch_first=batch_first), [batch], tbptt=tbptt)
            batch = Batch(x[:, None], target[:, None], lengths=[5], resets=RESETS[:, :1])
            assert_same(got, fitted(model_of(both=both), [batch], tbptt=tbptt))
        padded = fitted(model_of(batch_first=batch_first), [(x, target, np.arange(T) < 5)])
        assert_same(padded, fitted(model_of(), [Batch(x[:, None], target[:, None], lengths=[5])]))


def test_ids_and_a_mask_of_the_first_layer() -> None:
    ids = np.random.default_rng(0).integers(0, 9, (B, T))
    model = bptt.Sequential(
        bptt.Embedding(9, 3, seed=0),
        bptt.GRU(3, 4, bidirectional=True, batch_first=True, seed=1),
        bptt.Linear(8, 9, seed=2),
    )
    results = []
    for padding in (0, 8):
        padded = np.where(INSIDE.T, ids, padding)
        for batch in (Batch(padded, ids, LENGTHS), (padded, ids, INSIDE.T)):
            results.append(fitted(copy.deepcopy(model), [batch], loss=losses.cross_entropy))
    for other in results[1:]:
        assert_same(other, results[0])


ORDER = np.argsort(-LENGTHS, kind="stable")
THERE = INSIDE[:, ORDER]


def packed(array: NDArray[Any], order: Any = ORDER) -> bptt.Packed:
    return bptt.Packed(np.ascontiguousarray(array[:, ORDER][THERE]), THERE.sum(1), order)


@pytest.mark.parametrize("holes", [True, False])
def test_packed_rows_are_padded_ones_with_lengths(holes: bool) -> None:
    x, target = arrays()
    mask = {"mask": HOLES} if holes else {}
    expected = fitted(model_of(), [Batch(x, target, LENGTHS, RESETS, **mask)])
    flat = {name: packed(value) for name, value in mask.items()}
    data = {name: value.data for name, value in flat.items()}
    for batch in (
        Batch(packed(x), packed(target), resets=packed(RESETS), **flat),
        Batch(packed(x), packed(target).data, resets=packed(RESETS).data, **data),
        Batch(packed(x, None), packed(target, None), resets=packed(RESETS, None), **data),
    ):
        got = fitted(model_of(), [batch])
        # Means over 16 rows, and gradients that are sums over them, in another order.
        np.testing.assert_allclose(got[0], expected[0], rtol=64 * np.finfo(np.float64).eps)
        np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=64 * np.finfo(np.float64).eps)
    layer = bptt.GRU(I, 1, dtype="float64", seed=0)
    got = fitted(copy.deepcopy(layer), [(packed(x), packed(target))])
    expected = fitted(layer, [Batch(x, target, LENGTHS)])
    np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=64 * np.finfo(np.float64).eps)


def test_a_state_goes_from_packed_batch_to_packed_batch_in_the_callers_order() -> None:
    data = [arrays(0.0, seed) for seed in (0, 1)]
    ours = fitted(model_of(both=False), [Batch(x, t, LENGTHS) for x, t in data], 0.0, stateful=True)
    got = fitted(model_of(both=False), [(packed(x), packed(t)) for x, t in data], 0.0, stateful=True)
    np.testing.assert_allclose(got[0], ours[0], rtol=64 * np.finfo(np.float64).eps)


def test_sequences_packed_by_pytorch() -> None:
    torch = pytest.importorskip("torch")
    pack = torch.nn.utils.rnn.pack_padded_sequence
    x, target = arrays()
    theirs = [pack(torch.tensor(each), torch.tensor(LENGTHS), enforce_sorted=False) for each in (x, target)]
    for batch in (
        tuple(theirs),
        Batch(theirs[0], theirs[1].data),
        Batch(torch.tensor(x), target, torch.tensor(LENGTHS)),
    ):
        got, expected = fitted(model_of(), [batch]), fitted(model_of(), [Batch(x, target, LENGTHS)])
        np.testing.assert_allclose(got[0], expected[0], rtol=64 * np.finfo(np.float64).eps)
        np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=64 * np.finfo(np.float64).eps)


X, TARGET = arrays()


@pytest.mark.parametrize(
    ("batch", "options", "error", "message"),
    [
        (Batch(X, TARGET, [3, 7, 1]), {}, ValueError, r"lengths has shape \(3,\), expected \(4,\)"),
        (Batch(X, TARGET, [3, 8, 1, 5]), {"tbptt": 2}, ValueError, "lengths has values from 1 to 8, expected 0 to 7"),
        (Batch(X, TARGET, [3, -1, 1, 5]), {"tbptt": 2}, ValueError, "lengths has values from -1 to 5, expected 0 to 7"),
        (Batch(X, TARGET, [3.0, 7, 1, 5]), {}, TypeError, "lengths has dtype float64, expected integers"),
        (Batch(X, TARGET, INSIDE), {}, TypeError, "lengths has dtype bool, expected integers"),
        (Batch(X, TARGET, LENGTHS, mask=INSIDE[:3]), {}, ValueError, r"mask has shape \(3, 4\), expected \(7, 4\)"),
        (Batch(X, TARGET, mask=LENGTHS), {}, TypeError, "mask has dtype int64, expected booleans"),
        (Batch(X, TARGET, resets=RESETS[:3]), {"tbptt": 2}, ValueError, r"batch has shapes \(7, 4, 2\), \(7, 4, 1\), "),
        (
            Batch(packed(X), packed(TARGET)),
            {"tbptt": 2},
            ValueError,
            "x has packed rows, which tbptt cannot cut, expec",
        ),
        (
            Batch(packed(X), packed(TARGET), LENGTHS),
            {},
            ValueError,
            "lengths is given with packed rows, expected one",
        ),
        (Batch(X, packed(TARGET)), {}, ValueError, "target has packed rows, expected an array, as x is one"),
        (
            Batch(packed(X), packed(TARGET, [0, 1, 2, 3])),
            {},
            ValueError,
            "target has other sorted_indices than x, expe",
        ),
        (Batch(packed(X)._replace(data=X[0, :0]), X), {}, ValueError, r"x has shape \(0, 2\), expected \(16, 2\)"),
        (Batch(bptt.Packed(X[0, :0], []), X), {}, ValueError, r"x has shape \(0, 2\), expected at least one step"),
    ],
)
def test_wrong_batches_are_named(batch: Batch, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^fit: {message}") as caught:
        fitted(model_of(both=False), [batch], **options)
    assert len(str(caught.value)) < 200


def test_rows_without_steps_alone_make_no_update() -> None:
    none, some = Batch(X, TARGET, [0] * B), Batch(X, TARGET, [1] * B)
    assert len(fitted(model_of(), [none, some, none])[0]) == 1
    with pytest.raises(ValueError, match=r"^fit: no step of epoch 0 counts, expected a longer row"):
        fitted(model_of(), [none])


def test_a_mask_that_may_be_padding_or_not_is_refused_for_a_bidirectional_model() -> None:
    mask = INSIDE.copy()
    mask[0, 0] = False
    with pytest.raises(ValueError, match=r"^fit: mask is False inside rows and at their ends, expected lengths"):
        fitted(model_of(), [(*arrays(), mask)])
    fitted(model_of(both=False), [(*arrays(), mask)])
    fitted(model_of(), [Batch(*arrays(), lengths=[T] * B, mask=mask)])
