# SPDX-License-Identifier: Apache-2.0
"""Optimizers against bptt.reference over several steps, with clipping; a bad gradient changes nothing; errors."""

import copy
import math
import pickle
from fractions import Fraction

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
    assert SGD(1.0, clip_norm=5.0).step(params, grads) == (5.0, False, 5.0)
    info = SGD(1.0, clip_norm=2.5).step(params, grads)
    assert info == optim.StepInfo(grad_norm=5.0, clipped=True, clipped_norm=2.5)
    np.testing.assert_allclose(params.flat, [-3 - 1.5, -4 - 2], rtol=1e-6)
    info = SGD(1.0, clip_norm=2.5, clip_value=1.75).step(params, grads)
    assert info == (5.0, True, math.hypot(1.5, 1.75))
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
    message = r"step: gradient has norm (nan|inf) \(first in b\), expected a finite one; nothing changed$"
    with pytest.raises(FloatingPointError, match=message):
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


@pytest.mark.parametrize("twin_of", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy])
@pytest.mark.parametrize("make", [lambda: SGD(0.1, momentum=0.9), lambda: Adam(0.1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optimizers_go_on_after_pickling_and_copying(twin_of, make, dtype):
    params, optimizer = make_params(dtype), make()
    optimizer.step(params, make_grads(params))
    twin, other = twin_of(optimizer), twin_of(params)
    assert repr(twin) == repr(optimizer)
    optimizer.step(params, make_grads(params, 1))
    twin.step(other, make_grads(other, 1))
    np.testing.assert_array_equal(params.flat, other.flat)
    with pytest.raises(ValueError, match=r"lr has value -1\.0"):
        twin.lr = -1


def test_momentum_that_is_set_later_works():
    for momentum in (0.9, np.float64(0.9), np.array(0.9)):
        params, optimizer = bptt.Params({"w": (1,)}, np.float64), SGD(0.1)
        optimizer.momentum = momentum
        assert repr(optimizer) == repr(SGD(0.1, momentum=0.9))
        grads = params.zeros_like()
        grads.flat[:] = 1
        for _ in range(2):
            optimizer.step(params, grads)
        np.testing.assert_allclose(params.flat, [-0.29], rtol=1e-15)
    # Without momentum there is no velocity; with momentum again it starts from zero.
    optimizer.momentum = 0
    optimizer.step(params, grads)
    np.testing.assert_allclose(params.flat, [-0.39], rtol=1e-15)
    optimizer.momentum = 0.5
    optimizer.nesterov = True
    for _ in range(2):  # v = 1, then 1.5; steps of 1 + 0.5 v
        optimizer.step(params, grads)
    np.testing.assert_allclose(params.flat, [-0.39 - 0.15 - 0.175], rtol=1e-15)


def test_every_hyperparameter_can_be_set_later():
    wanted = Adam(0.5, (0.5, 0.25), 1e-3, 0.1, 2.0, 0.3)
    adam = Adam()
    adam.lr, adam.betas, adam.eps, adam.weight_decay, adam.clip_norm, adam.clip_value = (
        0.5,
        [0.5, 0.25],
        1e-3,
        0.1,
        2,
        0.3,
    )
    assert repr(adam) == repr(wanted)
    params, other = make_params(), make_params()
    adam.step(params, make_grads(params))
    wanted.step(other, make_grads(other))
    np.testing.assert_array_equal(params.flat, other.flat)
    adam.clip_norm = adam.clip_value = None
    assert not adam.step(params, make_grads(params, scale=1e9)).clipped
    adam.steps = 0  # a schedule may start the bias corrections again
    assert adam.step(params, make_grads(params)).grad_norm > 0
    assert adam.steps == 1


@pytest.mark.parametrize("number", [2, np.float32(2), np.int64(2), np.array(2), np.array(2.0), Fraction(2)])
def test_whatever_is_one_number_is_a_hyperparameter(number):
    adam = Adam(number, weight_decay=number)
    adam.clip_norm = number
    assert adam.lr == adam.weight_decay == adam.clip_norm == float(number)
    assert type(adam.lr) is type(adam.clip_norm) is float


def test_a_subclass_may_keep_more():
    class Counting(SGD):
        """SGD that counts its steps."""

        def __init__(self, lr):
            super().__init__(lr)
            self.count = 0

        def step(self, params, grads):
            self.count += 1
            return super().step(params, grads)

    optimizer, params = Counting(0.5), make_params()
    optimizer.step(params, make_grads(params))
    assert optimizer.count == 1
    with pytest.raises(ValueError, match=r"^Counting: lr has value -1\.0"):
        optimizer.lr = -1


@pytest.mark.parametrize(
    ("make", "name", "value", "error", "message"),
    [
        (lambda: SGD(0.1), "lr", math.nan, ValueError, "SGD: lr has value nan, expected 0 <= lr < inf"),
        (lambda: SGD(0.1), "lr", -0.1, ValueError, "SGD: lr has value -0.1, expected 0 <= lr < inf"),
        (lambda: Adam(), "lr", math.inf, ValueError, "Adam: lr has value inf, expected 0 <= lr < inf"),
        (lambda: Adam(), "lr", 10**400, ValueError, "Adam: lr has value inf"),
        (lambda: SGD(0.1), "lr", "abc", TypeError, "SGD: lr has type str, expected a number"),
        (lambda: SGD(0.1), "lr", "0.1", TypeError, "SGD: lr has type str, expected a number"),
        (lambda: SGD(0.1), "lr", None, TypeError, "SGD: lr has type NoneType, expected a number"),
        (lambda: SGD(0.1), "lr", 1j, TypeError, "SGD: lr has type complex, expected a number"),
        (lambda: SGD(0.1), "lr", np.complex64(1), TypeError, "SGD: lr has type complex64, expected a number"),
        (lambda: SGD(0.1), "lr", np.ones(1), TypeError, "SGD: lr has type ndarray, expected a number"),
        (lambda: SGD(0.1), "lr", np.ones(3), TypeError, "SGD: lr has type ndarray, expected a number"),
        (lambda: SGD(0.1), "lr", [0.1], TypeError, "SGD: lr has type list, expected a number"),
        (lambda: SGD(0.1), "weight_decay", math.inf, ValueError, "SGD: weight_decay has value inf"),
        (lambda: SGD(0.1), "clip_norm", -1, ValueError, "SGD: clip_norm has value -1.0"),
        (lambda: SGD(0.1), "clip_norm", math.nan, ValueError, "SGD: clip_norm has value nan"),
        (lambda: SGD(0.1), "clip_value", "1", TypeError, "SGD: clip_value has type str"),
        (lambda: SGD(0.1), "momentum", 1, ValueError, "SGD: momentum has value 1.0, expected 0 <= momentum < 1"),
        (lambda: SGD(0.1), "nesterov", True, ValueError, "SGD: momentum has value 0 with nesterov, expected 0 < mom"),
        (lambda: SGD(0.1, 0.9), "nesterov", 0.5, TypeError, "SGD: nesterov has type float, expected True or False"),
        (lambda: SGD(0.1, 0.9, True), "momentum", 0, ValueError, "SGD: momentum has value 0 with nesterov"),
        (lambda: Adam(), "betas", (2, 3), ValueError, "Adam: beta1 has value 2.0, expected 0 <= beta1 < 1"),
        (lambda: Adam(), "betas", 0.9, ValueError, "Adam: betas has type float, expected the pair"),
        (lambda: Adam(), "eps", -1, ValueError, "Adam: eps has value -1.0"),
        (lambda: Adam(), "steps", -1, ValueError, "Adam: steps has value -1, expected an integer >= 0"),
        (
            lambda: SGD(0.1),
            "learning_rate",
            1,
            AttributeError,
            "SGD: there is no 'learning_rate', expected one of lr, ",
        ),
        (lambda: Adam(), "beta1", 0.5, AttributeError, "Adam: there is no 'beta1', expected one of lr, .*betas"),
    ],
)
def test_an_assignment_is_checked_as_the_constructor_checks(make, name, value, error, message):
    optimizer = make()
    with pytest.raises(error, match=f"^{message}") as raised:
        setattr(optimizer, name, value)
    assert len(str(raised.value)) < 200
    assert repr(optimizer) == repr(make())


def test_gradients_and_parameters_must_fit():
    params, optimizer = make_params(), Adam()
    for shapes, has, expected in (
        ({"a": (2,)}, r"a \(2,\)", r"w \(36,\)"),
        ({"w": (36,)}, "no more arrays", r"b \(4,\)"),
        ({"w": (36,), "b": (2, 2)}, r"b \(2, 2\)", r"b \(4,\)"),
        ({"w": (36,), "b": (4,), "c": (1,)}, r"c \(1,\)", "no more arrays"),
    ):
        with pytest.raises(ValueError, match=f"^Adam.step: grads has {has}, expected {expected}, as backward returned"):
            optimizer.step(params, bptt.Params(shapes, np.float64, writable=True))
    with pytest.raises(TypeError, match=r"^Adam.step: grads has dtype float32, expected float64, as backward returned"):
        optimizer.step(params, make_grads(make_params(np.float32)))
    optimizer.step(params, make_grads(params))
    single = make_params(np.float32)
    with pytest.raises(TypeError, match=r"^Adam.step: params has dtype float32, expected float64, those of the first"):
        optimizer.step(single, make_grads(single))
    smaller = bptt.Params({"w": (36,)}, np.float64)
    with pytest.raises(
        ValueError, match=r"^Adam.step: params has no more arrays, expected b \(4,\), those of the first"
    ):
        optimizer.step(smaller, smaller.zeros_like())


def test_a_refused_step_does_not_choose_the_parameters():
    optimizer, params = Adam(), bptt.Params({"other": (2,)})
    grads = params.zeros_like()
    grads.flat[0] = math.nan
    with pytest.raises(FloatingPointError):
        optimizer.step(params, grads)
    optimizer.step(make_params(), make_grads(make_params()))


def test_what_is_no_params_is_named():
    params = make_params()
    for wrong in ({}, None, dict(params), params.flat, [1.0]):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=f"^SGD.step: grads has type {kind}, expected Params, as backward returned"):
            SGD(0.1).step(params, wrong)
    with pytest.raises(TypeError, match=r"^SGD.step: params has type Linear, expected Params, such as model.params$"):
        SGD(0.1).step(bptt.Linear(2, 2), make_grads(params))


def test_messages_about_large_models_are_short():
    model = bptt.LSTM(3, 4, num_layers=50, bidirectional=True)
    other = bptt.LSTM(3, 4, num_layers=49, bidirectional=True)
    grads = model.params.zeros_like()
    grads.flat[:] = math.inf
    for call in (
        lambda: SGD(0.1).step(model.params, other.params.zeros_like()),
        lambda: SGD(0.1).step(model.params, dict(grads)),
        lambda: SGD(0.1).step(model.params, grads),
    ):
        with pytest.raises((ValueError, TypeError, FloatingPointError)) as raised:
            call()
        assert len(str(raised.value)) < 200


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


def test_swapped_arguments_are_named():
    params = make_params()
    with pytest.raises(ValueError, match=r"^SGD.step: params is writable, as gradients are, expected model.params"):
        SGD(0.1).step(make_grads(params), params)
