# SPDX-License-Identifier: Apache-2.0
"""A small model, batches and runs of fit, for the tests of the training loop."""

from __future__ import annotations

from typing import Any

import numpy as np

import bptt
from bptt import losses, optim

T, B = 6, 4
RNG = np.random.default_rng(0)
DATA = [(RNG.standard_normal((T, B, 3)), RNG.standard_normal((T, B, 2))) for _ in range(3)]
HELD = [(RNG.standard_normal((T, n, 3)), RNG.standard_normal((T, n, 2))) for n in (2, 5)]


def model_of(dtype: str = "float64", **options: Any) -> bptt.Sequential:
    gru = bptt.GRU(3, 4, seed=0, dtype=dtype, **options)
    return bptt.Sequential(gru, bptt.Linear(4, 2, seed=1, dtype=dtype))


def fitted(data: Any = DATA, model: Any = None, lr: float = 0.1, **options: Any) -> tuple[Any, bptt.History]:
    model = model_of() if model is None else model
    options = {"loss": losses.mse, "optimizer": optim.SGD(lr), **options}
    return model, bptt.fit(model, data, **options)


def mean_error(y: Any, target: Any, mask: Any = None) -> float:
    error = np.abs(y - target).mean(-1)
    return float(error.mean() if mask is None else error[mask].mean())


def assert_same_run(got: Any, expected: Any) -> None:
    np.testing.assert_array_equal(got[0].params.flat, expected[0].params.flat)
    assert got[1].loss == expected[1].loss


def stop_at(number: int) -> Any:
    """An `on_step` that ends the run after this update."""

    def on_step(step: Any) -> None:
        if step.number == number:
            raise bptt.StopTraining

    return on_step


def broken(number: int, place: int = 0) -> list[Any]:
    """The batches with a NaN in x (0) or target (1) of one of them."""
    data = [tuple(np.array(each) for each in batch) for batch in DATA]
    data[number][place][3, 1, 0] = np.nan
    return data
