# SPDX-License-Identifier: Apache-2.0
"""fit with tbptt=(k1, k2): each update's gradient against its window written out, by the layers and the reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import losses, optim, reference

T, B, I, H = 12, 3, 2, 4  # noqa: E741
PAIRS = [(2, 5), (3, 3), (5, 5), (1, 4), (4, 6), (3, 12), (2, 30), (5, 30), (12, 12)]
every_pair = pytest.mark.parametrize(("k1", "k2"), PAIRS)


class Recorder(optim.SGD):
    """Plain gradient descent that keeps every gradient."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.gradients: list[NDArray[Any]] = []

    def step(self, params: bptt.Params, grads: bptt.Params) -> optim.StepInfo:
        self.gradients.append(grads.flat.copy())
        return super().step(params, grads)


def model_of(**options: Any) -> bptt.Sequential:
    options = {"dtype": "float64", "seed": 1, **options}
    one = options | {"dropout": 0.0}  # which acts between layers
    return bptt.Sequential(
        bptt.LSTM(I, H, num_layers=2, **options), bptt.GRU(H, H, **one), bptt.Linear(H, 1, dtype="float64", seed=2)
    )


def batches(count: int = 2, dtype: Any = np.float64) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((T, B, I)).astype(dtype), rng.standard_normal((T, B, 1))) for _ in range(count)]


def fitted(model: Any, data: Any, lr: float, **options: Any) -> tuple[Recorder, bptt.History]:
    optimizer = Recorder(lr)
    return optimizer, bptt.fit(model, data, loss=losses.mse, optimizer=optimizer, **options)


def written_out(
    model: Any, data: Any, lr: float, k1: int, k2: int, stateful: bool = False
) -> tuple[list[NDArray[Any]], list[float]]:
    """Every update from its definition: a window of the last k2 steps, the loss on the last k1 of them.

    The state before a window is the state before the last window, moved there with the parameters in force then. Where
    windows do not overlap, it is the final state of the last window.
    """
    gradients, values, optimizer = [], [], optim.SGD(lr)
    state: Any = None
    for x, target in data:
        state = state if stateful else None
        at = 0  # `state` is that before this step
        for begin in range(0, len(x), k1):
            end = min(begin + k1, len(x))
            first = max(0, begin - (k2 - k1))
            if first > at:
                state, at = model(x[at:first], state)[1], first
            y, after, tape = model.forward(x[first:end], state)
            value, dlast = losses.mse(y[begin - first :], target[begin:end])
            dy = np.zeros_like(y)
            dy[begin - first :] = dlast
            grads = model.backward(tape, dy)[2]
            gradients.append(grads.flat.copy())
            values.append(value)
            optimizer.step(model.params, grads)
            if k1 == k2:
                state, at = after, end
        if at < len(x):
            state = model(x[at:], state)[1]
    return gradients, values


@every_pair
@pytest.mark.parametrize("stateful", [False, True])
def test_each_update_is_its_window(k1: int, k2: int, stateful: bool) -> None:
    model, data = model_of(learn_initial_state=True), batches()
    twin = copy.deepcopy(model)
    optimizer, history = fitted(model, data, 0.1, tbptt=(k1, k2), stateful=stateful)
    gradients, values = written_out(twin, data, 0.1, k1, k2, stateful)
    assert len(optimizer.gradients) == 2 * -(-T // k1)
    # States handed on in pieces have the same bits as those of one piece, and so have all later values.
    np.testing.assert_array_equal(optimizer.gradients, gradients)
    np.testing.assert_array_equal(history.loss, values)
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)


