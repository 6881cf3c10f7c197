# SPDX-License-Identifier: Apache-2.0
"""Validation and metrics of fit: what they are, when they come, and that they change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt import Batch, losses
from runs import DATA, HELD, RNG, T, fitted, mean_error, model_of, stop_at


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tbptt", [None, 4, (2, 5)])
@pytest.mark.parametrize("stateful", [False, True])
def test_validation_is_the_mean_over_targets_and_changes_nothing(dtype: str, tbptt: Any, stateful: bool) -> None:
    held = [Batch(*HELD[1], lengths=[6, 3, 1, 6, 2]), (*HELD[1], RNG.random((T, 5)) < 0.5)]
    options: dict[str, Any] = {"tbptt": tbptt, "stateful": stateful, "epochs": 2, "metric": mean_error}
    model, history = fitted(model=model_of(dtype, zoneout=0.2), validation=held, **options)
    plain, without = fitted(model=model_of(dtype, zoneout=0.2), **options)
    np.testing.assert_array_equal(model.params.flat, plain.params.flat)
    assert history.loss == without.loss
    state: Any = None
    total, errors, count = 0.0, 0.0, 0
    masks = [np.arange(T)[:, None] < np.array([6, 3, 1, 6, 2]), held[1][2]]
    for (x, target), lengths, mask in zip([held[0][:2], held[1][:2]], [held[0].lengths, None], masks, strict=True):
        y, state = model(x, state if stateful else None, lengths)
        n = int(mask.sum())
        total, count = total + losses.mse(y, target, mask)[0] * n, count + n
        errors += mean_error(y, target, mask) * n
    chunks = {None: 1, 4: 2, (2, 5): 3}[tbptt]
    assert [(each.step, each.epoch) for each in history.validation] == [(3 * chunks, 0), (6 * chunks, 1)]
    # Means of at most 4 chunks, each a mean over at most T B = 30 rows, in another order.
    rtol = 64 * np.finfo(np.float64).eps if dtype == "float64" else 64 * np.finfo(np.float32).eps
    np.testing.assert_allclose(history.validation[-1].loss, total / count, rtol=rtol)
    np.testing.assert_allclose(history.validation[-1].metrics["metric"], errors / count, rtol=rtol)


def test_validation_comes_after_each_epoch_or_some_updates_and_at_the_end() -> None:
    for options, steps in (
        ({"epochs": 2}, [3, 6]),
        ({"max_steps": 4}, [3, 4]),
        ({"validate_every": 2, "epochs": 2}, [2, 4, 6]),
        ({"validate_every": 4, "epochs": 2}, [4, 6]),
        ({"max_steps": 4, "on_step": stop_at(1)}, []),
    ):
        _, history = fitted(validation=HELD, **options)  # type: ignore[arg-type]
        assert [each.step for each in history.validation] == steps


def test_metrics_see_what_the_loss_sees() -> None:
    seen: list[Any] = []

    def loss(y: Any, target: Any, mask: Any = None) -> Any:
        seen.append((y, target, mask))
        return losses.mse(y, target, mask)

    def metric(y: Any, target: Any, mask: Any = None) -> np.float32:
        assert all(a is b for a, b in zip(seen[-1], (y, target, mask), strict=True))
        return np.float32(2.5)

    data = [DATA[0], Batch(*DATA[1], lengths=[6, 1, 2, 3])]
    metrics = {"a": metric, "b": lambda y, target, mask=None: 1}
    _, history = fitted(data, loss=loss, metric=metrics, validation=data, tbptt=(2, 4))
    assert history.metrics == {"a": [2.5] * 6, "b": [1.0] * 6}
    assert history.validation[0].metrics == {"a": 2.5, "b": 1.0}


def test_an_exception_in_a_metric_leaves_whole_updates() -> None:
    def metric(y: Any, target: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise LookupError
        return 0.0

    calls: list[int] = []
    model = model_of()
    with pytest.raises(LookupError):
        fitted(model=model, metric=metric)
    np.testing.assert_array_equal(model.params.flat, fitted(max_steps=2)[0].params.flat)


def test_a_validation_loss_that_is_not_finite_is_named() -> None:
    x, target = HELD[0]
    with pytest.raises(
        FloatingPointError, match=r"^fit: validation loss is nan after 3 updates, expected a finite one"
    ):
        fitted(validation=(np.full_like(x, np.nan), target))
