# SPDX-License-Identifier: Apache-2.0
"""One step in one call: the bits of the calls one by one, for every kind of model, loss and array; its refusals."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.train.training_step import Gradients
from stacks import threads

RNG = np.random.default_rng(0)
CELLS: dict[str, Any] = {
    "lstm": lambda **k: bptt.LSTM(3, 5, **k),
    "peephole": lambda **k: bptt.LSTM(3, 5, peephole=True, **k),
    "projection": lambda **k: bptt.LSTM(3, 5, proj_size=4, **k),
    "gru": lambda **k: bptt.GRU(3, 5, **k),
    "deep": lambda **k: bptt.RNN(3, 5, num_layers=2, **k),
    "two directions": lambda **k: bptt.GRU(3, 5, bidirectional=True, **k),  # these take the calls one by one
    "zoneout": lambda **k: bptt.GRU(3, 5, zoneout=0.5, **k),
    "batch first": lambda **k: bptt.GRU(3, 5, batch_first=True, **k),
    "learnt": lambda **k: bptt.GRU(3, 5, learn_initial_state=True, **k),
}
LOSSES = (bptt.losses.mse, bptt.losses.mae, bptt.losses.cross_entropy, bptt.losses.huber)


def make(cell: str, dtype: str, bias: bool = True, outputs: int = 4) -> bptt.Sequential:
    layer = CELLS[cell](dtype=dtype, seed=1)
    width = {"projection": 4, "two directions": 10}.get(cell, 5)
    return bptt.Sequential(layer, bptt.Linear(width, outputs, bias, dtype=dtype, seed=2))


def data(T: int, B: int, dtype: Any, loss: Any, outputs: int = 4) -> tuple[Any, Any]:
    x = RNG.standard_normal((T, B, 3)).astype(dtype)
    if loss is bptt.losses.cross_entropy:
        return x, RNG.integers(0, outputs, (T, B))
    return x, RNG.standard_normal((T, B, outputs)).astype(dtype)


def by_calls(model: Any, loss: Any, optimizer: Any, x: Any, target: Any, state: Any = None) -> tuple[float, Any, Any]:
    y, after, tape = model.forward(x, state)
    value, dy = loss(y, target)
    _, _, grads = model.backward(tape, dy)
    return value, after, optimizer.step(model.params, grads)


def flat(state: Any) -> list[Any]:
    return [part for each in state for part in (each if isinstance(each, tuple) else (each,))]


def assert_same_steps(model: Any, loss: Any, batches: list[tuple[Any, Any]], n: int = 1) -> None:
    twin = copy.deepcopy(model)
    one, two = bptt.optim.Adam(1e-2, clip_norm=0.5), bptt.optim.Adam(1e-2, clip_norm=0.5)
    step = bptt.TrainingStep(model, loss, one)
    state = expected_state = None
    with threads(n):
        for x, target in batches:
            value, state, info = step(x, target, state)
            expected, expected_state, expected_info = by_calls(twin, loss, two, x, target, expected_state)
            assert (value, info) == (expected, expected_info)
            assert all((a == b).all() for a, b in zip(flat(state), flat(expected_state), strict=True))
            assert (model.params.flat == twin.params.flat).all()


@pytest.mark.parametrize("cell", CELLS)
def test_plain_models_and_arrays_take_the_native_call(cell: str) -> None:
    model, expected = make(cell, "float32"), list(CELLS).index(cell) < 5
    for loss in LOSSES[:3]:
        x, target = data(6, 2, np.float32, loss)
        gradients = Gradients(model, loss)
        assert (gradients.native(x, target, None) is not None) == expected
        wide = target.astype(np.int32 if loss is bptt.losses.cross_entropy else np.float64)
        for given in ((x, wide), (x, target.tolist()), (x, target[:5]), (x[:, :, ::-1], target)):
            assert gradients.native(*given, None) is None
    assert Gradients(model, bptt.losses.huber).native(*data(6, 2, np.float32, bptt.losses.mse), None) is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))])
def test_a_copy_trains(copied: Any) -> None:
    x, target = data(6, 2, np.float32, bptt.losses.mse)
    step = bptt.TrainingStep(make("gru", "float32"), bptt.losses.mse, bptt.optim.Adam(1e-2))
    step(x, target)
    twin = copied(step)
    assert [twin(x, target).loss for _ in range(3)] == [step(x, target).loss for _ in range(3)]


def test_a_function_in_the_place_of_forward_is_called() -> None:
    x, target = data(6, 2, np.float32, bptt.losses.mse)
    model = make("gru", "float32")
    layer: Any = model.layers[0]
    seen: list[int] = []
    step, forward = bptt.TrainingStep(model, bptt.losses.mse, bptt.optim.SGD(0.1)), layer.forward
    layer.forward = lambda *args: (seen.append(1), forward(*args))[1]
    step(x, target)
    assert seen == [1]


def test_a_loss_that_has_no_hash() -> None:
    class Loss:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, y: Any, target: Any) -> tuple[float, Any]:
            return bptt.losses.mse(y, target)

    assert_same_steps(make("gru", "float32"), Loss(), [data(6, 2, np.float32, bptt.losses.mse)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_has_the_bits_of_the_calls_one_by_one(cell: str, dtype: str) -> None:
    for loss, bias, (T, B) in itertools.product(LOSSES, (True, False), ((1, 1), (1, 3), (6, 2))):
        batches = [data(T, B, dtype, loss) for _ in range(3)]
        assert_same_steps(make(cell, dtype, bias), loss, batches)


@pytest.mark.parametrize("T", [1, 7])
def test_of_a_larger_model_on_two_threads(T: int) -> None:
    model = bptt.Sequential(bptt.LSTM(3, 65, seed=1), bptt.Linear(65, 4, seed=2))
    assert_same_steps(model, bptt.losses.mse, [data(T, 133, np.float32, bptt.losses.mse) for _ in range(2)], 2)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_in_each_precision(precision: Any) -> None:
    model = bptt.Sequential(bptt.GRU(3, 40, seed=1, precision=precision), bptt.Linear(40, 4, seed=2))
    assert_same_steps(model, bptt.losses.mse, [data(5, 9, np.float32, bptt.losses.mse) for _ in range(2)])


def test_other_arrays_and_models_take_the_calls_one_by_one() -> None:
    x, target = data(6, 2, np.float32, bptt.losses.mse)
    for given in ((x.astype(np.float64), target), (x, target.tolist()), (x[::2], target[::2]), (x[:, 0], target[:, 0])):
        assert_same_steps(make("gru", "float32"), bptt.losses.mse, [given])
    bare = bptt.LSTM(3, 4, seed=0)
    assert bptt.TrainingStep(bare, bptt.losses.mse, bptt.optim.SGD(0.1))(x, target).loss > 0
    model = bptt.Sequential(bptt.GRU(3, 5, seed=0), bptt.Dropout(0.5, seed=0), bptt.Linear(5, 4, seed=0))
    assert bptt.TrainingStep(model, bptt.losses.mse, bptt.optim.SGD(0.1))(x, target).loss > 0


def test_a_layer_with_a_method_of_its_own_is_called() -> None:
    class Doubled(bptt.GRU):
        def forward(self, *args: Any, **named: Any) -> Any:
            y, state, tape = super().forward(*args, **named)
            return 2 * y, state, tape

    x, target = data(6, 2, np.float32, bptt.losses.mse)
    model = bptt.Sequential(Doubled(3, 5, seed=0), bptt.Linear(5, 4, seed=0))
    expected = bptt.losses.mse(model.layers[1](2 * bptt.GRU(3, 5, seed=0)(x)[0]), target)[0]
    found = bptt.TrainingStep(model, bptt.losses.mse, bptt.optim.SGD(0.1))(x, target).loss
    assert found == pytest.approx(expected, rel=1e-5)  # sums of 48 float32 in another order


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_changes_nothing(bad: float) -> None:
    x, target = data(6, 2, np.float32, bptt.losses.mse)
    for cell in ("gru", "zoneout"):
        model, optimizer = make(cell, "float32"), bptt.optim.Adam(1e-2)
        before = model.params.flat.copy()
        target[0, 0, 0] = bad
        with pytest.raises(FloatingPointError, match="loss has the value"):
            bptt.TrainingStep(model, bptt.losses.mse, optimizer)(x, target)
        assert (model.params.flat == before).all()
        assert optimizer.steps == 0


def test_wrong_arguments_are_refused_by_name() -> None:
    x, target = data(6, 2, np.float32, bptt.losses.mse)
    model, sgd = make("gru", "float32"), bptt.optim.SGD(0.1)
    with pytest.raises(TypeError, match="TrainingStep: model"):
        bptt.TrainingStep(bptt.Linear(3, 4), bptt.losses.mse, sgd)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="TrainingStep: loss"):
        bptt.TrainingStep(model, "mse", sgd)  # type: ignore[arg-type]
    for optimizer in (0.1, bptt.optim.SGD):
        with pytest.raises(TypeError, match="TrainingStep: optimizer"):
            bptt.TrainingStep(model, bptt.losses.mse, optimizer)
    step = bptt.TrainingStep(model, bptt.losses.mse, sgd)
    for wrong, expected in (((x[..., :2], target), "x has shape"), ((x, target[..., :2]), "target has shape")):
        with pytest.raises(ValueError, match=expected):
            step(*wrong)
    with pytest.raises(ValueError, match="state"):
        step(x, target, (np.zeros((1, 3, 5), np.float32),))
    classes = bptt.TrainingStep(model, bptt.losses.cross_entropy, sgd)
    with pytest.raises(ValueError, match="targets has the value 4"):
        classes(x, np.full((6, 2), 4))
