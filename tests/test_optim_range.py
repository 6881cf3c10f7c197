# SPDX-License-Identifier: Apache-2.0
"""Optimizers at the edges of float32 and float64: norm, clipping and moments are right, or the step is refused."""

import math
import pickle

import numpy as np
import pytest

import bptt
from bptt import reference
from bptt.optim import SGD, Adam
from bptt.params import Params

STEPS, N = 5, 40
BETAS = 0.5, 0.75  # these and their powers are exact, and so are the bias corrections


def params_of(values, dtype):
    values = np.asarray(values, dtype).reshape(-1)
    params = bptt.Params({"a": (len(values) - 1,), "b": (1,)} if len(values) > 1 else {"a": (1,)}, dtype)
    with params.edit() as p:
        p.flat[:] = values
    return params


def grads_of(params, values):
    grads = params.zeros_like()
    grads.flat[:] = values
    return grads


def eps(dtype):
    return float(np.finfo(dtype).eps)


SIZES = [
    *[(np.float64, g) for g in (1.7e308, 5e307, 1e200, 1e-200, 3e-307)],
    *[(np.float32, g) for g in (3e38, 1e25, 1e-25, 3e-37)],
]
every_size = pytest.mark.parametrize(("dtype", "size"), SIZES)


@every_size
@pytest.mark.parametrize("n", [1, 9])
def test_the_norm_is_the_true_one(dtype, size, n):
    size /= math.sqrt(n)  # so that the norm is within float64
    params = params_of(np.zeros(n), dtype)
    grads = grads_of(params, size)
    info = SGD(0.0).step(params, grads)
    # n squares, their sum, a root and a division
    np.testing.assert_allclose(info.grad_norm, float(grads.flat[0]) * math.sqrt(n), rtol=(n + 4) * eps(np.float64))
    assert not info.clipped


@every_size
@pytest.mark.parametrize("make", [lambda **limits: SGD(1.0, **limits), lambda **limits: SGD(1.0, 0.5, **limits)])
def test_clipping_works_at_any_size(dtype, size, make):
    signs = np.array([1.0, -1.0, 1.0, 1.0])
    for limit in (size / 4, 1.0, 1e-20):
        if limit < size:
            params = params_of(np.zeros(4), dtype)
            info = make(clip_norm=limit).step(params, grads_of(params, signs * (size / 2)))
            assert info.clipped
            np.testing.assert_allclose(params.flat, -signs * limit / 2, rtol=16 * eps(dtype))
            params = params_of(np.zeros(4), dtype)
            info = make(clip_value=limit).step(params, grads_of(params, signs * (size / 2)))
            assert info.clipped is bool(limit < dtype(size / 2))
            np.testing.assert_allclose(params.flat, -signs * min(limit, size / 2), rtol=4 * eps(dtype))


@pytest.mark.parametrize(("dtype", "size", "limit"), [(np.float32, 1e30, 1e-30), (np.float64, 1e300, 1e-200)])
def test_the_scale_of_clipping_may_be_below_the_dtype(dtype, size, limit):
    params = params_of([0.0], dtype)
    assert SGD(1.0, clip_norm=limit).step(params, grads_of(params, size)).clipped
    np.testing.assert_allclose(params.flat, [-limit], rtol=4 * eps(dtype))


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e-320), (np.float32, 1e-40)])
def test_subnormal_gradients_count_as_zero(dtype, size):
    params = params_of([0.0, 1.0], dtype)
    assert SGD(1.0, clip_norm=1e-300).step(params, grads_of(params, size)) == (0.0, False, 0.0)
    assert params.flat.tolist() == [0.0, 1.0]


def test_a_norm_beyond_float64_is_refused():
    params = params_of(np.ones(100), np.float64)
    with pytest.raises(FloatingPointError, match=r"^SGD.step: gradient has a norm beyond float64, .* nothing changed$"):
        SGD(1.0, clip_norm=1.0).step(params, grads_of(params, 5e307))
    assert (params.flat == 1).all()