@every_pair
def test_the_gradient_goes_back_k2_steps_and_no_further(k1: int, k2: int) -> None:
    """By the reference: one gated layer; the state before the window is a constant."""
    gru, (x, target) = bptt.GRU(I, H, dtype="float64", seed=0), batches(1)[0]
    target = np.repeat(target, H, axis=2)
    optimizer, _ = fitted(gru, [(x, target)], 0.0, tbptt=(k1, k2))
    weights = {name.removesuffix("_l0"): np.array(value) for name, value in gru.params.items()}
    zeros = (np.zeros((B, H)),)
    for n, gradient in enumerate(optimizer.gradients):
        begin, end = n * k1, min((n + 1) * k1, T)
        first = max(0, begin - (k2 - k1))
        _, start, _ = reference.forward("gru", weights, x[:first], zeros)
        y, _, tape = reference.forward("gru", weights, x[first:end], start)
        dy = np.zeros_like(y)
        dy[begin - first :] = reference.mse(y[begin - first :], target[begin:end])[1]
        _, _, grads = reference.backward(tape, dy, zeros)
        expected = np.concatenate([grads[name].reshape(-1) for name in weights])
        # Sums of at most T B = 36 steps' shares, each of I + 3 H = 14 products, and what the steps before carry along.
        atol = 8 * np.finfo(np.float64).eps * np.sqrt(36 * 14) * (1 + np.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("k1", [1, 3, 5])
def test_windows_over_all_steps_add_up_to_the_full_gradient(k1: int) -> None:
    model, (x, target) = model_of(), batches(1)[0]

    def total(y: Any, target: Any) -> tuple[float, Any]:
        return losses.mse(y, target, reduction="sum")

    optimizer = Recorder(0.0)
    bptt.fit(model, [(x, target)], loss=total, optimizer=optimizer, tbptt=(k1, T))
    y, _, tape = model.forward(x)
    expected = model.backward(tape, total(y, target)[1])[2].flat
    # At most T updates, each a sum over at most T B = 36 steps of products over 16 units, in another order.
    atol = 8 * np.finfo(np.float64).eps * np.sqrt(T * 36 * 16) * (1 + np.abs(expected).max())
    np.testing.assert_allclose(np.sum(optimizer.gradients, axis=0), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("k", [1, 5, 12, 20])
@pytest.mark.parametrize("stateful", [False, True])
def test_a_pair_of_equals_is_one_number_and_the_whole_is_none(k: int, stateful: bool) -> None:
    model, data = model_of(dropout=0.3, zoneout=0.1), batches()
    results = []
    for tbptt in (k, (k, k), [k, k], *[None] * (k >= T)):
        twin = copy.deepcopy(model)
        optimizer, history = fitted(twin, data, 0.1, tbptt=tbptt, stateful=stateful, epochs=2)
        results.append([twin.params.flat, *optimizer.gradients, history.loss])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stateful", [False, True])
def test_a_stateful_epoch_is_one_long_batch_but_for_gradients_across(stateful: bool) -> None:
    """Without steps (lr = 0) the losses of two batches in a row are those of one batch of both."""
    data = batches()
    long = tuple(np.concatenate(each) for each in zip(*data, strict=True))
    apart = fitted(model_of(), data, 0.0, tbptt=(T, T + 4), stateful=stateful)[1]
    together = fitted(model_of(), [long], 0.0, tbptt=(T, T + 4))[1]
    assert (apart.loss == together.loss) == stateful
    fresh = fitted(model_of(), data[1:], 0.0, tbptt=(T, T + 4))[1]
    assert (apart.loss[1:] == fresh.loss) != stateful


def test_batch_first_lists_and_one_layer() -> None:
    data = batches()
    turned = [tuple(each.swapaxes(0, 1) for each in batch) for batch in data]
    lists = [tuple(each.tolist() for each in batch) for batch in data]
    results = []
    for batch_first, given in ((False, data), (True, turned), (False, lists)):
        layer = bptt.GRU(I, 1, dtype="float64", seed=0, batch_first=batch_first)
        optimizer, history = fitted(layer, given, 0.1, tbptt=(2, 5), stateful=True)
        results.append((optimizer.gradients, history.loss))
    for gradients, loss in results[1:]:
        np.testing.assert_array_equal(gradients, results[0][0])
        np.testing.assert_allclose(loss, results[0][1], rtol=8 * np.finfo(np.float64).eps)  # 6 terms in another order


@pytest.mark.parametrize("tbptt", [2, (2, 2), (2, 5)])
def test_masked_steps_move_the_state_and_make_no_update(tbptt: Any) -> None:
    (x, target), model = batches(1)[0], model_of()
    mask = np.ones((T, B), bool)
    mask[4:6], mask[7, 0] = False, False
    seen: list[float] = []

    def loss(y: Any, target: Any, mask: Any) -> tuple[float, Any]:
        assert mask.any()
        value, dy = losses.mse(y, target, mask)
        seen.append(value)
        return value, dy

    twin, optimizer = copy.deepcopy(model), Recorder(0.0)
    history = bptt.fit(model, [(x, target, mask)], loss=loss, optimizer=optimizer, tbptt=tbptt)
    assert len(history) == T // 2 - 1
    assert history.loss == seen
    y = twin(x)[0]
    expected = [
        losses.mse(y[k : k + 2], target[k : k + 2], mask[k : k + 2])[0] for k in range(0, T, 2) if mask[k : k + 2].any()
    ]
    np.testing.assert_array_equal(history.loss, expected)
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)


@pytest.mark.parametrize(
    ("tbptt", "error", "message"),
    [
        ((3, 2), ValueError, r"tbptt has value \(3, 2\), expected k2 >= k1: every step belongs to one loss"),
        ((0, 2), ValueError, "tbptt has value 0, expected an integer >= 1"),
        ((2, 0), ValueError, "tbptt has value 0, expected an integer >= 1"),
        ((2, 3, 4), ValueError, r"tbptt has length 3, expected k or \(k1, k2\)"),
        ((2,), ValueError, r"tbptt has length 1, expected k or \(k1, k2\)"),
        ((2, 3.0), TypeError, "tbptt has type float, expected an integer"),
        ((None, 3), TypeError, "tbptt has type NoneType, expected an integer"),
        ("ab", TypeError, "tbptt has type str, expected an integer"),
    ],
)
def test_wrong_windows_are_named(tbptt: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^fit: {message}"):
        fitted(model_of(), batches(), 0.1, tbptt=tbptt)


@pytest.mark.parametrize("packed", [False, True])
def test_carried_states_need_as_many_rows_in_each_batch(packed: bool) -> None:
    def batch(rows: int) -> Any:
        x = np.ones((T, rows, I))
        return (bptt.Packed(x.reshape(-1, I), [rows] * T), np.ones((T * rows, 1))) if packed else (x, x[:, :, :1])

    data = [batch(rows) for rows in (3, 3, 2)]
    many = "and the batch before has 3, expected as many: stateful carries the state of each row$"
    with pytest.raises(ValueError, match=f"^fit: batch 2 of epoch 0 has 2 rows {many}"):
        fitted(model_of(), data, 0.1, stateful=True)
    with pytest.raises(ValueError, match=f"^fit: batch 1 of validation has 2 rows {many}"):
        fitted(model_of(), data[:2], 0.1, stateful=True, validation=data[1:])
    assert len(fitted(model_of(), data, 0.1)[1]) == 3
