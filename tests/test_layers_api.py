# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers as users call them: names and shapes, accepted arrays, states, tapes, errors, copies.

Values are compared with bptt.reference in float64, where sums of fewer than 100 terms of order 1 leave errors below
100 * 2^-53 * 100 = 1e-12. The kernels' own accuracy and sizes are test_kernels.py's.
"""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bptt
from bptt import reference

T, B, I, H = 4, 3, 5, 6  # noqa: E741
CLOSE = {"rtol": 0, "atol": 1e-12}

# layer, its arguments, the reference's cell
LAYERS = {
    "rnn": (bptt.RNN, {}, "rnn_tanh"),
    "relu": (bptt.RNN, {"nonlinearity": "relu"}, "rnn_relu"),
    "lstm": (bptt.LSTM, {}, "lstm"),
    "peephole": (bptt.LSTM, {"peephole": True}, "lstm_peephole"),
    "slstm": (bptt.SLSTM, {}, "slstm"),
    "gru": (bptt.GRU, {}, "gru"),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def make(kind, **options):
    layer, own, _ = LAYERS[kind]
    options = {"dtype": np.float64, "seed": 1, "init": "pytorch", **own, **options}
    return layer(I, H, **options)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def as_state(arrays):
    arrays = tuple(arrays)
    return arrays if len(arrays) > 1 else arrays[0]


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def random_state(kind, seed=3):
    names = reference.CELLS[LAYERS[kind][2]].states
    states = {name: normal(1, B, H, seed=seed + k) for k, name in enumerate(names)}
    if "n" in states:  # a sum of positive weights, the largest of them 1
        states["n"] = 1 + np.abs(states["n"])
    return as_state(states.values())


def expected(kind, layer, x, state, dy=None, dstate=None):
    shapes = reference.CELLS[LAYERS[kind][2]].shapes(I, H)
    weights = {name: layer.params.get(f"{name}_l0", np.zeros(shape)) for name, shape in shapes.items()}
    y, final, tape = reference.forward(LAYERS[kind][2], weights, x, tuple(s[0] for s in as_tuple(state)))
    if dy is None:
        return y, as_state(s[None] for s in final)
    dx, dinitial, grads = reference.backward(tape, dy, tuple(s[0] for s in as_tuple(dstate)))
    return dx, as_state(s[None] for s in dinitial), {f"{name}_l0": g for name, g in grads.items()}


def assert_close(a, b):
    assert isinstance(a, tuple) == isinstance(b, tuple)
    for left, right in zip(as_tuple(a), as_tuple(b), strict=True):
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, **CLOSE)


@every_layer
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_backward_agree_with_the_reference(kind, bias):
    layer, x, state, dy = make(kind, bias=bias), normal(T, B, I), random_state(kind), normal(T, B, H, seed=1)
    dstate = random_state(kind, seed=7)
    y, final = expected(kind, layer, x, state)
    got_y, got_final, tape = layer.forward(x, state)
    assert_close(got_y, y)
    assert_close(got_final, final)
    assert_close(layer(x, state)[0], y)
    assert_close(layer(x, state)[1], final)
    dx, dinitial, grads = layer.backward(tape, dy, dstate)
    want_dx, want_dinitial, want_grads = expected(kind, layer, x, state, dy, dstate)
    assert_close(dx, want_dx)
    assert_close(dinitial, want_dinitial)
    assert grads.shapes == layer.params.shapes
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, want_grads[name], **CLOSE, err_msg=name)


@every_layer
def test_names_and_shapes(kind):
    G = {"rnn": 1, "relu": 1, "gru": 3}.get(kind, 4)
    shapes = {"weight_ih_l0": (G * H, I), "weight_hh_l0": (G * H, H), "bias_l0": (G * H,)}
    shapes |= {"gru": {"bias_hn_l0": (H,)}, "peephole": {"weight_peephole_l0": (3, H)}}.get(kind, {})
    assert make(kind).params.shapes == shapes
    assert not any("bias" in name for name in make(kind, bias=False).params)
    assert LAYERS[kind][0](I, H).params.dtype == np.float32


@every_layer
def test_absent_states_are_zeros(kind):
    layer, x, dy = make(kind), normal(T, B, I), normal(T, B, H, seed=1)
    zeros = as_state(np.zeros_like(s) for s in as_tuple(random_state(kind)))
    first, second = layer.forward(x), layer.forward(x, zeros)
    np.testing.assert_array_equal(first[0], second[0])
    a, b = layer.backward(first[2], dy), layer.backward(second[2], dy, zeros)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[2].flat, b[2].flat)
    for left, right in zip(as_tuple(a[1]), as_tuple(b[1]), strict=True):
        np.testing.assert_array_equal(left, right)


@every_layer
def test_batch_first_and_no_batch_are_only_other_views(kind):
    x, dy, state = normal(T, B, I), normal(T, B, H, seed=1), random_state(kind)
    plain, turned = make(kind), make(kind, batch_first=True)
    y, final, tape = plain.forward(x, state)
    dx, dstate, grads = plain.backward(tape, dy)

    ty, tfinal, tape = turned.forward(x.swapaxes(0, 1), state)
    tdx, tdstate, tgrads = turned.backward(tape, np.ascontiguousarray(dy.swapaxes(0, 1)))
    np.testing.assert_array_equal(ty, y.swapaxes(0, 1))
    np.testing.assert_array_equal(tdx, dx.swapaxes(0, 1))
    np.testing.assert_array_equal(tgrads.flat, grads.flat)
    assert_close(tfinal, final)
    assert_close(tdstate, dstate)

    for layer in (plain, turned):
        uy, ufinal, tape = layer.forward(x[:, 1], as_state(s[:, 1] for s in as_tuple(state)))
        udx, udstate, _ = layer.backward(tape, dy[:, 1])
        assert_close(uy, y[:, 1])
        assert_close(udx, dx[:, 1])
        assert_close(ufinal, as_state(s[:, 1] for s in as_tuple(final)))
        assert_close(udstate, as_state(s[:, 1] for s in as_tuple(dstate)))


class OnlyDLPack:
    """An array of a library that NumPy does not know."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw[1:].view(x.dtype).reshape(x.shape)


def frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "disguise",
    [
        lambda x: x.tolist(),
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.int8),
        lambda x: x.astype(">f8"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        unaligned,
        frozen,
        OnlyDLPack,
    ],
)
def test_arrays_of_all_kinds_are_taken(disguise):
    x = np.round(normal(T, B, I) * 4)  # small integers, exact in every dtype
    layer = make("gru")
    np.testing.assert_array_equal(layer(disguise(x))[0], layer(x)[0])


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((T, B, I + 1)), ValueError, r"x has shape \(4, 3, 6\), expected \(T, B, 5\)"),
        (np.zeros((T, B, I, 1)), ValueError, r"x has shape \(4, 3, 5, 1\), expected \(T, B, 5\)"),
        (np.zeros(I), ValueError, r"x has shape \(5,\), expected \(T, B, 5\)"),
        (1.0, ValueError, r"x has shape \(\), expected \(T, B, 5\)"),
        (np.zeros((T, B, I), complex), TypeError, "x has dtype complex128, expected real numbers"),
        (np.zeros((T, B, I), "U3"), TypeError, "x has dtype <U3, expected real numbers"),
        (np.zeros((T, B, I), object), TypeError, "x has dtype object, expected real numbers"),
        (
            [np.ones((3, I)), np.ones((2, I))],
            ValueError,
            "x has 2 sequences of different shapes, .*bptt.data.pad makes",
        ),
        ([[1.0], [1.0, 2.0]], ValueError, "x has type list, expected an array in CPU memory or nested lists"),
    ],
)
def test_wrong_inputs_are_named(x, error, message):
    with pytest.raises(error, match=f"^LSTM.forward: {message}"):
        make("lstm")(x)