@every_size
def test_adam_moves_by_lr_whatever_the_size_of_the_gradient(dtype, size):
    tiny = 0.0 if size < 1 else 1e-8
    params, optimizer = params_of([0.0], dtype), Adam(0.125, BETAS, eps=tiny)
    for k in range(1, STEPS + 1):
        optimizer.step(params, grads_of(params, size))
        np.testing.assert_allclose(params.flat, [-0.125 * k / (1 + tiny / size)], rtol=16 * eps(dtype))
    optimizer.step(params, grads_of(params, 0))
    assert np.isfinite(params.flat).all()


@pytest.mark.parametrize(("scale", "options"), [(1e25, {}), (3e37, {}), (1e-25, {"eps": 1e-28}), (1e-10, {"eps": 0.0})])
def test_adam_in_float32_agrees_with_the_reference_at_any_scale(scale, options):
    rng = np.random.default_rng(0)
    params, optimizer = params_of(rng.standard_normal(N), np.float32), Adam(0.1, **options)
    w, m, v = params.flat.copy(), np.zeros(N), np.zeros(N)
    for k in range(STEPS):
        grads = grads_of(params, scale * rng.standard_normal(N))
        optimizer.step(params, grads)
        _, _, w, m, v = reference.adam_step(w, grads.flat, m, v, k + 1, lr=0.1, **options)
    # as in test_optim: 5 steps, each rounds values of order 1 a few times
    np.testing.assert_allclose(params.flat, w, rtol=0, atol=2e-6)


