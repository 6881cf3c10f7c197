# SPDX-License-Identifier: Apache-2.0
"""Each optimizer against PyTorch's over 1,000 steps, and step by step against bptt.reference in both dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import reference
from bptt._dispatch import core
from bptt.optim import SGD, Adagrad, Adam, AdamW, Lion, NAdam, Optimizer, RMSprop

N = 13
LR = 0.01


def params_of(dtype: Any, seed: int = 0) -> bptt.Params:
    params = bptt.Params({"w": (N - 3,), "b": (3,)}, dtype)
    with params.edit() as p:
        p.flat[:] = np.random.default_rng(seed).standard_normal(N)
    return params


# Of a slowly moving mean, so that means and deviations differ.
GRADIENTS = np.random.default_rng(1).standard_normal((1000, N)) + np.cos(np.arange(1000)[:, None] / 100)


TORCH: dict[str, tuple[Callable[[], Optimizer], str, dict[str, Any]]] = {
    "sgd": (lambda: SGD(LR, 0.9, weight_decay=0.1), "SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (lambda: SGD(LR, 0.9, True), "SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": (lambda: Adam(LR, (0.8, 0.99), 1e-4), "Adam", {"betas": (0.8, 0.99), "eps": 1e-4}),
    "adam decays as adamw": (lambda: Adam(LR, weight_decay=0.1), "AdamW", {"weight_decay": 0.1}),
    "adamw": (lambda: AdamW(LR), "AdamW", {}),
    "amsgrad": (lambda: AdamW(LR, amsgrad=True, weight_decay=0.1), "AdamW", {"amsgrad": True, "weight_decay": 0.1}),
    "nadam": (lambda: NAdam(LR, weight_decay=0.1), "NAdam", {"weight_decay": 0.1}),
    "decoupled nadam": (
        lambda: NAdam(LR, (0.7, 0.95), 1e-5, 0.1, 0.02, decoupled_weight_decay=True),
        "NAdam",
        {
            "betas": (0.7, 0.95),
            "eps": 1e-5,
            "weight_decay": 0.1,
            "momentum_decay": 0.02,
            "decoupled_weight_decay": True,
        },
    ),
    "rmsprop": (lambda: RMSprop(LR, weight_decay=0.1), "RMSprop", {"weight_decay": 0.1}),
    "rmsprop with momentum": (
        lambda: RMSprop(LR, 0.9, 1e-4, momentum=0.8),
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-4, "momentum": 0.8},
    ),
    "centered rmsprop": (lambda: RMSprop(LR, centered=True), "RMSprop", {"centered": True}),
    "centered rmsprop, all": (
        lambda: RMSprop(LR, 0.9, momentum=0.8, centered=True, weight_decay=0.1),
        "RMSprop",
        {"alpha": 0.9, "momentum": 0.8, "centered": True, "weight_decay": 0.1},
    ),
    "adagrad": (
        lambda: Adagrad(LR, 0.01, 0.1, 0.5, 1e-6),
        "Adagrad",
        {"lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-6},
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_thousand_steps_are_pytorchs(name: str, request: Any) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    request.addfinalizer(lambda: torch.set_default_dtype(before))
    torch.set_default_dtype(torch.float64)  # of the product of NAdam's factors, too
    make, kind, options = TORCH[name]
    params, ours = params_of(np.float64), make()
    theirs = torch.nn.Parameter(torch.tensor(params.flat))
    optimizer = getattr(torch.optim, kind)([theirs], lr=LR, **options)
    grads = params.zeros_like()
    theirs.grad = torch.from_numpy(grads.flat)  # the same memory
    for gradient in GRADIENTS:
        grads.flat[:] = gradient
        ours.step(params, grads)
        optimizer.step()
    assert ours.steps == 1000
    # 1000 steps of 20 roundings of values of order 1 are 4e-12 at most
    np.testing.assert_allclose(params.flat, theirs.detach().numpy(), rtol=1e-10, atol=1e-11)


def by_reference(o: Any, w: Any, g: Any, x: dict[str, Any], state: dict[str, float]) -> tuple[Any, dict[str, Any]]:
    """w and the moments after a step, from those before it, computed by the reference. Moments s are roots."""
    decay, zero = {"lr": o.lr, "weight_decay": o.weight_decay}, np.zeros(N)
    if isinstance(o, NAdam):
        w, m, v, state["product"] = reference.nadam_step(
            w, g, x["m"], x["s"] ** 2, state["product"], o.steps + 1, **decay
        )
        return w, {"m": m, "s": np.sqrt(v)}
    if isinstance(o, Adam) and o.amsgrad:
        w, m, v, v_max = reference.amsgrad_step(w, g, x["m"], x["s"] ** 2, x["s_max"] ** 2, o.steps + 1, **decay)
        return w, {"m": m, "s": np.sqrt(v), "s_max": np.sqrt(v_max)}
    if isinstance(o, Adam):
        _, _, w, m, v = reference.adam_step(w, g, x["m"], x["s"] ** 2, o.steps + 1, **decay)
        return w, {"m": m, "s": np.sqrt(v)}
    if isinstance(o, RMSprop):
        m = x.get("m", zero)
        v0 = x["s_centered"] ** 2 + m**2 if o.centered else x["s"] ** 2
        others = {"momentum": o.momentum, "centered": o.centered, "alpha": o.alpha}
        w, v, m, velocity = reference.rmsprop_step(w, g, v0, m, x.get("v", zero), **others, **decay)
        return w, {"m": m, "v": velocity, "s": np.sqrt(v), "s_centered": np.sqrt(np.maximum(v - m**2, 0))}
    if isinstance(o, Adagrad):
        w, v = reference.adagrad_step(w, g, x["s"] ** 2, o.steps + 1, lr_decay=o.lr_decay, **decay)
        return w, {"s": np.sqrt(v)}
    w, m = reference.lion_step(w, g, x["m"], **decay)
    return w, {"m": m}


RULES: list[Callable[[], Any]] = [
    lambda: Adam(LR, amsgrad=True, weight_decay=0.1),
    lambda: AdamW(LR, weight_decay=0.1),
    lambda: NAdam(LR, weight_decay=0.1),
    lambda: RMSprop(LR, weight_decay=0.1),
    lambda: RMSprop(LR, 0.9, momentum=0.5, centered=True),
    lambda: Adagrad(LR, 0.1, 0.1, 0.25),
    lambda: Lion(LR, weight_decay=0.1),
]


@pytest.mark.parametrize("make", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e25])  # plain arithmetic, and wide
def test_each_step_agrees_with_the_reference(make: Callable[[], Any], dtype: Any, scale: float) -> None:
    params, o, state = params_of(dtype), make(), {"product": 1.0}
    grads = params.zeros_like()
    o.weight_decay = 0.0 if scale > 1 else o.weight_decay  # else s is that of the decay at one scale only
    x = {name: np.full(N, o._start()) for name in o._moment_names()}
    eps = float(np.finfo(dtype).eps)
    for k in range(20):
        grads.flat[:] = scale * GRADIENTS[k]
        w0, lion = params.flat.astype(np.float64), isinstance(o, Lion)
        c = 0.9 * x["m"] + 0.1 * grads.flat.astype(np.float64) if lion else np.ones(N)
        w, wanted = by_reference(o, w0, grads.flat.astype(np.float64), x, state)
        o.step(params, grads)
        sure = np.abs(c) > (8 * eps * scale if lion else 0)  # of the sign
        assert sure.mean() > 0.9
        # w is rounded 4 times, and 16 times a step of at most lr |g| / s <= lr / sqrt(1 - beta2), 32 lr
        np.testing.assert_allclose(params.flat[sure], w[sure], rtol=4 * eps, atol=(4 * 3 + 16 * 32 * LR) * eps)
        x = {name: moment.flat.astype(np.float64) for name, moment in o._moments.items()}
        for name in x:
            size = 1 if name == "v" else scale  # a velocity is a sum of steps
            np.testing.assert_allclose(x[name] / size, wanted[name] / size, rtol=16 * eps, atol=64 * eps)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adam(LR, eps=0, amsgrad=True),
        lambda: NAdam(LR, eps=0),
        lambda: RMSprop(LR, eps=0, momentum=0.5),
        lambda: RMSprop(LR, eps=0, momentum=0.5, centered=True),
        lambda: Adagrad(LR, eps=0),
        lambda: Lion(LR),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "power"), [(np.float32, 120), (np.float32, -110), (np.float64, 1018), (np.float64, -1000)]
)
def test_a_step_does_not_depend_on_the_size_of_the_gradient(make: Callable[[], Any], dtype: Any, power: int) -> None:
    results = []
    for factor in (1.0, math.ldexp(1.0, power)):
        params, o = params_of(dtype), make()
        grads = params.zeros_like()
        for k in range(10):
            grads.flat[:] = GRADIENTS[k].astype(dtype) * dtype(factor)
            grads.flat[3] = 0  # 0 / 0 is no step
            o.step(params, grads)
        results.append(params.flat.copy())
    assert results[1][3] == params_of(dtype).flat[3]
    # 10 steps, each rounded 20 times at 32 lr and once at |w| < 4
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=10 * (20 * 32 * LR + 4) * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    "make", [lambda: RMSprop(1e39), lambda: Adagrad(1e39), lambda: NAdam(1e39), lambda: Lion(1e39), lambda: AdamW(1e39)]
)
def test_a_step_out_of_range_changes_nothing(make: Callable[[], Any]) -> None:
    params, o = params_of(np.float32), make()
    before, grads = params.flat.copy(), params.zeros_like()
    grads.flat[-1] = 1
    o.weight_decay = 0
    with pytest.raises(FloatingPointError, match="b or its moments would be inf or NaN in float32"):
        o.step(params, grads)
    np.testing.assert_array_equal(params.flat, before)
    assert o.steps == 0
    o.lr = 0.1
    twin = make()
    twin.lr, twin.weight_decay, other = 0.1, 0, params_of(np.float32)
    for optimizer, p in ((o, params), (twin, other)):
        optimizer.step(p, grads)
    np.testing.assert_array_equal(params.flat, other.flat)


def test_a_constant_gradient_does_not_make_centered_rmsprop_nan() -> None:
    params, o = params_of(np.float32), RMSprop(1e-6, 0.9, centered=True)
    grads = params.zeros_like()
    grads.flat[:] = 1 / 3
    for _ in range(500):  # the variance decays to nothing; computed as a difference it may become negative
        o.step(params, grads)
    assert np.isfinite(params.flat).all()


def test_adagrad_in_float32_loses_no_small_gradients() -> None:
    # squares of 1e-20 are below float32; 10,000 of them have the root 1e-18, which eps does not hide
    params, o = params_of(np.float32), Adagrad(1.0, eps=1e-19)
    before, grads = params.flat.copy(), params.zeros_like()
    grads.flat[:] = 1e-20
    o.lr = 0.0
    for _ in range(2000):
        o.step(params, grads)
    o.lr = 1.0
    o.step(params, grads)
    expected = 1e-20 / (1e-20 * math.sqrt(2001) + 1e-19)
    np.testing.assert_allclose(before - params.flat, expected, rtol=0, atol=8 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    "make", [*RULES, lambda: SGD(LR, 0.9, groups={"b": {"lr_scale": 0.5}}, clip_norm_per_parameter=50.0)]
)
def test_the_same_bits_for_any_number_of_threads(make: Callable[[], Any]) -> None:
    n, results, threads = 200_001, [], bptt.get_num_threads()  # enough for five threads (csrc/optim/norm.h)
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(n).astype(np.float32), rng.standard_normal((2, n)).astype(np.float32)
    try:
        for count in (1, 2, 5):
            bptt.set_num_threads(count)
            params, o = bptt.Params({"a": (70_001,), "b": (130_000,)}), make()
            with params.edit() as p:
                p.flat[:] = start
            grads, infos = params.zeros_like(), []
            for g in gradients:
                grads.flat[:] = g
                infos.append(o.step(params, grads))
            results.append((infos, params.flat.copy()))
    finally:
        bptt.set_num_threads(threads)
    for infos, flat in results[1:]:
        assert infos == results[0][0]
        np.testing.assert_array_equal(flat, results[0][1])


def test_the_native_step_checks_what_it_gets() -> None:
    w, g, m = np.zeros(3), np.ones(3), np.zeros(3)
    read_only = m.copy()
    read_only.flags.writeable = False
    no_limits = (math.inf,) * 3
    good: dict[str, Any] = {
        "rule": "lion", "options": {"beta1": 0.9, "beta2": 0.99}, "params": w, "grads": g, "moments": [m],
        "spans": [(3, 1.0, 0.0)], "limits": no_limits, "known_small": True,
    }  # fmt: skip
    assert core.optimizer_step(**good) == (math.sqrt(3), math.sqrt(3), math.sqrt(3), False, -1, True)
    for change, error, message in (
        ({"rule": "muon"}, ValueError, "there is no rule muon with 1 moments"),
        ({"moments": []}, ValueError, "there is no rule lion with 0 moments"),
        ({"options": {"beta1": 0.9}}, ValueError, "options has other names, expected beta1, beta2"),
        ({"options": {"beta1": 0.9, "beta": 0.9}}, ValueError, "options has other names, expected beta1, beta2"),
        ({"spans": []}, ValueError, "spans ends at 0, expected 3"),
        ({"spans": [(2, 1.0, 0.0)]}, ValueError, "spans ends at 2, expected 3"),
        ({"spans": [(4, 1.0, 0.0), (3, 1.0, 0.0)]}, ValueError, "spans has ends that decrease"),
        ({"spans": [(-1, 1.0, 0.0), (3, 1.0, 0.0)]}, ValueError, "spans has ends that decrease"),
        ({"moments": [m[:2]]}, ValueError, r"a moment has shape \(2,\), expected \(3,\)"),
        ({"moments": [read_only]}, ValueError, "a moment is read-only"),
        ({"grads": g.astype(np.float32)}, TypeError, "grads has dtype float32, expected float64"),
        ({"params": w.astype(int)}, TypeError, "params has dtype int64, expected float32 or float64"),
    ):
        with pytest.raises(error, match=f"^optimizer_step: {message}"):
            core.optimizer_step(**{**good, **change})
