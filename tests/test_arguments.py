# SPDX-License-Identifier: Apache-2.0
"""The arguments of layers: which are refused by name, how they are converted, and where they are documented."""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any

import numpy as np
import pytest

import bptt
from bptt.layers.options import LayerOptions


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clip_state": 1e-50}, ValueError, "clip_state has value 1e-50, expected a number >= 1.18e-38"),
        (
            {"clip_grad_per_step": 1e-39},
            ValueError,
            "clip_grad_per_step has value 1e-39, expected a number >= ",
        ),
        ({"clip_grad_per_step": 1e-310, "dtype": "f8"}, ValueError, "clip_grad_per_step has value 1e-310, expected a "),
        ({"clip_state": "1"}, TypeError, "clip_state has type str, expected a number"),
        ({"dropout": "0.5"}, TypeError, "dropout has type str, expected a number"),
        ({"dropout": False}, TypeError, "dropout has type bool, expected a number"),
        ({"dropout": 0.5j}, TypeError, "dropout has type complex, expected a number"),
        ({"dropout": np.array("0.5")}, TypeError, "dropout has type ndarray, expected a number"),
        ({"recurrent_dropout": np.complex64(0)}, TypeError, "recurrent_dropout has type complex64, expected a number"),
        ({"recurrent_dropout": b"0"}, TypeError, "recurrent_dropout has type bytes, expected a number"),
        ({"zoneout": (np.False_, 0.1)}, TypeError, f"zoneout has type {type(np.False_).__name__}, expected a number"),
        ({"zoneout": 10**400}, ValueError, "zoneout has value inf, expected 0 <= zoneout < 1"),
        ({"bidirectional": "False"}, TypeError, "bidirectional has type str, expected True or False"),
        ({"bias": "False"}, TypeError, "bias has type str, expected True or False"),
        ({"bias": None}, TypeError, "bias has type NoneType, expected True or False"),
        ({"batch_first": 2}, TypeError, "batch_first has type int, expected True or False"),
        ({"learn_initial_state": 1}, TypeError, "learn_initial_state has type int, expected True or False"),
        ({"num_layers": True}, TypeError, "num_layers has type bool, expected an integer"),
        ({"num_layers": 2**16 + 1}, ValueError, "num_layers has value 65537, expected an integer <= 65536"),
        ({"checkpoint": 2**63}, ValueError, f"checkpoint has value {2**63}, expected an integer <= {2**63 - 1}"),
        ({"checkpoint": 10**5000}, ValueError, "checkpoint has value of 16610 bits, expected an integer <= "),
        ({"checkpoint": True}, TypeError, "checkpoint has type bool, expected an integer"),
        ({"seed": True}, TypeError, "seed has type bool, expected an integer"),
        ({"seed": "1"}, TypeError, "seed has type str, expected an integer"),
        ({"dtype": None}, TypeError, "dtype has value None, expected float32 or float64"),
        ({"dtype": "floot"}, TypeError, "dtype has value floot, expected float32 or float64"),
        ({"dtype": bool}, TypeError, "dtype has value bool, expected float32 or float64"),
    ],
)
def test_wrong_shared_arguments_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    for layer in (bptt.RNN, bptt.LSTM, bptt.SLSTM, bptt.GRU):
        with pytest.raises(error, match=f"^{layer.__name__}: {re.escape(message)}") as caught:
            layer(2, 3, **options)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: bptt.LSTM(2, 3, peephole=1), "LSTM: peephole has type int, expected True or False"),
        (lambda: bptt.LSTM(2, 3, coupled="no"), "LSTM: coupled has type str, expected True or False"),
        (lambda: bptt.LSTM(2, 3, layer_norm=None), "LSTM: layer_norm has type NoneType, expected True or False"),
        (lambda: bptt.LSTM(2, 3, proj_size=True), "LSTM: proj_size has type bool, expected an integer"),
        (lambda: bptt.LSTM(2, 3, proj_size="2"), "LSTM: proj_size has type str, expected an integer"),
        (lambda: bptt.GRU(2, 3, reset_after="False"), "GRU: reset_after has type str, expected True or False"),
        (lambda: bptt.GRU(2, 3, layer_norm=0), "GRU: layer_norm has type int, expected True or False"),
        (lambda: bptt.Linear(2, 3, bias="False"), "Linear: bias has type str, expected True or False"),
        (lambda: bptt.Linear(2, 3, dtype=None), "Linear: dtype has value None, expected float32 or float64"),
        (lambda: bptt.Linear(True, 3), "Linear: in_features has type bool, expected an integer"),
        (lambda: bptt.Embedding(2, 3, seed=True), "Embedding: seed has type bool, expected an integer"),
        (lambda: bptt.Dropout("0.5"), "Dropout: p has type str, expected a number"),
        (lambda: bptt.Dropout(seed=True), "Dropout: seed has type bool, expected an integer"),
        (lambda: bptt.LSTM(2, 3, zoneut=0.1), "LSTM: there is no option 'zoneut', did you mean 'zoneout'?"),
        (
            lambda: bptt.RNN(2, 3, nonlinearty="relu"),
            "RNN: there is no option 'nonlinearty', did you mean 'nonlinearity'?",
        ),
        (lambda: bptt.RNN(3, 4, proj_size=2), "RNN: there is no option 'proj_size', help(RNN) lists all"),
        (lambda: bptt.GRU(3, 4, proj_size=2), "GRU: there is no option 'proj_size', help(GRU) lists all"),
        (lambda: bptt.RNN(3, 4, vectors=()), "RNN: there is no option 'vectors', help(RNN) lists all"),
        (lambda: bptt.LSTM(3, 4, vectors=()), "LSTM: there is no option 'vectors', help(LSTM) lists all"),
        (lambda: bptt.GRU(3, 4, cell="gru"), "GRU: there is no option 'cell', help(GRU) lists all"),
        (lambda: bptt.GRU(3, 4, options=()), "GRU: there is no option 'options', help(GRU) lists all"),
        (lambda: bptt.LSTM(2, hidden=3), "LSTM: there is no option 'hidden', did you mean 'hidden_size'?"),
        (lambda: bptt.Linear(2, 3, bais=False), "Linear: there is no option 'bais', did you mean 'bias'?"),
        (lambda: bptt.Embedding(2, 3, sed=1), "Embedding: there is no option 'sed', did you mean 'seed'?"),
        (lambda: bptt.optim.SGD(0.1, momentun=0.9), "SGD: there is no option 'momentun', did you mean 'momentum'?"),
        (lambda: bptt.optim.Adam(learning_rate=0.1), "Adam: there is no option 'learning_rate', help(Adam) lists all"),
        (lambda: bptt.Dropout(0.5, seeds=1), "Dropout: there is no option 'seeds', did you mean 'seed'?"),
    ],
)
def test_wrong_arguments_of_one_layer_are_named(make_one: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make_one()


def test_numbers_and_booleans_of_numpy_are_taken() -> None:
    layer = bptt.LSTM(
        np.int32(2), np.uint8(3), np.int64(2), bias=np.False_, batch_first=np.True_, dropout=np.float32(0.5),
        zoneout=(np.float64(0.25), np.array(0.5)), clip_state=np.int16(2), checkpoint=np.int8(3), seed=np.uint64(7),
    )  # fmt: skip
    text = "num_layers=2, bias=False, batch_first=True, dropout=0.5, zoneout=(0.25, 0.5), checkpoint=3, clip_state=2.0"
    assert repr(layer) == f"LSTM(2, 3, {text}, dtype=float32)"
    assert type(layer.batch_first) is bool
    np.testing.assert_array_equal(layer.params.flat, bptt.LSTM(2, 3, 2, bias=False, seed=7).params.flat)
    y, _ = layer(np.zeros((1, 4, 2)))
    assert y.shape == (1, 4, 3)


def test_a_checkpoint_beyond_every_sequence_is_none() -> None:
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    far, none = (bptt.GRU(3, 4, checkpoint=k, seed=0) for k in (2**63 - 1, None))
    results = [layer.backward(layer.forward(x)[2], np.ones((5, 2, 4)))[2].flat for layer in (far, none)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.SLSTM, bptt.GRU])
