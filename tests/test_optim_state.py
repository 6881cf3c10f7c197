# SPDX-License-Identifier: Apache-2.0
"""What all optimizers share: state dicts, groups, clipping, skipped steps, accumulated gradients."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import optim
from bptt.optim import SGD, Adagrad, Adam, AdamW, Lion, NAdam, RMSprop

SHAPES = {"0.weight": (5, 4), "1.weight_ih_l0": (8, 5), "1.bias_l0": (8,), "1.weight_norm_l0": (2, 8), "2.bias": (3,)}

ALL: list[Callable[[], Any]] = [
    lambda: SGD(0.1),
    lambda: SGD(0.1, 0.9, True, clip_norm_adaptive=1.5),
    lambda: Adam(0.1, amsgrad=True, nonfinite="skip"),
    lambda: AdamW(0.1, groups={"*bias*": {"lr_scale": 0.5}}, decay_only_matrices=True),
    lambda: NAdam(0.1),
    lambda: RMSprop(0.1, momentum=0.5),
    lambda: RMSprop(0.1, centered=True, clip_norm_per_parameter=1.0),
    lambda: Adagrad(0.1, 0.1, initial_accumulator_value=0.3),
    lambda: Lion(0.1),
]
every_optimizer = pytest.mark.parametrize("make", ALL)


def params_of(dtype: Any = np.float32, shapes: Any = SHAPES) -> bptt.Params:
    params = bptt.Params(shapes, dtype)
    for name in sorted(shapes):  # the same values for any order of the names
        params[name] = np.random.default_rng(len(name)).standard_normal(shapes[name])
    return params


def grads_of(params: bptt.Params, k: int = 0) -> bptt.Params:
    grads = params.zeros_like()
    for name in sorted(grads):
        grads[name][...] = np.random.default_rng(100 * k + len(name)).standard_normal(grads[name].shape)
    return grads


def stepped(make: Callable[[], Any], count: int, dtype: Any = np.float32) -> tuple[Any, bptt.Params]:
    optimizer, params = make(), params_of(dtype)
    for k in range(count):
        optimizer.step(params, grads_of(params, k))
    return optimizer, params


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """A state that went through a file: JSON, and the arrays in another order."""
    rest = json.loads(json.dumps({name: value for name, value in state.items() if name != "moments"}))
    moments = {
        name: {key: arrays[key].copy() for key in reversed(list(arrays))} for name, arrays in state["moments"].items()
    }
    return {**rest, "moments": moments}


def by_state(optimizer: Any) -> Any:
    # other options than those of the state, which replaces them
    other: Any = type(optimizer)(lr=7.0)
    other.load_state_dict(stored(optimizer.state_dict()))
    return other


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("again", [by_state, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_continued_run_has_the_same_bits(make: Any, dtype: Any, count: int, again: Any) -> None:
    optimizer, params = stepped(make, count, dtype)
    twin, other = again(optimizer), pickle.loads(pickle.dumps(params))
    assert repr(twin) == repr(optimizer)
    for k in range(3, 6):
        assert optimizer.step(params, grads_of(params, k)) == twin.step(other, grads_of(other, k))
    np.testing.assert_array_equal(params.flat, other.flat)
    states = optimizer.state_dict(), twin.state_dict()
    assert stored(states[0]).keys() == stored(states[1]).keys()
    np.testing.assert_equal(stored(states[0]), stored(states[1]))


def test_a_state_is_a_copy_and_knows_moments_that_an_option_asks_for() -> None:
    optimizer, params = stepped(lambda: SGD(0.1), 2)
    optimizer.momentum = 0.9
    state = optimizer.state_dict()
    assert {name: array.shape for name, array in state["moments"]["v"].items()} == SHAPES
    twin, other = SGD(1.0), pickle.loads(pickle.dumps(params))
    twin.load_state_dict(state)
    optimizer.step(params, grads_of(params))
    assert not state["moments"]["v"]["2.bias"].any()
    twin.step(other, grads_of(other))
    np.testing.assert_array_equal(params.flat, other.flat)


def changed(**parts: Any) -> dict[str, Any]:
    return {**stepped(lambda: Adam(0.1), 1)[0].state_dict(), **parts}


def moments_of(shapes: Any, dtype: Any = np.float32, value: float = 0.0) -> dict[str, Any]:
    return {name: {key: np.full(shape, value, dtype) for key, shape in shapes.items()} for name in ("m", "s")}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([], TypeError, "state has type list, expected a dict, as state_dict returns it"),
        ({"type": "Adam"}, ValueError, "state has no 'options', expected type, options, steps, scalars, moments"),
        (changed(more=1), ValueError, "state has 'more', expected type"),
        (SGD(0.1).state_dict(), ValueError, "state has type 'SGD', expected 'Adam'"),
        (AdamW(0.1).state_dict(), ValueError, "state has type 'AdamW', expected 'Adam'"),
        (changed(options={"lr": 1}), ValueError, "options has no 'betas', expected lr, betas"),
        (changed(options={**Adam().state_dict()["options"], "lr": -1}), ValueError, "lr has value -1.0"),
        (changed(options={**Adam().state_dict()["options"], "beta": 1}), ValueError, "options has 'beta', expected lr"),
        (changed(steps=-1), ValueError, "steps has value -1"),
        (changed(steps="1"), TypeError, "steps has type str"),
        (changed(scalars={}), ValueError, "scalars has no 'skipped'"),
        (
            changed(scalars={"skipped": 0, "norm_mean": math.nan, "norm_weight": 0.0}),
            ValueError,
            "norm_mean has value nan",
        ),
        (changed(moments={}), ValueError, "moments has no 'm', expected m, s"),
        (changed(moments={**moments_of(SHAPES), "v": {}}), ValueError, "moments has 'v', expected m, s"),
        (changed(moments={"m": 1, "s": 2}), TypeError, "m has type int, expected {parameter: array}"),
        (changed(moments=moments_of({"x": (2,)})), ValueError, "m has no '0.weight', expected 0.weight, "),
        (changed(moments=moments_of({**SHAPES, "x": (2,)})), ValueError, "m has 'x', expected 0.weight, "),
        (
            changed(moments=moments_of({**SHAPES, "2.bias": (4,)})),
            ValueError,
            r"m has 2.bias \(4,\), expected 2.bias \(3",
        ),
        (changed(moments=moments_of(SHAPES, np.float64)), TypeError, "m has dtype float64, expected float32"),
        (changed(moments=moments_of(SHAPES, np.int64)), TypeError, "m has dtypes int64, expected float32 or float64"),
        (
            changed(moments=moments_of(SHAPES, np.float32, math.inf)),
            ValueError,
            "m of 0.weight has values that are not finite",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state: Any, error: Any, message: str) -> None:
    optimizer, _ = stepped(lambda: Adam(0.1), 2)
    before = optimizer.state_dict()
    with pytest.raises(error, match=f"^Adam(.load_state_dict)?: {message}") as raised:
        optimizer.load_state_dict(state)
    assert len(str(raised.value)) < 200
    np.testing.assert_equal(optimizer.state_dict(), before)


def test_a_loaded_state_fits_its_parameters_only() -> None:
    optimizer = Adam()
    optimizer.load_state_dict(changed())
    other = bptt.Params({"w": (2,)})
    with pytest.raises(ValueError, match=r"^Adam.step: params has w \(2,\), expected 0.weight"):
        optimizer.step(other, other.zeros_like())


# Groups.


def test_groups_change_what_they_name() -> None:
    groups = {"*": {"lr_scale": 0.5}, "*bias*": {"weight_decay": 0.0}, "2.*": {"lr_scale": 2.0}}
    params, grads = params_of(np.float64), grads_of(params_of(np.float64))
    before = {name: array.copy() for name, array in params.items()}
    Adam(0.1, weight_decay=0.3, groups=groups).step(params, grads)
    for name, array in before.items():
        alone = bptt.Params({name: array.shape}, np.float64)
        alone[name] = array
        alone_grads = alone.zeros_like()
        alone_grads[name][...] = grads[name]
        lr, decay = 0.2 if name == "2.bias" else 0.05, 0.0 if "bias" in name else 0.3
        Adam(lr, weight_decay=decay).step(alone, alone_grads)
        np.testing.assert_array_equal(params[name], alone[name])


def test_only_matrices_decay() -> None:
    model = bptt.Sequential(
        bptt.Embedding(3, 2),
        bptt.LSTM(2, 2, peephole=True, learn_initial_state=True),
        bptt.GRU(2, 2, layer_norm=True, reset_after=True),
        bptt.Linear(2, 2),
    )
    with model.params.edit() as p:
        p.flat[:] = 1
    SGD(0.5, weight_decay=1.0, decay_only_matrices=True).step(model.params, model.params.zeros_like())
    decayed = {name for name, array in model.params.items() if (array == 0.5).all()}
    assert decayed == {
        "0.weight",
        "1.weight_ih_l0",
        "1.weight_hh_l0",
        "2.weight_ih_l0",
        "2.weight_hh_l0",
        "3.weight",
    }
    assert all((model.params[name] == 1).all() for name in model.params if name not in decayed)
    groups = {"*norm*": {"weight_decay": 1.0}}  # a group has the last word
    SGD(1.0, decay_only_matrices=True, groups=groups).step(model.params, model.params.zeros_like())
    assert (model.params["2.weight_norm_l0"] == 0).all()


def test_groups_are_checked_and_copied() -> None:
    params = params_of()
    with pytest.raises(
        ValueError, match=r"^SGD.step: groups has '\*.weigth', which matches no parameter; there are 0.weight, "
    ) as raised:
        SGD(0.1, groups={"*.weigth": {}}).step(params, grads_of(params))
    assert len(str(raised.value)) < 200
    for groups, error, message in (
        (["*"], TypeError, "groups has type list, expected {pattern: options}"),
        ({1: {}}, TypeError, "a pattern of groups has type int, expected text"),
        ({"*": 0.5}, TypeError, r"groups\['\*'\] has type float"),
        ({"*": {"lr": 1}}, ValueError, r"groups\['\*'\] has the option 'lr', expected lr_scale or weight_decay"),
        ({"*": {"lr_scale": -1}}, ValueError, "lr_scale has value -1.0"),
    ):
        with pytest.raises(error, match=f"^SGD: {message}"):
            SGD(0.1, groups=groups)
    groups = {"*": {"lr_scale": 0.0}}
    sgd, before = SGD(0.1, groups=groups), params.flat.copy()
    groups["*"]["lr_scale"] = sgd.groups["*"]["lr_scale"] = 1.0
    sgd.step(params, grads_of(params))
    np.testing.assert_array_equal(params.flat, before)
    sgd.groups = {}
    sgd.step(params, grads_of(params))
    assert (params.flat != before).any()


def test_a_step_out_of_range_is_refused_for_all_groups() -> None:
    params = params_of()
    params["1.weight_norm_l0"] = np.full((2, 8), 3e38)
    before = params.flat.copy()
    sgd = SGD(
        1.0, groups={"1.*": {"weight_decay": 1.0}, "2.*": {"lr_scale": 0.1}, "1.weight_norm*": {"lr_scale": 10.0}}
    )
    with pytest.raises(FloatingPointError, match=r"^SGD.step: 1.weight_norm_l0 or its moments would be inf or NaN"):
        sgd.step(params, grads_of(params))
    np.testing.assert_array_equal(params.flat, before)


def test_a_schedule_and_other_parameters_reach_the_groups() -> None:
    sgd, one, two = SGD(0.0, groups={"*": {"lr_scale": 0.5}}), bptt.Params({"a": (1,)}), bptt.Params({"b": (2,)})
    for params in (one, two):
        for lr in (1.0, 3.0):
            sgd.lr = lr
            grads = params.zeros_like()
            grads.flat[:] = 1
            sgd.step(params, grads)
        np.testing.assert_array_equal(params.flat, -2.0)
    empty = bptt.Params({})
    assert SGD(1.0, clip_norm_per_parameter=1.0).step(empty, empty.zeros_like()) == (0.0, False, 0.0)


# Clipping.


def test_each_parameter_is_clipped_to_its_norm_then_all() -> None:
    params = bptt.Params({"a": (2,), "none": (0,), "b": (1,), "c": (1,)}, np.float64)
    grads = params.zeros_like()
    grads.flat[:] = [3, 4, 0, -12]
    info = SGD(1.0, clip_norm_per_parameter=2.5).step(params, grads)
    assert info == (13.0, True, pytest.approx(12.5**0.5, rel=1e-15))
    np.testing.assert_allclose(params.flat, [-1.5, -2, 0, 2.5], rtol=1e-15)
    assert not SGD(0.0, clip_norm_per_parameter=12.0).step(params, grads).clipped
    params["a"], params["c"] = [0, 0], [0]
    info = SGD(1.0, clip_norm_per_parameter=2.5, clip_norm=2.5, clip_value=1.7).step(params, grads)
    np.testing.assert_allclose(params.flat, [-1.5 / 2**0.5, -(2**0.5), 0, 1.7], rtol=1e-15)
    assert info == (13.0, True, pytest.approx(np.linalg.norm(params.flat), rel=1e-15))
    grads["b"][:] = math.nan
    with pytest.raises(FloatingPointError, match=r"norm nan \(first in b\)"):
        SGD(1.0, clip_norm_per_parameter=1.0).step(params, grads)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_clipping_per_parameter_works_at_any_size(scale: float) -> None:
    params = bptt.Params({"a": (2,), "b": (1,)}, np.float64)
    grads = params.zeros_like()
    grads.flat[:] = [3 * scale, 4 * scale, 12 * scale]
    info = SGD(1.0, clip_norm_per_parameter=2.5 * scale).step(params, grads)
    np.testing.assert_allclose(info, (13 * scale, True, 12.5**0.5 * scale), rtol=1e-15)
    np.testing.assert_allclose(params.flat / scale, [-1.5, -2, -2.5], rtol=1e-15)
    info = SGD(1.0, clip_value=4 * scale).step(params, grads)
    np.testing.assert_allclose(info, (13 * scale, True, 41**0.5 * scale), rtol=1e-15)


def test_adaptive_clipping_follows_the_running_mean() -> None:
    params, sgd = bptt.Params({"a": (1,)}, np.float64), SGD(1.0, clip_norm_adaptive=2.0)
    grads, norms = params.zeros_like(), [1.0, 1.5, 0.0, 10.0, 3.0, 1e6, 1.0]
    mean = weight = position = 0.0
    for norm in norms:
        grads.flat[:] = norm
        limit = 2.0 * mean / weight if weight else math.inf
        info = sgd.step(params, grads)
        clipped = min(norm, limit)
        assert info == (norm, norm > limit, pytest.approx(clipped, rel=1e-14))
        position -= clipped
        np.testing.assert_allclose(params.flat, position, rtol=1e-14)
        if clipped:
            mean, weight = 0.98 * mean + 0.02 * clipped, 0.98 * weight + 0.02
    sgd.clip_norm = 0.5  # the smaller limit holds
    assert sgd.step(params, grads) == (1.0, True, 0.5)
    before = sgd.state_dict()["scalars"]["norm_mean"]
    sgd.clip_value = 0.25  # of elements, which the mean does not see
    assert sgd.step(params, grads) == (1.0, True, 0.25)
    assert sgd.state_dict()["scalars"]["norm_mean"] == 0.98 * before + (1 - 0.98) * 0.5
    with pytest.raises(ValueError, match=r"^SGD: clip_norm_adaptive has value 1.0, expected more than 1"):
        sgd.clip_norm_adaptive = 1


# Steps that are skipped.


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    runs = []
    for steps in ((0, None, 1), (0, 1)):
        adam, params = Adam(0.1, clip_norm_adaptive=2.0, nonfinite="skip"), params_of()
        for k in steps:
            grads = grads_of(params, k or 0)
            if k is None:
                grads["2.bias"][1] = bad
            info = adam.step(params, grads)
            assert math.isfinite(info.grad_norm) == (k is not None)
        runs.append((adam, params))
    (skipping, params), (plain, others) = runs
    assert (skipping.skipped, skipping.steps, plain.skipped) == (1, 2, 0)
    np.testing.assert_array_equal(params.flat, others.flat)
    assert "skipped=1" in repr(skipping)
    with pytest.raises(ValueError, match=r"^Adam: nonfinite has value 'stop', expected 'raise' or 'skip'"):
        skipping.nonfinite = "stop"
    grads = grads_of(params)
    skipping.lr = 1e39  # a step out of range is an error all the same
    with pytest.raises(FloatingPointError, match=r"0\.weight or its moments"):
        skipping.step(params, grads)


# Accumulation.


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    model = bptt.Sequential(bptt.GRU(3, 4, dtype=np.float64, seed=0), bptt.Linear(4, 2, dtype=np.float64, seed=0))
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((5, 6, 3)), rng.standard_normal((5, 6, 2))

    def gradient(rows: slice) -> bptt.Params:
        y, _, tape = model.forward(x[:, rows])
        return model.backward(tape, bptt.losses.mse(y, target[:, rows])[1])[2]

    grads = gradient(slice(0, 2))
    for start in (2, 4):
        grads += gradient(slice(start, start + 2))
    grads *= 1 / 3
    np.testing.assert_allclose(grads.flat, gradient(slice(0, 6)).flat, rtol=0, atol=1e-14)  # 30 roundings of 1


def test_accumulation_is_checked() -> None:
    params, grads = params_of(), grads_of(params_of())
    before, mine = grads.flat.copy(), grads
    for change, error, message in (
        (lambda: params.__iadd__(grads), ValueError, r"Params \+=: the left side is parameters, which are read-only"),
        (lambda: params.__imul__(2), ValueError, r"Params \*=: the left side is parameters, which are read-only"),
        (lambda: grads.__iadd__(1.0), TypeError, r"Params \+=: the right side has type float, expected Params"),
        (
            lambda: grads.__iadd__(grads_of(params_of(np.float64))),
            TypeError,
            r"Params \+=: the right side has dtype float64, expected float32",
        ),
        (
            lambda: grads.__iadd__(bptt.Params({"w": (1,)})),
            ValueError,
            r"Params \+=: the right side has w \(1,\), expected 0.weight \(5, 4\)",
        ),
        (lambda: grads.__imul__("2"), TypeError, r"Params \*=: the right side has type str, expected a number"),
        (lambda: grads.__imul__(math.nan), ValueError, r"Params \*=: the right side has value nan"),
        (lambda: grads.__imul__(-math.inf), ValueError, r"Params \*=: the right side has value -inf"),
    ):
        with pytest.raises(error, match=f"^{message}") as raised:
            change()
        assert len(str(raised.value)) < 200
    np.testing.assert_array_equal(grads.flat, before)
    grads *= -2
    grads += grads
    assert grads is mine
    np.testing.assert_array_equal(grads.flat, -4 * before)
    with params.edit() as p:
        p += grads
        p *= 0
    assert not params.flat.any()


def test_all_public_optimizers_are_tested_here() -> None:
    classes = {getattr(optim, name) for name in optim.__all__ if isinstance(getattr(optim, name), type)}
    assert classes - {optim.Optimizer, optim.StepInfo} == {type(make()) for make in ALL}
