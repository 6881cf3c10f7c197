# SPDX-License-Identifier: Apache-2.0
"""Schedules against PyTorch's, at their edges, and through pickle."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.optim import schedules
from bptt.optim.schedules import constant, cosine, exponential, linear, one_cycle, step_decay, warm_up

STEPS = 40
TORCH: list[tuple[Any, str, dict[str, Any], float, int]] = [
    (constant(0.3), "ConstantLR", {"factor": 1.0}, 0.3, STEPS),
    (step_decay(0.3, 7, 0.5), "StepLR", {"step_size": 7, "gamma": 0.5}, 0.3, STEPS),
    (exponential(0.3, 0.9), "ExponentialLR", {"gamma": 0.9}, 0.3, STEPS),
    (linear(0.3, 20, 0.03), "LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 20}, 0.3, STEPS),
    (linear(0.03, 20, 0.3), "LinearLR", {"start_factor": 0.1, "end_factor": 1.0, "total_iters": 20}, 0.3, STEPS),
    (cosine(0.3, STEPS, final=0.01), "CosineAnnealingLR", {"T_max": STEPS, "eta_min": 0.01}, 0.3, STEPS),
    (one_cycle(0.3, STEPS), "OneCycleLR", {"max_lr": 0.3, "total_steps": STEPS}, 0.3, STEPS - 1),
    (
        one_cycle(0.3, STEPS, 0.43, 10.0, 20.0),
        "OneCycleLR",
        {"max_lr": 0.3, "total_steps": STEPS, "pct_start": 0.43, "div_factor": 10.0, "final_div_factor": 20.0},
        0.3,
        STEPS - 1,
    ),
]
EVERY = [*(case[0] for case in TORCH), cosine(0.3, 20, 5, 0.1), warm_up(step_decay(0.3, 5), 10)]


@pytest.mark.parametrize(("ours", "kind", "options", "lr", "steps"), TORCH)
def test_a_schedule_is_pytorchs(ours: Any, kind: str, options: dict[str, Any], lr: float, steps: int) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    theirs = getattr(torch.optim.lr_scheduler, kind)(optimizer, **options)
    for step in range(steps + 1):
        # PyTorch multiplies the last value at each step: 10 roundings a step
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=10 * STEPS * 2.3e-16, abs=1e-16), step
        if step < steps:
            optimizer.step()
            theirs.step()


def test_warm_up_by_hand() -> None:
    ramp = [0.25, 0.5, 0.75, 1.0]
    assert [warm_up(step_decay(1.0, 2, 0.5), 4)(k) for k in range(9)] == [*ramp, 1, 1, 0.5, 0.5, 0.25]
    wave = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    assert [cosine(1.0, 8, 4)(k) for k in range(9)] == pytest.approx([*ramp, *wave], abs=1e-15)
    assert cosine(1.0, 4, 4)(3) == 1.0
    assert cosine(1.0, 4, 4, 0.5)(4) == 0.5
    assert cosine(2.0, 8, final=1.0)(10**9) == 1.0
    assert [one_cycle(1.0, n)(k) for n, k in ((1, 0), (2, 0), (2, 1), (2, 9))] == [4e-6, 1.0, 4e-6, 4e-6]
    assert one_cycle(1.0, 10, 0.0)(0) == 1.0
    assert exponential(1.0, 10.0)(1000) == math.inf


@pytest.mark.parametrize("schedule", EVERY)
def test_a_schedule_is_a_value(schedule: Any) -> None:
    values = [schedule(k) for k in range(50)]
    assert all(type(value) is float and value >= 0 for value in values)
    assert schedule(np.int64(3)) == values[3]
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), vars(schedules)) == schedule
    with pytest.raises(AttributeError):
        schedule.lr = 1.0
    name = type(schedule).__name__
    for step, error, message in (
        (-1, ValueError, "step has value -1, expected an integer >= 0"),
        (0.5, TypeError, "step has type float, expected an integer"),
    ):
        with pytest.raises(error, match=f"^schedules.{name}: {message}"):
            schedule(step)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constant(-1), ValueError, "schedules.constant: lr has value -1.0, expected 0 <= lr < inf"),
        (lambda: exponential(1, math.nan), ValueError, "schedules.exponential: factor has value nan"),
        (lambda: step_decay("1", 3), TypeError, "schedules.step_decay: lr has type str, expected a number"),
        (lambda: step_decay(1, 0), ValueError, "schedules.step_decay: every has value 0, expected an integer >= 1"),
        (lambda: linear(1, 0), ValueError, "schedules.linear: steps has value 0, expected an integer >= 1"),
        (lambda: linear(1, 2.0), TypeError, "schedules.linear: steps has type float, expected an integer"),
        (lambda: cosine(1, 4, 5), ValueError, "schedules.cosine: warmup has value 5, expected at most steps, 4"),
        (lambda: one_cycle(1, 4, 1.0), ValueError, "schedules.one_cycle: warmup_fraction has value 1.0, expected 0 <="),
        (lambda: one_cycle(1, 4, 0.5, 0), ValueError, "schedules.one_cycle: start_divisor has value 0, expected a pos"),
        (lambda: warm_up(0.1, 4), TypeError, "schedules.warm_up: schedule has type float, expected a function"),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}") as raised:
        make()
    assert len(str(raised.value)) < 200


def test_a_schedule_drives_an_optimizer() -> None:
    sgd, params, schedule = bptt.optim.SGD(1.0), bptt.Params({"w": (1,)}, np.float64), linear(1.0, 4)
    grads = params.zeros_like()
    grads.flat[:] = 1
    for k in range(6):
        sgd.lr = schedule(k)
        sgd.step(params, grads)
    assert params.flat[0] == -(1 + 0.75 + 0.5 + 0.25)