def test_every_option_is_in_signature_and_docstring(layer: Any) -> None:
    parameters = inspect.signature(layer).parameters
    shared = LayerOptions._fields
    assert [name for name in parameters if name in shared] == list(shared)
    text = inspect.getdoc(layer) or ""
    for name, parameter in parameters.items():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), name
        assert len(re.findall(rf"^ +{name}: ", text, re.MULTILINE)) == 1, name
        expected = inspect.signature(bptt.LSTM).parameters.get(name, parameter)
        assert (parameter.default, parameter.annotation) == (expected.default, expected.annotation), name
    assert {name for name, each in parameters.items() if each.default is each.empty} == {"input_size", "hidden_size"}
    for described in (text, *(inspect.getdoc(getattr(layer, name)) or "" for name in dir(layer) if name[0] != "_")):
        assert "Recurrent" not in described
        assert "{options}" not in described


def test_dropout_between_the_layers_of_one_is_a_warning() -> None:
    for layer in (bptt.RNN, bptt.LSTM, bptt.SLSTM, bptt.GRU):
        message = f"{layer.__name__}: dropout has value 0.5 with num_layers=1, where it drops nothing"
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}") as caught:
            made = layer(2, 3, dropout=0.5)
        assert [warning.filename for warning in caught] == [__file__]
        copy.deepcopy(made)  # without another one
        layer(2, 3, num_layers=2, dropout=0.5)


