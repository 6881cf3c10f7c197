# SPDX-License-Identifier: Apache-2.0
"""Arrays from users: which dtypes are numbers, and which arrays every operation refuses by name."""

import numpy as np
import pytest

import bptt
from bptt import _arrays, losses

X, IDS = np.ones((3, 2, 4), np.float32), np.zeros((3, 2), int)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *[(name, np.float64) for name in (">f8", "<f8", "f8", "g")],
        *[(name, np.float32) for name in (">f4", "<f4", "f4", ">f2", "f2", ">i8", "i4", "u1", "?")],
    ],
)
def test_the_precision_is_that_of_the_values(dtype, expected):
    for array in (np.ones((2, 3), dtype), np.asfortranarray(np.ones((2, 3), dtype)), np.ones((4, 3), dtype)[::2]):
        exact = _arrays.as_floats("f", "x", array)
        assert exact.dtype == expected
        assert exact.dtype.isnative
        assert exact.flags.c_contiguous
        assert (exact == 1).all()


@pytest.mark.parametrize(
    "dtype", ["c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "V2", [(f"field{i}", "f8") for i in range(50)]]
)
def test_what_is_no_real_number_is_refused(dtype):
    wrong = np.zeros((3, 2, 4), dtype)
    for call in (
        lambda: losses.mse(wrong, X),
        lambda: losses.mse(X, wrong),
        lambda: losses.cross_entropy(wrong, IDS),
        lambda: bptt.Linear(4, 2)(wrong),
        lambda: bptt.LSTM(4, 2)(wrong),
    ):
        with pytest.raises(
            TypeError, match=r"(x|prediction|target|logits) has dtype .*, expected real numbers$"
        ) as raised:
            call()
        assert len(str(raised.value)) < 200


def test_messages_of_others_are_cut_short():
    for wrong in ([[1.0, 2.0], [3.0]], {"a": 1}, object(), "text"):
        with pytest.raises(
            (TypeError, ValueError), match=r"^f: x has (type list, expected an array in|dtype)"
        ) as raised:
            _arrays.as_floats("f", "x", wrong)
        assert len(str(raised.value)) < 200
        assert "\n" not in str(raised.value)


def masked(array):
    return np.ma.masked_array(array, np.zeros(np.shape(array), bool))


LSTM, LINEAR, EMBEDDING = bptt.LSTM(4, 2, seed=0), bptt.Linear(4, 2, seed=0), bptt.Embedding(5, 4, seed=0)


def backward(layer, x, dy):
    return layer.backward(layer.forward(x)[-1], dy)


def set_state(stream, state):
    stream.state = state


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: losses.cross_entropy(masked(X), IDS), "cross_entropy: logits"),
        (lambda: losses.cross_entropy(X, masked(IDS)), "cross_entropy: targets"),
        (lambda: losses.cross_entropy(X, IDS, masked(IDS == 0)), "cross_entropy: mask"),
        (lambda: losses.mse(masked(X), X), "mse: prediction"),
        (lambda: losses.mse(X, masked(X)), "mse: target"),
        (lambda: LSTM(masked(X)), "LSTM.*: x"),
        (lambda: LSTM.forward(masked(X)), "LSTM.*: x"),
        (lambda: LSTM(X, lengths=masked([3, 1])), "LSTM.*: lengths"),
        (lambda: LSTM(X, resets=masked(IDS == 1)), "LSTM.*: resets"),
        (lambda: LSTM(X, (masked(np.zeros((1, 2, 2))), np.zeros((1, 2, 2)))), "LSTM.*: state h"),
        (lambda: backward(LSTM, X, masked(X[..., :2])), "LSTM.*: dy"),
        (lambda: LINEAR(masked(X)), "Linear.*: x"),
        (lambda: backward(LINEAR, X, masked(X[..., :2])), "Linear.*: dy"),
        (lambda: EMBEDDING(masked(IDS)), "Embedding.*: "),
        (lambda: bptt.Dropout(0.5)(masked(X)), "Dropout.*: x"),
        (lambda: LINEAR.params.__setitem__("bias", masked([1.0, 2.0])), "Params: bias"),
        (lambda: LSTM.stream(2)(masked(X[0])), "Stream: x"),
        (lambda: LINEAR.stream(2)(masked(X)), "Stream: x"),
        (lambda: EMBEDDING.stream(2)(masked(IDS[0])), "Stream: x"),
        (lambda: set_state(LSTM.stream(2), (masked(X[:1, :, :2]), X[:1, :, :2])), "Stream: state"),
    ],
)
def test_masked_arrays_are_refused_everywhere(call, name):
    message = rf"^{name}.* is a masked array, expected a plain one: its .data, or .filled\(value\)$"
    with pytest.raises(TypeError, match=message):
        call()


def test_other_subclasses_are_plain_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(LSTM(mapped)[0], LSTM(X)[0])
    np.testing.assert_array_equal(LSTM.stream(2)(mapped[0]), LSTM.stream(2)(X[0]))