def test_one_large_gradient_does_not_freeze_a_weight():
    params, optimizer = params_of([0.0], np.float32), Adam(0.1, BETAS)
    w, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
    for k in range(600):
        grads = grads_of(params, 1e25 if k == 0 else 1.0)
        optimizer.step(params, grads)
        _, _, w, m, v = reference.adam_step(w, grads.flat, m, v, k + 1, lr=0.1, beta1=BETAS[0], beta2=BETAS[1])
    assert -30 < w[0] < -10  # moved by lr a step, once 0.75^(k/2) 1e25 is below 1: after 400 steps
    # Each step rounds w once, and its change, of at most 0.1, as often as m and s remember: 10 times.
    np.testing.assert_allclose(params.flat, w, rtol=0, atol=600 * (30 + 0.1 * 10) * eps(np.float32) / 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("small", [0.0, 1e-320, 1e-46, 1e-40])
def test_a_weight_without_a_gradient_stays_whatever_eps(dtype, small):
    params, optimizer = params_of([1.0, 2.0], dtype), Adam(0.5, BETAS, eps=small)
    for _ in range(3):
        optimizer.step(params, grads_of(params, [0.0, 1.0]))
    np.testing.assert_allclose(params.flat, [1.0, 0.5], rtol=16 * eps(dtype))
    one = reference.adam_step([1.0], [0.0], [0.0], [0.0], 1, eps=0.0)
    assert one[2].tolist() == [1.0]


@pytest.mark.parametrize(
    ("make", "w", "size"),
    [
        (lambda: SGD(10.0), 0.0, 3e38),
        (lambda: SGD(1.0), -3e38, 3e38),
        (lambda: SGD(1e39), 0.0, 1.0),
        (lambda: SGD(0.0, momentum=0.9, weight_decay=2.0), 3e38, 1.0),
        (lambda: SGD(10.0, weight_decay=1.0), 1e38, 0.0),
        (lambda: Adam(1e39), 0.0, 1.0),
        (lambda: Adam(10.0, weight_decay=1.0), 1e38, 0.0),
        (lambda: SGD(0.1), math.nan, 1.0),
    ],
)
def test_a_step_out_of_range_is_refused_and_changes_nothing(make, w, size):
    params = params_of([1.0, 1.0, w], np.float32)
    before, optimizer = params.flat.copy(), make()
    message = r"step: b or its moments would be inf or NaN in float32, expected finite values; nothing changed$"
    with pytest.raises(FloatingPointError, match=message):
        optimizer.step(params, grads_of(params, [1e-9, 1e-9, size]))
    np.testing.assert_array_equal(params.flat, before)
    assert repr(optimizer) == repr(make())
    with params.edit() as p:
        p.flat[2] = 1.0
    twin, fresh = pickle.loads(pickle.dumps(params)), make()
    optimizer.lr = fresh.lr = 0.1
    for o, p in ((optimizer, params), (fresh, twin)):  # moments are those of a first step
        o.step(p, grads_of(p, 1.0))
    np.testing.assert_array_equal(params.flat, twin.flat)


def test_moments_out_of_range_are_refused():
    params, optimizer = params_of([0.0], np.float32), SGD(0.1, momentum=0.9)
    optimizer.step(params, grads_of(params, 3e38))
    before = params.flat.copy()
    with pytest.raises(FloatingPointError, match="a or its moments"):
        optimizer.step(params, grads_of(params, 3e38))
    np.testing.assert_array_equal(params.flat, before)
    optimizer.step(params, grads_of(params, 0.0))  # the velocity is still that of the first step
    np.testing.assert_allclose(params.flat, before * 1.9, rtol=4 * eps(np.float32))


def test_weights_that_grow_between_steps_are_seen():
    layers = bptt.Linear(1, 1, bias=False, seed=0), bptt.Linear(1, 1, bias=False, seed=0)
    model = bptt.Sequential(*layers)  # one version for both
    optimizer = SGD(10.0, weight_decay=0.5)
    model.params["1.weight"] = [[3e38]]
    for layer in (layers[0], layers[0]):
        optimizer.step(layer.params, layer.params.zeros_like())
    with pytest.raises(FloatingPointError, match="weight or its moments"):
        optimizer.step(layers[1].params, layers[1].params.zeros_like())
    layers[0].params["weight"] = [[-3e38]]
    with pytest.raises(FloatingPointError, match="weight or its moments"):
        optimizer.step(layers[0].params, layers[0].params.zeros_like())


@pytest.mark.parametrize("make", [lambda: SGD(0.1, 0.9, clip_norm=2.0), lambda: Adam(0.1, clip_value=0.3)])
@pytest.mark.parametrize("scale", [1.0, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_any_number_of_threads_and_after_pickling(make, scale, dtype):
    rng = np.random.default_rng(0)
    n = 200_001  # enough for five threads (csrc/optim/norm.h)
    start, gradients = rng.standard_normal(n), scale * rng.standard_normal((3, n))
    results, threads = [], bptt.get_num_threads()
    try:
        for count in (1, 2, 3, 5):
            bptt.set_num_threads(count)
            params, optimizer = params_of(start, dtype), make()
            infos = []
            for g in gradients:
                optimizer = pickle.loads(pickle.dumps(optimizer)) if count == 2 else optimizer
                infos.append(optimizer.step(params, grads_of(params, g)))
            results.append((infos, params.flat.copy()))
    finally:
        bptt.set_num_threads(threads)
    for infos, flat in results[1:]:
        assert infos == results[0][0]
        np.testing.assert_array_equal(flat, results[0][1])


def test_clipping_a_huge_gradient_to_a_huge_norm_overflows_nowhere():
    params = Params({"w": (2,)}, "float64")
    grads = Params({"w": (2,)}, "float64", writable=True)
    grads["w"][:] = [1e293, 1e280]
    SGD(1.0, clip_norm=1e30).step(params, grads)
    np.testing.assert_allclose(params["w"], [-1e30, -1e17], rtol=1e-14)
    params["w"] = np.zeros(2)
    SGD(1.0, clip_norm=1e30, clip_value=1e25).step(params, grads)
    np.testing.assert_allclose(params["w"], [-1e25, -1e17], rtol=1e-14)
