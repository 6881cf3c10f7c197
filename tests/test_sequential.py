# SPDX-License-Identifier: Apache-2.0
"""Embedding, Linear, Dropout, and Sequential made of them: values against bptt.reference, buffers, states, copies."""

import copy
import pickle

import numpy as np
import pytest

import bptt
from bptt import reference
from differences import check_gradient

CLOSE = {"rtol": 0, "atol": 1e-12}
F64 = {"dtype": np.float64, "seed": 1}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("lead", [(), (1,), (3, 2), (0, 4), (2, 3, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_agrees_with_the_reference(lead, bias):
    layer, x, dy = bptt.Linear(5, 4, bias, init="pytorch", **F64), normal(*lead, 5), normal(*lead, 4, seed=1)
    y, tape = layer.forward(x)
    np.testing.assert_allclose(y, reference.linear_forward(x, *layer.params.values()), **CLOSE)
    np.testing.assert_array_equal(layer(x), y)
    dx, grads = layer.backward(tape, dy)
    want = reference.linear_backward(x, layer.params["weight"], dy)
    for got, expected in zip((dx, *grads.values()), want, strict=False):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, **CLOSE)
    assert list(grads) == (["weight", "bias"] if bias else ["weight"])


@pytest.mark.parametrize("ids", [3, [], [[1, 1], [0, 9]], np.array([[2], [2]], np.uint8)])
def test_embedding_agrees_with_the_reference(ids):
    layer, given = bptt.Embedding(10, 3, **F64), ids
    ids = np.asarray(given, None if np.size(given) else int)
    y, tape = layer.forward(given)
    np.testing.assert_array_equal(y, reference.embedding_forward(ids, layer.params["weight"]))
    dy = normal(*ids.shape, 3)
    dx, grads = layer.backward(tape, dy)
    assert dx is None
    np.testing.assert_allclose(grads["weight"], reference.embedding_backward(ids, dy, V=10), **CLOSE)


def test_dropout_agrees_with_the_reference():
    x, dy = normal(50, 40) + 10, normal(50, 40, seed=1)
    layer, twin = bptt.Dropout(0.3, seed=4), bptt.Dropout(0.3, seed=4)
    y, tape = layer.forward(x)
    keep = y != 0
    assert abs(keep.mean() - 0.7) < 0.05  # 2,000 draws: standard deviation 0.01
    np.testing.assert_allclose(y, reference.dropout(x, keep, 0.3), rtol=1e-15)
    np.testing.assert_allclose(layer.backward(tape, dy)[0], reference.dropout(dy, keep, 0.3), rtol=1e-15)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(twin.forward(x)[0], y)
    later = copy.deepcopy(layer)
    np.testing.assert_array_equal(later.forward(x)[0], layer.forward(x)[0])
    assert not np.array_equal(layer.forward(x)[0], y)
    assert layer.forward(np.float32(x))[0].dtype == np.float32
    np.testing.assert_array_equal(bptt.Dropout(0).forward(x)[0], x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: bptt.Linear(3, 2)(np.zeros((4, 2))),
            ValueError,
            r"Linear.forward: x has shape \(4, 2\), expected \(..., 3\)",
        ),
        (lambda: bptt.Linear(3, 2)(1.0), ValueError, r"Linear.forward: x has shape \(\), expected \(..., 3\)"),
        (lambda: bptt.Linear(3, 2)(np.zeros(3, complex)), TypeError, "Linear.forward: x has dtype complex128"),
        (lambda: bptt.Linear(3, 0), ValueError, "Linear: out_features has value 0, expected an integer >= 1"),
        (lambda: bptt.Linear(2**40, 2**40), ValueError, "bytes in all, expected at most"),
        (lambda: bptt.Embedding(3, 2)([3]), ValueError, "ids has the value 3, expected 0 to 2"),
        (lambda: bptt.Embedding(3, 2)([-1, 2]), ValueError, "ids has the value -1"),
        (lambda: bptt.Embedding(3, 2)(np.array([2**64 - 1], np.uint64)), ValueError, "ids has the value -1"),
        (lambda: bptt.Embedding(3, 2)([1.0]), TypeError, "Embedding.forward: x has dtype float64, expected integers"),
        (lambda: bptt.Embedding(3, 2)([True]), TypeError, "Embedding.forward: x has dtype bool, expected integers"),
        (lambda: bptt.Dropout(1.0), ValueError, "Dropout: p has value 1.0, expected 0 <= p < 1"),
        (lambda: bptt.Dropout(float("nan")), ValueError, "Dropout: p has value nan"),
        (lambda: bptt.Dropout("a"), TypeError, "Dropout: p has type str, expected a number"),
    ],
)
def test_wrong_calls_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_tapes_of_stateless_layers():
    layer, x = bptt.Linear(3, 2, **F64), normal(4, 3)
    _, tape = layer.forward(x)
    with pytest.raises(ValueError, match=r"Linear.backward: dy has shape \(4, 3\), expected \(4, 2\)"):
        layer.backward(tape, x)
    with pytest.raises(ValueError, match=r"Linear.backward: tape is of another layer"):
        bptt.Linear(3, 2).backward(tape, normal(4, 2))
    layer.params["bias"] = [1, 2]
    with pytest.raises(RuntimeError, match=r"Linear.backward: tape is older than the last change of params"):
        layer.backward(tape, normal(4, 2))