def test_wrong_states_are_named():
    lstm, gru, x = make("lstm"), make("gru"), normal(T, B, I)
    state = normal(1, B, H)
    for layer, wrong, message in (
        (lstm, state, r"LSTM.forward: state has type ndarray, expected the tuple \(h, c\)"),
        (lstm, (state,), r"LSTM.forward: state has length 1, expected the tuple \(h, c\)"),
        (lstm, (state, state[0]), r"LSTM.forward: state c has shape \(3, 6\), expected \(1, 3, 6\)"),
        (gru, normal(1, 1, H), r"GRU.forward: state h has shape \(1, 1, 6\), expected \(1, 3, 6\)"),
        (gru, (state, state), r"GRU.forward: state h has shape \(2, 1, 3, 6\), expected \(1, 3, 6\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            layer(x, wrong)
    with pytest.raises(TypeError, match=r"GRU\.forward: state h has dtype complex128"):
        gru(x, state.astype(complex))
    _, _, tape = lstm.forward(x)
    with pytest.raises(ValueError, match=r"^LSTM.backward: dstate has length 1, expected the tuple \(h, c\)"):
        lstm.backward(tape, normal(T, B, H), (state,))
    with pytest.raises(ValueError, match=r"^LSTM.backward: dy has shape \(4, 3, 5\), expected \(4, 3, 6\)"):
        lstm.backward(tape, x)
    lstm.backward(tape, normal(T, B, H))  # the failed calls have not used it up


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 3), {}, ValueError, "input_size has value 0, expected an integer >= 1"),
        ((3, -1), {}, ValueError, "hidden_size has value -1"),
        ((3, 2.0), {}, TypeError, "hidden_size has type float, expected an integer"),
        ((3, 3), {"dtype": np.float16}, TypeError, "dtype has value float16, expected float32 or float64"),
        ((3, 3), {"nonlinearity": "gelu"}, ValueError, "nonlinearity has value 'gelu'"),
        ((3, 3), {"seed": -1}, ValueError, "seed has value -1"),
    ],
)
def test_wrong_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"^RNN: {message}"):
        bptt.RNN(*arguments, **options)


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.SLSTM, bptt.GRU])
@pytest.mark.parametrize("size", [2**26, 2**40, 2**62, 2**100])
def test_absurd_sizes_are_errors(layer, size):
    with pytest.raises((ValueError, MemoryError)):
        layer(8, size)


def test_tapes_are_values():
    layer, xs, dy = make("lstm"), [normal(T, B, I, seed=k) for k in range(2)], normal(T, B, H, seed=9)
    alone = [layer.backward(layer.forward(x)[2], dy) for x in xs]
    tapes = [layer.forward(x)[2] for x in xs]
    for k in (0, 1):
        dx, _, grads = layer.backward(tapes[k], dy)
        np.testing.assert_array_equal(dx, alone[k][0])
        np.testing.assert_array_equal(grads.flat, alone[k][2].flat)
    with pytest.raises(RuntimeError, match="used"):
        layer.backward(tapes[0], dy)
    tape = layer.forward(xs[0])[2]
    assert tape.nbytes > T * B * H
    with pytest.raises(ValueError, match=r"LSTM.backward: tape is of another layer"):
        copy.deepcopy(layer).backward(tape, dy)


def test_a_tape_keeps_the_weights_of_its_forward():
    layer, x, dy = make("gru"), normal(T, B, I), normal(T, B, H, seed=1)
    before = layer.backward(layer.forward(x)[2], dy)
    tape = layer.forward(x)[2]
    with layer.params.edit() as p:
        p.flat[:] = 0.1
    layer(x)
    after = layer.backward(tape, dy)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[2].flat, after[2].flat)


@every_layer
def test_every_change_of_the_parameters_is_seen(kind):
    layer, x = make(kind), normal(T, B, I)
    zeros = as_state(np.zeros_like(s) for s in as_tuple(random_state(kind)))

    def assert_current():
        np.testing.assert_allclose(layer(x)[0], expected(kind, layer, x, zeros)[0], **CLOSE)
        np.testing.assert_allclose(layer.forward(x)[0], expected(kind, layer, x, zeros)[0], **CLOSE)

    for name, array in list(layer.params.items()):
        layer.params[name] = array * 0.5 + 0.1
        assert_current()
    with layer.params.edit() as p:
        p["weight_hh_l0"][0] = 1
        layer(x)
        p["weight_hh_l0"][1] = 2
    assert_current()
    layer.load_state_dict(make(kind, seed=2).state_dict())
    assert_current()


