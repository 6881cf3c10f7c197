# SPDX-License-Identifier: Apache-2.0
"""Weights in fewer bits: exact sums of products, bits, errors against float32, calls, files, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import checkpoint
from bptt._dispatch import core
from kernels import levels

Array = NDArray[Any]

INT8 = ("int8", "int8_vnni")
MADE: dict[str, Any] = {
    "lstm": lambda **o: bptt.LSTM(**o),
    "peephole": lambda **o: bptt.LSTM(peephole=True, **o),
    "coupled": lambda **o: bptt.LSTM(coupled=True, **o),
    "gru": lambda **o: bptt.GRU(**o),
    "rnn_tanh": lambda **o: bptt.RNN(**o),
    "rnn_relu": lambda **o: bptt.RNN(nonlinearity="relu", **o),
    "slstm": lambda **o: bptt.SLSTM(**o),
}
# B I H: rows of one tile and of several, K that are no multiple of 4 and 2, H around the widths of registers
SIZES = [(1, 1, 1), (1, 7, 16), (2, 5, 17), (3, 8, 63), (5, 130, 40), (7, 3, 130), (70, 6, 33)]


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(shape: tuple[int, ...], *seed: int) -> Array:
    return rng(*seed).standard_normal(shape).astype(np.float32)


def rounded_rows(x: Array) -> tuple[Array, Array]:
    """Integers and scales of rows, as csrc/core/gemm/narrow.h says it."""
    most = np.abs(x).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.rint(np.where(most > 0, np.float32(127) / most, np.float32(0))[:, np.newaxis] * x)
    return values.astype(np.int64), most / np.float32(127)


def linear(module: Any, products: str, x: Array, h: Array, wx: Array, wh: Array) -> Array:
    """The products of a linear RNN of one step: Wx x + Wh h."""
    H, I = wx.shape  # noqa: E741
    stack = module.Stack("rnn_linear", "float32", I, H, False, products=products)
    assert stack.products == products
    stack.pack(np.concatenate([wx.ravel(), wh.ravel()]), False)
    return np.asarray(stack.forward(x[np.newaxis], h[np.newaxis], False)[0][0])


@pytest.mark.parametrize("module", levels(), ids=lambda module: module.level)
@pytest.mark.parametrize("products", INT8)
@pytest.mark.parametrize(("B", "I", "H"), SIZES)
def test_sums_of_int8_products_are_exact(module, products, B, I, H):  # noqa: E741
    if products not in module.narrow_products:
        pytest.skip("this level on this processor has no VPDPBUSD")
    x, h, wx, wh = normal((B, I), 1), normal((B, H), 2), normal((H, I), 3), normal((H, H), 4)
    x[:, 0], wx[:, 0] = 9 * np.sign(x[:, 0]), 9  # the largest products of all, which must not saturate
    none = np.zeros_like
    for a, w, y in (
        (x, wx, linear(module, products, x, none(h), wx, wh)),
        (h, wh, linear(module, products, none(x), h, wx, wh)),
    ):
        values, scales = rounded_rows(a)
        weights, columns = module.to_int8(w)
        sums = values @ weights.T.astype(np.int64)
        np.testing.assert_array_equal(y, sums.astype(np.float32) * scales[:, np.newaxis] * columns)


@pytest.mark.parametrize("products", INT8)
@pytest.mark.parametrize("K", [255, 256, 4000, 65536])
def test_the_largest_sums_fit(products, K):
    if products not in core.narrow_products:
        pytest.skip("no VPDPBUSD here")
    for sign in (1, -1):
        x, w = np.full((1, K), sign, np.float32), np.ones((3, K), np.float32)
        w[1], w[2, ::2] = -1, -1
        y = linear(core, products, x, np.zeros((1, 3), np.float32), w, np.zeros((3, 3), np.float32))
        np.testing.assert_allclose(y[0], sign * np.array([K, -K, -(K % 2) if K % 2 else 0]), rtol=1e-4)


@pytest.mark.parametrize("module", levels(), ids=lambda module: module.level)
def test_rounding_a_weight_twice_changes_nothing(module):
    weight = np.concatenate([normal((40, 33), 5) * 10.0 ** rng(6).integers(-20, 20, (40, 1)), np.zeros((1, 33))])
    weight = weight.astype(np.float32)
    values, scales = module.to_int8(weight)
    floats = values * scales[:, np.newaxis]
    assert (np.abs(floats - weight) <= 0.5001 * scales[:, np.newaxis]).all()
    assert np.abs(values[:-1]).max(1).min() == 127
    again, same = module.to_int8(floats)
    assert (again == values).all()
    assert (same == scales).all()
    bits = module.to_bfloat16(weight)
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    assert (np.abs(wide - weight) <= 2.0**-8 * np.abs(weight)).all()
    assert (module.to_bfloat16(wide) == bits).all()
    limits = np.array([[np.finfo(np.float32).max, -np.finfo(np.float32).max, 1 + 2**-8, 1 + 3 * 2**-8]], np.float32)
    assert module.to_bfloat16(limits).tolist() == [[0x7F7F, 0xFF7F, 0x3F80, 0x3F82]]


def rounded(layer: Any, quantized: Any) -> Any:
    """The float32 layer of the weights that a quantized one has."""
    twin = copy.deepcopy(layer)
    with twin.params.edit() as p:
        p.flat[:] = quantized.params.plain
    return twin


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(("B", "I", "H"), SIZES)
def test_bfloat16_weights_have_the_bits_of_float32_with_rounded_weights(kind, B, I, H):  # noqa: E741
    layer = MADE[kind](input_size=I, hidden_size=H, seed=0)
    quantized, x = layer.quantize("bfloat16"), normal((4, B, I), 7)
    y, state = quantized(x)
    expected, last = rounded(layer, quantized)(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.asarray(state), np.asarray(last))
    assert not (y == layer(x)[0]).all() or I == H == 1


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_errors_against_float32(kind, weights):
    layer = MADE[kind](input_size=24, hidden_size=96, num_layers=2, bidirectional=True, seed=1)
    x = normal((30, 5, 24), 8)
    y, exact = layer.quantize(weights)(x)[0], layer(x)[0]
    error = np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2))
    # Values of 8 bits have relative errors of about 1 % of their rms, bfloat16 of 0.2 %; states pass some on.
    assert 1e-5 < error < (0.05 if weights == "int8" else 0.01)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
@pytest.mark.parametrize("H", [5, 64, 130])
def test_the_same_bits_for_threads_rows_streams_and_chunks(kind, weights, H):
    layer = MADE[kind](input_size=6, hidden_size=H, num_layers=2, seed=2).quantize(weights)
    x = normal((12, 9, 6), 9)
    y, state = layer(x)
    before = bptt.get_num_threads()
    try:
        for threads in (1, 2, 3):
            bptt.set_num_threads(threads)
            np.testing.assert_array_equal(layer(x)[0], y)
            np.testing.assert_array_equal(layer(x[:, 4:5])[0], y[:, 4:5])
    finally:
        bptt.set_num_threads(before)
    first, middle = layer(x[:5])
    np.testing.assert_array_equal(np.concatenate([first, layer(x[5:], middle)[0]]), y)
    stream = layer.stream(9)
    np.testing.assert_array_equal([stream(x_t).copy() for x_t in x], y)
    np.testing.assert_array_equal(np.asarray(stream.state), np.asarray(state))
    stream.reset()
    np.testing.assert_array_equal(stream(x), y)
    twin = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(twin(x[0]), stream(x[0]))


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_options_of_a_call(weights):
    layer = bptt.LSTM(3, 20, bidirectional=True, batch_first=True, learn_initial_state=True, zoneout=0.1, seed=3)
    with layer.params.edit() as p:
        p["initial_h_l0"], p["initial_c_l0_reverse"] = np.full(
            (2, 20), [[2.0], [-1.5]], np.float32
        )  # beyond what the equations give
    quantized, x, lengths = layer.quantize(weights), normal((4, 9, 3), 10), [9, 2, 0, 5]
    resets = rng(11).random((4, 9)) < 0.3
    y, state = quantized(x, lengths=lengths, resets=resets)
    exact, last = layer(x, lengths=lengths, resets=resets)
    np.testing.assert_allclose(y, exact, atol=0.05)
    np.testing.assert_allclose(np.asarray(state), np.asarray(last), atol=0.1)
    np.testing.assert_array_equal(quantized(x[3:, :5], resets=resets[3:, :5])[0], y[3:, :5])
    assert not y[2].any()
    alone, _ = quantized(x, lengths=lengths, resets=resets, last=True)
    np.testing.assert_array_equal(alone[0], y[0, -1])
    assert quantized(x[0])[0].shape == (9, 40)
    assert quantized(x[:, :0])[0].shape == (4, 0, 40)
    assert quantized.estimate_memory(100, 4) > 0


def test_what_is_not_finite_shows():
    quantized = bptt.GRU(3, 8, seed=4).quantize("int8")
    x = normal((6, 4, 3), 12)
    clean, _ = quantized(x)
    x[2, 1, 0], x[3, 2, 1] = np.nan, np.inf
    y, _ = quantized(x)
    assert np.isnan(y[2:, 1]).all()
    assert np.isnan(y[3:, 2]).all()
    np.testing.assert_array_equal(y[:, [0, 3]], clean[:, [0, 3]])
    tiny = np.full((1, 1, 3), 1e-42, np.float32)
    np.testing.assert_array_equal(quantized(tiny)[0], quantized(0 * tiny)[0])


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_files_and_copies(weights, tmp_path: Path):
    model = bptt.Sequential(
        bptt.Embedding(9, 6, seed=0), bptt.LSTM(6, 20, num_layers=2, peephole=True, seed=1), bptt.Linear(20, 9, seed=2)
    )
    quantized, ids, path = model.quantize(weights), rng(13).integers(0, 9, (7, 3)), tmp_path / "model.safetensors"
    y, _state = quantized(ids)
    assert list(quantized.params) == ["0.weight", "2.weight", "2.bias"]
    bptt.save(quantized, path, extra={"unit": "kWh"})
    arrays, config = checkpoint.load(path)
    assert arrays["1.weight_ih_l0"].dtype == {"int8": np.int8, "bfloat16": np.uint16}[weights]
    assert config["model"]["layers"][1]["weights"] == weights
    assert bptt.load_extra(path) == {"unit": "kWh"}
    for twin in (
        bptt.load(path),
        copy.deepcopy(quantized),
        copy.copy(quantized),
        pickle.loads(pickle.dumps(quantized)),
    ):
        np.testing.assert_array_equal(twin(ids)[0], y)
        assert repr(twin) == repr(quantized)
        with pytest.raises(ValueError, match="read-only"):
            twin.layers[1].params["weight_hh_l0"][:] = 0
    bptt.save(bptt.load(path), tmp_path / "again", extra={"unit": "kWh"})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    stream = quantized.stream(3)
    np.testing.assert_allclose([stream(row).copy() for row in ids], y, atol=1e-6)
    alone = quantized.layers[1]
    bptt.save(alone, path)
    x = normal((4, 6), 14)
    np.testing.assert_array_equal(bptt.load(path)(x)[0], alone(x)[0])
    with model.params.edit() as p:  # a copy: it does not follow
        p.flat[:] = 0
    np.testing.assert_array_equal(quantized(ids)[0], y)


def test_files_of_others_are_refused(tmp_path: Path):
    quantized, path = bptt.GRU(3, 4, seed=0).quantize("int8"), tmp_path / "model"
    bptt.save(quantized, path)
    arrays, config = checkpoint.load(path)
    wrong: list[tuple[dict[str, Any], Any]] = [
        ({**arrays, "weight_ih_l0": arrays["weight_ih_l0"] // 2}, None),
        ({**arrays, "weight_ih_l0": arrays["weight_ih_l0"].astype(np.float32)}, None),
        ({name: array for name, array in arrays.items() if name != "weight_ih_l0_scale"}, None),
        ({name: array for name, array in arrays.items() if name != "weight_ih_l0"}, None),
        ({**arrays, "weight_hh_l0_scale": arrays["weight_hh_l0_scale"] * np.float32(np.nan)}, None),
        (arrays, {**config["model"], "weights": "int4"}),
        (arrays, {**config["model"], "weights": "bfloat16"}),
        (arrays, {**config["model"], "layer": None}),
        (arrays, {**config["model"], "layer": config["model"]}),
        (arrays, {**config["model"], "layer": {"type": "Linear", "options": {"input_size": 3, "output_size": 4}}}),
    ]
    for changed, model in wrong:
        checkpoint.save(path, changed, {"model": model or config["model"]})
        with pytest.raises(ValueError, match="no usable model"):
            bptt.load(path)


def test_repr_and_products():
    layer = bptt.LSTM(3, 4, num_layers=2, seed=0)
    quantized = layer.quantize()
    assert repr(quantized) == repr(layer)[:-1] + ", weights='int8')"
    assert quantized.weights == "int8"
    assert quantized.products in INT8
    assert layer.quantize("bfloat16").products == "bfloat16_weights"
    assert set(core.narrow_products) <= {"bfloat16_weights", *INT8}
    assert not {*core.products} & {*core.narrow_products}


def test_training_is_refused():
    layer = bptt.LSTM(3, 4, seed=0)
    quantized, model = layer.quantize(), bptt.Sequential(layer, bptt.Linear(4, 2)).quantize("bfloat16")
    x, expected = np.zeros((2, 1, 3)), "expected the float32 layer that quantize"
    for call in (
        lambda: quantized.forward(x),
        lambda: quantized.backward(None, x),
        lambda: quantized.quantize(),
        lambda: quantized.state_dict(),
        lambda: quantized.load_state_dict({}),
        lambda: quantized.to_torch_state_dict(),
        lambda: model.forward(x),
        lambda: model.state_dict(),
        lambda: model.load_state_dict({}),
    ):
        with pytest.raises(TypeError, match=rf"LSTM\.\w+: the weights are \w+, for inference; {expected}"):
            call()
    with pytest.raises(TypeError, match="estimate_memory"):
        quantized.estimate_memory(2, 1, training=True)
    with pytest.raises(ValueError, match="no recurrent layer in float32"):
        model.quantize()
    with pytest.raises((TypeError, AttributeError)):
        bptt.optim.Adam().step(quantized.params, quantized.params)
    with pytest.raises(TypeError):
        quantized.params["bias_l0"] = 0
    with pytest.raises(ValueError, match="read-only"):
        quantized.params["bias_l0"][:] = 0
    with pytest.raises(AttributeError, match="fixed"):
        quantized.hidden_size = 5


def test_what_cannot_be_quantized():
    for layer in (
        bptt.LSTM(3, 4, layer_norm=True),
        bptt.LSTM(3, 4, proj_size=2),
        bptt.GRU(3, 4, reset_after=False),
        bptt.SLSTM(3, 4, num_heads=2),
    ):
        with pytest.raises(ValueError, match=r"quantize: the layer has heads or a cell of several stages"):
            layer.quantize()
    with pytest.raises(ValueError, match=r"RNN.quantize: the layer has dtype float64, expected float32"):
        bptt.RNN(3, 4, dtype="float64").quantize()
    with pytest.raises(ValueError, match="weights has value 'int4'"):
        bptt.RNN(3, 4).quantize("int4")
    with pytest.raises(TypeError, match="weights has type int"):
        bptt.RNN(3, 4).quantize(8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no recurrent layer"):
        bptt.Sequential(bptt.Linear(2, 2)).quantize()
    with pytest.raises(ValueError, match="65537 columns, expected at most 65536"):
        bptt.RNN(65537, 1).quantize()
    layer = bptt.RNN(3, 4)
    with layer.params.edit() as p:
        p["bias_l0"] = np.full(4, np.nan, np.float32)
    with pytest.raises(FloatingPointError, match="bias_l0"):
        layer.quantize()
    with pytest.raises(ValueError, match="expected training=False"):
        core.Stack("lstm", "float32", 3, 4, True, products="int8").pack(np.zeros(4 * 4 * 8, np.float32), True)