def make(**options):
    options = {**F64, **options}
    return bptt.Sequential(
        bptt.Embedding(7, 3, **options),
        bptt.LSTM(3, 4, **options),
        bptt.Dropout(0.0),
        bptt.GRU(4, 5, **options),
        bptt.Linear(5, 2, **options),
    )


def test_sequential_is_its_layers_one_after_the_other():
    model, ids = make(), np.random.default_rng(0).integers(0, 7, (6, 2))
    state = ((normal(1, 2, 4), normal(1, 2, 4, seed=1)), normal(1, 2, 5, seed=2))
    dstate = ((normal(1, 2, 4, seed=3), normal(1, 2, 4, seed=4)), normal(1, 2, 5, seed=5))
    dy = normal(6, 2, 2, seed=6)
    embedding, lstm, _, gru, linear = [copy.deepcopy(layer) for layer in model.layers]
    a, ta = embedding.forward(ids)
    b, sb, tb = lstm.forward(a, state[0])
    c, sc, tc = gru.forward(b, state[1])
    want_y, td = linear.forward(c)

    y, final, tape = model.forward(ids, state)
    np.testing.assert_array_equal(y, want_y)
    np.testing.assert_array_equal(model(ids, state)[0], y)
    for got in (final, model(ids, state)[1]):
        assert [np.shape(s) for s in got] == [(2, 1, 2, 4), (1, 2, 5)]
        np.testing.assert_array_equal(got[0], sb)
        np.testing.assert_array_equal(got[1], sc)

    dx, dinitial, grads = model.backward(tape, dy, dstate)
    d, gd = linear.backward(td, dy)
    d, dsc, gc = gru.backward(tc, d, dstate[1])
    d, dsb, gb = lstm.backward(tb, d, dstate[0])
    _, ga = embedding.backward(ta, d)
    assert dx is None
    np.testing.assert_array_equal(dinitial[0], dsb)
    np.testing.assert_array_equal(dinitial[1], dsc)
    np.testing.assert_array_equal(grads.flat, np.concatenate([g.flat for g in (ga, gb, gc, gd)]))
    assert grads.shapes == model.params.shapes
    assert list(grads)[:4] == ["0.weight", "1.weight_ih_l0", "1.weight_hh_l0", "1.bias_l0"]
    mine = model.params.zeros_like()
    assert model.backward(model.forward(ids, state)[2], dy, dstate, mine)[2] is mine
    np.testing.assert_array_equal(mine.flat, grads.flat)


def test_states_may_be_absent_as_a_whole_or_one_by_one():
    model, ids = make(), np.zeros((3, 2), int)
    y, _ = model(ids)
    np.testing.assert_array_equal(model(ids, (None, None))[0], y)
    zeros = ((np.zeros((1, 2, 4)), np.zeros((1, 2, 4))), None)
    np.testing.assert_array_equal(model(ids, zeros)[0], y)
    for wrong, has in (((None,), "length 1"), (np.zeros(2), "type ndarray")):
        with pytest.raises(ValueError, match=f"Sequential.forward: state has {has}, expected a tuple of length 2"):
            model(ids, wrong)
    halves = model(ids[2:], model(ids[:2])[1])
    np.testing.assert_array_equal(halves[0], y[2:])
    assert bptt.Sequential(bptt.Linear(2, 2))(np.zeros((1, 2)))[1] == ()


def test_all_parameters_lie_in_one_buffer():
    model = make()
    assert model.params.flat.ctypes.data % 64 == 0
    assert all(np.shares_memory(layer.params.flat, model.params.flat) for layer in model.layers if layer.params)
    y = model(np.zeros((3, 2), int))[0]
    with model.params.edit() as p:
        p.flat[:] *= 0.5
    assert not np.array_equal(model(np.zeros((3, 2), int))[0], y)
    model.layers[4].params["bias"] = [3, 4]
    assert model.params["4.bias"].tolist() == [3, 4]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_one_buffer_of_their_own(duplicate):
    model, ids = make(), np.zeros((3, 2), int)
    y = model.forward(ids)[0]
    twin = duplicate(model)
    assert repr(twin) == repr(model)
    assert repr(model).splitlines()[2] == "  (1): LSTM(3, 4, dtype=float64)"
    np.testing.assert_array_equal(twin(ids)[0], y)
    with twin.params.edit() as p:
        p.flat[:] = 0
    assert not twin(ids)[0].any()
    np.testing.assert_array_equal(model(ids)[0], y)


