# SPDX-License-Identifier: Apache-2.0
"""Optimizers against bptt.reference over several steps, with clipping; what a bad gradient leaves unchanged; errors."""

import math
import pickle

import numpy as np
import pytest

import bptt
from bptt import optim, reference
from bptt.optim import SGD, Adam

STEPS, N = 5, 40


def make_params(dtype=np.float64):
    params = bptt.Params({"w": (N - 4,), "b": (4,)}, dtype)
    with params.edit() as p:
        p.flat[:] = np.random.default_rng(0).standard_normal(N)
    return params


def make_grads(params, k=0, scale=1.0):
    grads = params.zeros_like()
    grads.flat[:] = scale * np.random.default_rng(100 + k).standard_normal(N)
    return grads


CLIPS = [{}, {"clip_norm": 3.0}, {"clip_norm": 1e9}, {"clip_value": 0.5}, {"clip_norm": 3.0, "clip_value": 0.4}]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.1},
    ],
)
def test_sgd_agrees_with_the_reference(options, clip):
    params, optimizer, w, v = make_params(), SGD(0.1, **options, **clip), make_params().flat, np.zeros(N)
    for k in range(STEPS):
        grads = make_grads(params, k)
        info = optimizer.step(params, grads)
        norm, clipped, w, v = reference.sgd_step(w, grads.flat, v, lr=0.1, **options, **clip)
        np.testing.assert_allclose(info.grad_norm, norm, rtol=1e-14)
        assert info.clipped is clipped
        np.testing.assert_allclose(params.flat, w, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.8), "eps": 1e-3}])
def test_adam_agrees_with_the_reference(options, clip):
    params, optimizer, w = make_params(), Adam(0.1, **options, **clip), make_params().flat
    m, v = np.zeros(N), np.zeros(N)
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    others = {"beta1": beta1, "beta2": beta2, **{name: x for name, x in options.items() if name != "betas"}}
    for k in range(STEPS):
        grads = make_grads(params, k)
        info = optimizer.step(params, grads)
        norm, clipped, w, m, v = reference.adam_step(w, grads.flat, m, v, k + 1, lr=0.1, **others, **clip)
        np.testing.assert_allclose(info.grad_norm, norm, rtol=1e-14)
        assert info.clipped is clipped
        np.testing.assert_allclose(params.flat, w, rtol=1e-12, atol=1e-13)
    assert optimizer.steps == STEPS


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9, clip_norm=2.0), Adam(0.1, clip_value=0.3)])
def test_float32_follows_float64(optimizer):
    twin, double, single = pickle.loads(pickle.dumps(optimizer)), make_params(), make_params(np.float32)
    for k in range(STEPS):
        twin.step(double, make_grads(double, k))
        optimizer.step(single, make_grads(single, k))
    # each of 5 steps rounds values of order 1 a few times: 5 * 4 * 2^-24
    np.testing.assert_allclose(single.flat, double.flat, rtol=0, atol=2e-6)


def test_clipping_is_global_and_comes_before_the_values():
    params, grads = bptt.Params({"a": (1,), "b": (1,)}), bptt.Params({"a": (1,), "b": (1,)}, writable=True)
    grads["a"][:], grads["b"][:] = 3, 4
    assert SGD(1.0, clip_norm=5.0).step(params, grads) == (5.0, False)
    info = SGD(1.0, clip_norm=2.5).step(params, grads)
    assert info == optim.StepInfo(grad_norm=5.0, clipped=True)
    np.testing.assert_allclose(params.flat, [-3 - 1.5, -4 - 2], rtol=1e-6)
    SGD(1.0, clip_norm=2.5, clip_value=1.75).step(params, grads)
    np.testing.assert_allclose(params.flat, [-4.5 - 1.5, -6 - 1.75], rtol=1e-6)
    assert grads.flat.tolist() == [3, 4]