LARGE = bptt.LSTM(3, 4, num_layers=8, bidirectional=True, learn_initial_state=True)
LONG = "a_name_of_a_user" * 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: LARGE.load_state_dict({}),
            "LSTM.load_state_dict: state lacks weight_ih_l0, weight_hh_l0, bias_l0 and 77 more, expected the names",
        ),
        (
            lambda: LARGE.load_state_dict({LONG + name: 0 for name in LARGE.params}),
            "LSTM.load_state_dict: state lacks weight_ih_l0, weight_hh_l0, bias_l0 and 77 more and has unknown a_name",
        ),
        (
            lambda: LARGE.to_torch_state_dict(),
            "LSTM.to_torch_state_dict: the layer has initial_h_l0, initial_c_l0 and 30 more, expected a cell",
        ),
        (
            lambda: LARGE.backward(LARGE.forward(np.zeros((1, 1, 3)))[2], np.zeros((1, 1, 8)), grads=bptt.Params({})),
            "LSTM.backward: grads has no more arrays, expected weight_ih_l0 (16, 3), as params.zeros_like() makes them",
        ),
        (
            lambda: bptt.GRU(3, 4).backward(bptt.GRU(3, 4).forward(np.zeros((1, 1, 3)))[2], None),
            "GRU.backward: tape is of another layer",
        ),
        (lambda: LARGE.params[LONG], "Params: there is no 'a_name_of_a_usera_name_of_a_usera_na..., expected one of "),
        (lambda: bptt.Params({})["x"], "Params: there is no 'x', expected none"),
        (lambda: bptt.GRU(3, 4, init=LONG), "GRU: init has value 'a_name_of_a_usera_name_of_a_usera_na..., expected d"),
        (lambda: bptt.GRU(3, 4, init=["ones"]), "GRU: init has value ['ones'], expected default, pytorch or one of "),
        (lambda: bptt.GRU(3, 4, 9, init={"b": "ones"}), "GRU: init has key 'b', expected one of weight_ih_l0, weight_"),
        (lambda: bptt.GRU(3, 4, 9, init={3: "ones"}), "GRU: init has key 3, expected one of weight_ih_l0, weight_hh_"),
        (lambda: bptt.init.draw(LONG, (2, 2)), "init.draw: name has value 'a_name_of_a_usera_name_of_a_usera_na..., "),
        (lambda: bptt.init.draw("ones", 2), "init.draw: shape has type int, expected a tuple"),
        (lambda: bptt.init.draw("uniform", (2, 2), size=0), "init.draw: size has value 0, expected an integer >= 1"),
        (lambda: bptt.RNN(3, 4, nonlinearity=LONG), "RNN: nonlinearity has value 'a_name_of_a_usera_name_of_a_usera"),
        (
            lambda: bptt.RNN(3, 4, **{LONG: 1}),
            "RNN: there is no option 'a_name_of_a_usera_name_of_a_usera_na..., help(",
        ),
    ],
)
def test_messages_are_one_short_line(call: Any, message: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)) as caught:
        call()
    text = caught.value.args[0]
    assert text.startswith(message)
    assert len(text) < 200
    assert "\n" not in text