def test_what_cannot_stand_in_a_sequential():
    gru = bptt.GRU(2, 2)
    bptt.Sequential(gru)
    dropout, linear = bptt.Dropout(), [bptt.Linear(2, 2)]
    for layers, error, message in (
        ([], ValueError, "layers has length 0, expected at least one"),
        ([gru], ValueError, r"layer 0, GRU, belongs to a Sequential already, .*copy.deepcopy\(layer\) makes one"),
        ([copy.copy(gru)], ValueError, "layer 0, GRU, belongs to a Sequential already"),
        ([dropout, dropout], ValueError, "layer 1, Dropout, has the parameters of layer 0, expected its own"),
        ([*linear, *linear], ValueError, r"layer 1, Linear, has the parameters of layer 0.*help\(bptt.Sequential\)"),
        ([*linear, copy.copy(linear[0])], ValueError, "layer 1, Linear, has the parameters of layer 0, expected its"),
        ([copy.deepcopy(gru), bptt.Embedding(2, 2)], ValueError, "layer 1 has type Embedding, expected it at the"),
        ([bptt.Linear], TypeError, "layer 0 is the class Linear, expected a layer"),
        ([bptt.Sequential(bptt.Dropout())], TypeError, "layer 0 has type Sequential, expected a layer"),
        ([bptt.RNN(2, 2), bptt.RNN(2, 2, batch_first=True)], ValueError, "layers differ in batch_first"),
        ([bptt.RNN(2, 2), bptt.Linear(2, 2, dtype="f8")], TypeError, "dtypes float32, float64, expected one"),
    ):
        with pytest.raises(error, match=message) as caught:
            bptt.Sequential(*layers)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [bptt.LSTM(2, 3), bptt.Linear(4, 1)],
            "layer 1, Linear, has input size 4, expected 3, the output size of layer 0",
        ),
        ([bptt.Embedding(9, 4), bptt.GRU(9, 4)], "layer 1, GRU, has input size 9, expected 4, .*layer 0, Embedding$"),
        ([bptt.RNN(2, 3, bidirectional=True), bptt.Linear(3, 1)], "layer 1, Linear, has input size 3, expected 6, the"),
        (
            [bptt.LSTM(2, 4, proj_size=3), bptt.GRU(4, 3)],
            "layer 1, GRU, has input size 4, expected 3, .* layer 0, LSTM$",
        ),
        (
            [bptt.Linear(1, 2), bptt.Dropout(), bptt.GRU(2, 3), bptt.Dropout(), bptt.Dropout(), bptt.Linear(2, 2)],
            "layer 5, Linear, has input size 2, expected 3, the output size of layer 2, GRU$",
        ),
    ],
)
def test_sizes_between_layers_must_fit(layers, message):
    with pytest.raises(ValueError, match=f"^Sequential: {message}"):
        bptt.Sequential(*layers)
    assert not any(layer.params.joined for layer in layers)


def test_sizes_that_fit_and_layers_of_users():
    class Doubled(bptt.layers.Stateless):
        def __init__(self):
            self.params = bptt.Params({})

        def __call__(self, x):
            return np.concatenate([x, x], axis=-1)

    bptt.Sequential(bptt.Dropout(), bptt.LSTM(2, 4, bidirectional=True, proj_size=3), bptt.Linear(6, 1))
    model = bptt.Sequential(bptt.Linear(2, 2), Doubled(), bptt.Dropout(), bptt.Linear(4, 1))
    assert model(np.ones((3, 2), np.float32))[0].shape == (3, 1)


def test_a_shallow_copy_is_another_model_of_the_same_layers():
    model, ids, dy = make(), np.zeros((3, 2), int), normal(3, 2, 2)
    twin = copy.copy(model)
    assert twin is not model
    assert twin.layers == model.layers
    assert twin.params is model.params
    tape = twin.forward(ids)[2]
    with pytest.raises(ValueError, match="tape is of another layer"):
        model.backward(tape, dy)
    grads = twin.backward(tape, dy)[2]
    np.testing.assert_array_equal(grads.flat, model.backward(model.forward(ids)[2], dy)[2].flat)
    bptt.optim.SGD(0.1).step(twin.params, grads)
    np.testing.assert_array_equal(twin(ids)[0], model(ids)[0])
    apart = copy.deepcopy(twin)
    assert not np.shares_memory(apart.params.flat, model.params.flat)


def test_the_gradient_of_tied_weights_is_the_sum():
    model = bptt.Sequential(bptt.Embedding(7, 3, **F64), bptt.GRU(3, 3, **F64), bptt.Linear(3, 7, bias=False, **F64))
    ids = np.random.default_rng(0).integers(0, 7, (6, 5))

    def loss(point):
        for name in ("0.weight", "2.weight"):
            model.params[name] = point[0]
        y = model(ids[:-1])[0]
        return bptt.losses.cross_entropy(y, ids[1:])[0], 2 * np.abs(y).max() + np.log(7)

    weight = model.params["0.weight"].copy()
    loss([weight])
    y, _, tape = model.forward(ids[:-1])
    grads = model.backward(tape, bptt.losses.cross_entropy(y, ids[1:])[1])[2]
    total = grads["0.weight"] + grads["2.weight"]
    check_gradient(loss, [weight], [total], roundings=5 * 20 + 25 + 7)  # steps of the GRU, pairs, logits