@pytest.mark.parametrize("make", [lambda: SGD(0.1, momentum=0.9), lambda: Adam(0.1)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(make, bad):
    params, other, optimizer, twin = make_params(), make_params(), make(), make()
    optimizer.step(params, make_grads(params))
    twin.step(other, make_grads(other))
    grads = make_grads(params, 1)
    grads["b"][2] = bad
    before = params.flat.copy()
    with pytest.raises(FloatingPointError, match=r"step: gradient has norm (nan|inf) \(b\), expected a finite one"):
        optimizer.step(params, grads)
    np.testing.assert_array_equal(params.flat, before)
    optimizer.step(params, make_grads(params, 2))
    twin.step(other, make_grads(other, 2))
    np.testing.assert_array_equal(params.flat, other.flat)


def test_a_large_gradient_is_not_taken_for_an_infinite_one():
    params, grads = make_params(np.float32), make_grads(make_params(np.float32))
    grads.flat[:] = 1e30  # its square is beyond float32
    info = SGD(0.0, clip_norm=1.0).step(params, grads)
    np.testing.assert_allclose(info.grad_norm, 1e30 * math.sqrt(N), rtol=1e-6)
    assert info.clipped


def test_a_step_is_seen_by_the_layer():
    linear = bptt.Linear(3, 2, seed=0)
    x = np.ones((1, 3), np.float32)
    y, tape = linear.forward(x)
    _, grads = linear.backward(tape, np.ones_like(y))
    version = linear.params.version
    SGD(0.5).step(linear.params, grads)
    assert linear.params.version != version
    np.testing.assert_allclose(linear(x), y - 0.5 * (3 + 1), rtol=1e-5)


def test_a_schedule_is_an_assignment():
    params, optimizer = make_params(), Adam(0.1)
    before = params.flat.copy()
    optimizer.lr = 0.0
    optimizer.step(params, make_grads(params))
    np.testing.assert_array_equal(params.flat, before)


def test_optimizers_go_on_after_pickling():
    params, other, optimizer = make_params(), make_params(), Adam(0.1)
    optimizer.step(params, make_grads(params))
    optimizer_copy = pickle.loads(pickle.dumps(optimizer))
    other = pickle.loads(pickle.dumps(params))
    optimizer.step(params, make_grads(params, 1))
    optimizer_copy.step(other, make_grads(other, 1))
    np.testing.assert_array_equal(params.flat, other.flat)


def test_gradients_and_parameters_must_fit():
    params, optimizer = make_params(), Adam()
    with pytest.raises(ValueError, match=r"Adam.step: grads has Params\(a \[2\]; 2 x float64\), expected Params\(w"):
        optimizer.step(params, bptt.Params({"a": (2,)}, np.float64, writable=True))
    with pytest.raises(ValueError, match=r"Adam.step: grads has .* float32\), expected .* float64\)"):
        optimizer.step(params, make_grads(make_params(np.float32)))
    optimizer.step(params, make_grads(params))
    single = make_params(np.float32)
    with pytest.raises(ValueError, match=r"Adam.step: params has .* float32\), expected .*those of the first step"):
        optimizer.step(single, make_grads(single))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGD(-1), ValueError, "SGD: lr has value -1.0, expected 0 <= lr < inf"),
        (lambda: SGD(math.nan), ValueError, "SGD: lr has value nan"),
        (lambda: SGD("a"), TypeError, "SGD: lr has type str, expected a number"),
        (lambda: SGD(1, momentum=1), ValueError, "SGD: momentum has value 1.0, expected 0 <= momentum < 1"),
        (lambda: SGD(1, nesterov=True), ValueError, "SGD: momentum has value 0 with nesterov"),
        (lambda: SGD(1, weight_decay=-1), ValueError, "SGD: weight_decay has value -1.0"),
        (lambda: Adam(clip_norm=-1), ValueError, "Adam: clip_norm has value -1.0"),
        (lambda: Adam(clip_value=math.nan), ValueError, "Adam: clip_value has value nan"),
        (lambda: Adam(betas=(0.9, 1.0)), ValueError, "Adam: beta2 has value 1.0, expected 0 <= beta2 < 1"),
        (lambda: Adam(betas=0.9), ValueError, "Adam: betas has type float"),
        (lambda: Adam(eps=-1e-8), ValueError, "Adam: eps has value -1e-08"),
    ],
)
def test_wrong_options_are_named(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()
