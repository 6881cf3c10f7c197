# SPDX-License-Identifier: Apache-2.0
"""bptt.check: each finding, good and bad; the model stays as it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import Batch, losses

T, B, K = 6, 4, 5
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, 3))
CLASSES = RNG.integers(0, K, (T, B))


def classifier(**options: Any) -> bptt.Sequential:
    return bptt.Sequential(bptt.GRU(3, 32, seed=0, **options), bptt.Linear(32, K, seed=1))


def texts(report: Any) -> dict[str, str]:
    return {each.name: each.text for each in report.findings}


def failed(report: Any) -> list[str]:
    assert report.ok == all(each.ok for each in report.findings)
    assert str(report).count("\n") == len(report.findings) - 1
    return [each.name for each in report.findings if not each.ok]


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_good_model_passes_and_stays_as_it_was(batch_first: bool) -> None:
    model = classifier(zoneout=0.1, batch_first=batch_first)
    twin = classifier(zoneout=0.1, batch_first=batch_first)
    x, target = (X.swapaxes(0, 1), CLASSES.T) if batch_first else (X, CLASSES)
    report = bptt.check(model, (x, target), losses.cross_entropy, steps=200)
    assert failed(report) == []
    assert f"near ln {K} = {math.log(K):.3g}" in texts(report)["initial loss"]
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)
    y, _, _ = model.forward(x)  # the masks are those of the first call
    np.testing.assert_array_equal(y, twin.forward(x)[0])


@pytest.mark.parametrize(
    ("loss", "weight", "what"),
    [
        (lambda y, t: losses.cross_entropy(y, t, reduction="sum"), 1.0, "is the loss a sum"),
        (losses.cross_entropy, 30.0, "are the weights of the last layer large"),
        (lambda y, t: losses.cross_entropy(y * 0 + 50 * np.eye(K)[t], t), 1.0, "is it trained"),
    ],
)
def test_a_loss_far_from_that_of_equal_probabilities(loss: Any, weight: float, what: str) -> None:
    model = classifier()
    with model.params.edit() as p:
        p["1.weight"] *= weight
    report = bptt.check(model, (X, CLASSES), loss)
    assert "initial loss" in failed(report)
    assert f"expected about ln {K} = {math.log(K):.3g}: " in texts(report)["initial loss"]
    assert what in texts(report)["initial loss"]


def test_inputs_that_cannot_matter() -> None:
    x = X.copy()
    x[:, :, 0] = 7
    model = classifier()
    with model.params.edit() as p:
        p["0.weight_ih_l0"][:, 2] = 0
    report = bptt.check(model, (x, CLASSES), losses.cross_entropy)
    assert failed(report) == ["inputs"]
    text = texts(report)["inputs"]
    assert "feature 0 of 3 is constant" in text
    assert "feature 2 of 3 is without effect on the loss: the gradient is zero" in text
    x[:, :, 1] = 1
    assert "features 0, 1 of 3 are constant" in texts(bptt.check(model, (x, CLASSES), losses.cross_entropy))["inputs"]


def test_inputs_that_are_badly_scaled() -> None:
    x = X * [1, 1e4, 1e-4]
    text = texts(bptt.check(classifier(), (x, CLASSES), losses.cross_entropy))["inputs"]
    large, small = np.sqrt((x**2).mean((0, 1)))[1:]
    assert f"features 1, 2 of 3 are of size {large:.2g}, {small:.2g} (root mean square): scale to about 1" in text


def test_padding_does_not_make_a_feature_vary() -> None:
    x = X.copy()
    x[:, :, 1] = 7
    x[4:, 1, 1] = 0
    batch = Batch(x, CLASSES, lengths=[6, 4, 6, 6])
    report = bptt.check(classifier(), batch, losses.cross_entropy)
    assert "feature 1 of 3 is constant" in texts(report)["inputs"]
    rows = [x[:n, b] for b, n in enumerate([6, 4, 6, 6])], [CLASSES[:n, b] for b, n in enumerate([6, 4, 6, 6])]
    assert texts(bptt.check(classifier(), rows, losses.cross_entropy)) == texts(report)


def test_values_that_are_not_finite() -> None:
    x = X.copy()
    x[2, 1, 0] = np.inf
    report = bptt.check(classifier(), (x, CLASSES), losses.cross_entropy)
    assert failed(report) == ["values"]
    assert texts(report) == {"values": "x has the value inf, expected finite float32 numbers"}
    report = bptt.check(classifier(), (X, CLASSES), lambda y, t: (math.nan, y * 0))
    assert texts(report) == {"values": "the loss is nan, though x, target and parameters are finite"}
    report = bptt.check(classifier(), (X, CLASSES), lambda y, t: (1.0, y * np.nan))
    assert texts(report) == {"values": "the gradient is not finite, though x, target and parameters are finite"}


def test_a_batch_that_cannot_be_learned() -> None:
    report = bptt.check(classifier(), (X * 0 + RNG.standard_normal(3), CLASSES), losses.cross_entropy)
    assert "overfitting" in failed(report)
    assert "do x and target belong together, and is the model large enough?" in texts(report)["overfitting"]
    calls: list[int] = []

    def later(y: Any, target: Any) -> Any:
        calls.append(1)
        value, dy = losses.cross_entropy(y, target)
        return (value if len(calls) < 5 else math.inf), dy

    report = bptt.check(classifier(), (X, CLASSES), later)
    assert texts(report)["overfitting"].startswith("after 2 updates: fit: loss has the value inf")


def test_ids_packed_rows_and_regression() -> None:
    ids = RNG.integers(0, 9, (T, B))
    model = bptt.Sequential(bptt.Embedding(9, 4, seed=0), bptt.GRU(4, 32, seed=0), bptt.Linear(32, K, seed=1))
    report = bptt.check(model, (ids, CLASSES), losses.cross_entropy)
    assert "inputs" not in texts(report)
    packed = bptt.Packed(X[:, 0], [2, 2, 1, 1])
    report = bptt.check(bptt.GRU(3, 4, seed=0), (packed, RNG.random((T, 4)) - 0.5), losses.mse)
    assert "ln" not in texts(report)["initial loss"]
    assert failed(report) == []


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((bptt.Linear(2, 2), (X, X), losses.mse), {}, TypeError, "check: model has type Linear, expected a Sequential"),
        (
            (bptt.Sequential(bptt.GRUCell(3, 2)), (X, X), losses.mse),
            {},
            TypeError,
            "check: model has cells, which take one step",
        ),
        (
            (classifier(), (X, X), "mse"),
            {},
            TypeError,
            "check: loss has type str, expected a function",
        ),
        ((classifier(), (X, X), losses.mse), {"steps": 0}, ValueError, "check: steps has value 0, expected an integer"),
        ((classifier(), (X,), losses.mse), {}, ValueError, "fit: batch has length 1, expected"),
        (
            (classifier(), Batch(X, X, [0] * B), losses.mse),
            {},
            ValueError,
            "check: batch has no step that counts",
        ),
    ],
)
def test_wrong_calls_are_named(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        bptt.check(*arguments, **options)
    assert len(str(caught.value)) < 200