def test_gradients_go_where_they_are_wanted():
    layer, x, dy = make("peephole"), normal(T, B, I), normal(T, B, H, seed=1)
    want = layer.backward(layer.forward(x)[2], dy)[2]
    mine = layer.params.zeros_like()
    mine.flat[:] = np.nan  # overwritten, not added to
    got = layer.backward(layer.forward(x)[2], dy, grads=mine)[2]
    assert got is mine
    np.testing.assert_array_equal(mine.flat, want.flat)
    for wrong, error, has in (
        (make("lstm").params.zeros_like(), ValueError, r"no more arrays, expected weight_peephole_l0 \(3, 6\)"),
        (make("peephole", dtype=np.float32).params.zeros_like(), TypeError, "dtype float32, expected float64"),
        ({}, TypeError, "type dict, expected Params"),
    ):
        with pytest.raises(error, match=f"^LSTM.backward: grads has {has}, as params.zeros_like"):
            layer.backward(layer.forward(x)[2], dy, grads=wrong)
    with pytest.raises(ValueError, match=r"LSTM.backward: grads is read-only"):
        layer.backward(layer.forward(x)[2], dy, grads=layer.params)


@every_layer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_independent(kind, duplicate):
    layer, x = make(kind), normal(T, B, I)
    y = layer.forward(x)[0].copy()
    twin = duplicate(layer)
    assert repr(twin) == repr(layer)
    with layer.params.edit() as p:
        p.flat[:] = 0
    np.testing.assert_array_equal(twin(x)[0], y)
    assert not np.array_equal(layer(x)[0], y)


def test_reprs():
    assert repr(bptt.RNN(2, 3, nonlinearity="relu")) == "RNN(2, 3, nonlinearity='relu', dtype=float32)"
    assert repr(bptt.LSTM(2, 3, peephole=True, bias=False)) == "LSTM(2, 3, peephole=True, bias=False, dtype=float32)"
    assert repr(bptt.GRU(2, 3, batch_first=True, dtype="f8")) == "GRU(2, 3, batch_first=True, dtype=float64)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bias_l0"), "state lacks bias_l0, expected the names of state_dict()"),
        (lambda s: s.update(weight_ih_l1=1), "state has unknown weight_ih_l1, expected the names of state_dict"),
        (lambda s: s.update(bias_l0=np.zeros((2, 12))), r"bias_l0 has shape \(2, 12\), expected \(24,\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(change, message):
    layer = make("lstm")
    before, state = layer.params.flat.copy(), {name: array * 0 for name, array in layer.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=f"^LSTM.load_state_dict: {message}"):
        layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.params.flat, before)


def test_many_threads_may_use_one_layer():
    layer, dy = make("lstm"), normal(T, B, H, seed=50)
    xs = [normal(T, B, I, seed=k) for k in range(16)]

    def both(x):
        layer(x)
        return layer.backward(layer.forward(x)[2], dy)

    alone = [both(x) for x in xs]
    layer.params["bias_l0"] = layer.params["bias_l0"]  # the packed weights are out of date, for all threads at once
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(both, xs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[2].flat, b[2].flat)


@pytest.mark.parametrize(
    "name", ["params", "hidden_size", "zoneout", "dropout", "bidirectional", "batch_first", "seed"]
)
def test_what_a_layer_was_made_with_cannot_be_assigned(name):
    layer = make("gru")
    with pytest.raises(AttributeError, match=rf"^GRU: {name} is fixed when the layer is made, expected "):
        setattr(layer, name, 2)
    layer.note = "a user's own"
    dropout = bptt.Dropout(0.5)
    dropout.p = 0.25
    assert repr(dropout) == "Dropout(0.25)"
    with pytest.raises(ValueError, match=r"^Dropout: p has value 2"):
        dropout.p = 2
