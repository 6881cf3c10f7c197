# SPDX-License-Identifier: Apache-2.0
"""Initialisers with an argument, numbers, and settings gate by gate."""

import math
import re

import numpy as np
import pytest

import bptt
from bptt.init import chrono, draw, identity


def test_identity_with_a_scale():
    np.testing.assert_array_equal(draw(identity(0.5), (4, 3), gates=2), np.vstack([0.5 * np.eye(2, 3)] * 2))
    np.testing.assert_array_equal(draw(identity(), (3, 3)), np.eye(3))
    irnn = bptt.RNN(3, 4, nonlinearity="relu", init=identity(0.25))
    np.testing.assert_array_equal(irnn.params["weight_hh_l0"], 0.25 * np.eye(4))
    np.testing.assert_array_equal(irnn.params["weight_ih_l0"], 0.25 * np.eye(4, 3))
    assert not irnn.params["bias_l0"].any()
    assert repr(identity(0.25)) == "identity(0.25)"


CHRONO = {
    "lstm": (bptt.LSTM, {}, "ifgo"),
    "peephole": (bptt.LSTM, {"peephole": True}, "ifgo"),
    "norm": (bptt.LSTM, {"layer_norm": True}, "ifgo"),
    "coupled": (bptt.LSTM, {"coupled": True}, "fgo"),
    "gru": (bptt.GRU, {}, "rzn"),
    "before": (bptt.GRU, {"reset_after": False}, "rzn"),
    "cell": (bptt.GRUCell, {}, "rzn"),
    "lstm cell": (bptt.LSTMCell, {}, "ifgo"),
}


@pytest.mark.parametrize("name", CHRONO)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chrono_is_that_of_the_paper(name, dtype):
    """b_f = ln(U(1, T_max - 1)), b_i = -b_f; of a GRU, whose z keeps the state, b_z. The others are 0."""
    kind, options, gates = CHRONO[name]
    H, init = 400, {"weight_ih": "zeros", "weight_hh": "zeros"}
    layer, plain = (kind(2, H, init=init | each, seed=3, dtype=dtype, **options) for each in ({"bias": chrono(50)}, {}))
    param = next(param for param in layer.params if param.startswith("bias") and "_hn" not in param)
    for other in layer.params:
        if other != param:
            np.testing.assert_array_equal(layer.params[other], plain.params[other])
    bias = dict(zip(gates, layer.params[param].reshape(len(gates), H), strict=True))
    keeps = bias.pop("z") if gates == "rzn" else bias.pop("f")
    if "i" in bias:
        np.testing.assert_array_equal(bias.pop("i"), -keeps)
    assert not any(rest.any() for rest in bias.values())
    u = np.exp(keeps.astype(np.float64))
    # U(1, 49): mean 25, standard deviation 48 / sqrt(12) = 13.9, that of the mean of 400 values 0.7, of their standard
    # deviation 0.3; the extremes miss the bounds by about 48 / 400 = 0.12. exp of a value rounded to float32 is off by
    # less than 4 * 49 * 2^-24 < 1e-4.
    assert 1 - 1e-4 <= u.min() < 1.8
    assert 48.2 < u.max() <= 49 + 1e-4
    assert abs(u.mean() - 25) < 3
    assert abs(u.std() - 48 / math.sqrt(12)) < 1.5
    again = draw(chrono(50), (len(gates) * H,), seed=3, stream=param, gates=tuple(gates), dtype=dtype)
    np.testing.assert_array_equal(again, layer.params[param])


def test_chrono_keeps_a_state_for_the_time_that_it_names():
    """At x = 0 and h = 0 the forget gate is u / (1 + u): the state falls to 1/e in about 1 + u steps."""
    lstm = bptt.LSTM(1, 64, init={"bias": chrono(2), "weight_hh": 0.0}, seed=0)
    i, f, _, _ = lstm.params["bias_l0"].reshape(4, 64)
    assert not i.any() and not f.any()  # noqa: PT018 - T_max = 2: u = 1, gates of one half
    layers = bptt.LSTM(1, 8, num_layers=2, bidirectional=True, init={"bias": chrono(100)}, seed=0)
    drawn = [layers.params[name] for name in layers.params if name.startswith("bias")]
    assert len(drawn) == 4
    assert len({bias.tobytes() for bias in drawn}) == 4


@pytest.mark.parametrize("heads", [1, 2])
def test_settings_for_each_gate(heads):
    kind = {"num_heads": heads} if heads > 1 else {}
    plain = bptt.SLSTM(3, 6, seed=0, **kind)
    choice = {"bias": {"f": 1.5, "o": -1}, "weight_hh": {"z": "zeros", "i": identity(2)}, "weight_ih_l0": {"o": "ones"}}
    layer = bptt.SLSTM(3, 6, init=choice, seed=0, **kind)
    expected = {name: array.copy().reshape(4, 6, -1) for name, array in plain.params.items()}
    expected["bias_l0"][1], expected["bias_l0"][3] = 1.5, -1
    expected["weight_hh_l0"][2], expected["weight_ih_l0"][3] = 0, 1
    expected["weight_hh_l0"][0] = np.vstack([2 * np.eye(6 // heads)] * heads)
    for name, array in layer.params.items():
        np.testing.assert_array_equal(array.reshape(4, 6, -1), expected[name], err_msg=name)


def test_a_gate_that_is_drawn_is_drawn_by_itself():
    gru = bptt.GRU(3, 5, num_layers=2, init={"weight_hh": {"n": "orthogonal"}, "bias": {"z": 1.0}}, seed=4)
    for k in range(2):
        q = gru.params[f"weight_hh_l{k}"].reshape(3, 5, 5)[2].astype(np.float64)
        np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-6)
        own = draw("orthogonal", (5, 5), seed=4, stream=f"weight_hh_l{k}.n")
        np.testing.assert_array_equal(gru.params[f"weight_hh_l{k}"][10:], own)
        np.testing.assert_array_equal(gru.params[f"bias_l{k}"], np.repeat([0, 1, 0], 5))
    lstm = bptt.LSTM(3, 5, init={"bias": {"i": -2.0}}, seed=4)
    np.testing.assert_array_equal(lstm.params["bias_l0"], np.repeat([-2, 1, 0, 0], 5))  # f has its default
    cell = bptt.RNNCell(3, 5, init={"bias": {"h": 2.0}}, seed=4)
    assert (cell.params["bias"] == 2).all()


def test_a_number_fills_a_parameter():
    lstm = bptt.LSTM(3, 4, peephole=True, init={"weight_peephole": 0.5, "bias_l0": np.float32(-1)})
    assert (lstm.params["weight_peephole_l0"] == 0.5).all()
    assert (lstm.params["bias_l0"] == -1).all()
    assert (draw(2, (3,)) == 2).all()


@pytest.mark.parametrize(
    ("kind", "init", "message"),
    [
        (bptt.LSTM, {"bias": {"x": 1.0}}, "LSTM: init of bias_l0 has the gate 'x', expected one of i, f, g, o"),
        (bptt.LSTM, {"bias": {3: 1.0}}, "LSTM: init of bias_l0 has the gate 3, expected one of i, f, g, o"),
        (
            bptt.GRU,
            {"bias_hn": {"n": 1.0}},
            "GRU: init of bias_hn_l0 has the gate 'n', expected an initialiser: it has",
        ),
        (
            bptt.Linear,
            {"bias": {"f": 1.0}},
            "Linear: init of bias has the gate 'f', expected an initialiser: it has no",
        ),
        (bptt.GRU, {"bias": {"z": "xavier"}}, "GRU: init has value 'xavier', expected default, pytorch or one of"),
        (bptt.GRU, {"bias": {"z": math.nan}}, "GRU: init has value nan, expected"),
        (bptt.GRU, {"bias": {"z": {"z": 1.0}}}, "GRU: init has value {'z': 1.0}, expected"),
        (bptt.GRU, {"bias": {"z": chrono(9)}}, "init.draw: chrono has gates without names, expected the bias of an"),
        (bptt.GRU, {"bias": True}, "GRU: init has value True, expected"),
        (bptt.GRU, 0.5, "GRU: init has value 0.5, expected a name, or {parameter: number}"),
        (bptt.GRU, chrono(9), "init.draw: chrono has a weight, expected the bias of an LSTM or a GRU, {'bias': chrono"),
        (bptt.RNN, {"bias": chrono(9)}, "init.draw: chrono has gates h, expected the bias of an LSTM or a GRU"),
        (bptt.SLSTM, {"bias": chrono(9)}, "init.draw: chrono has gates i, f, z, o, expected the bias of an LSTM or"),
        (bptt.Linear, {"bias": chrono(9)}, "init.draw: chrono has gates without names, expected the bias of an LSTM"),
        (bptt.GRU, {"bias": "forget_bias"}, "init.draw: forget_bias has gates r, z, n, expected those of an LSTM"),
    ],
    ids=str,
)
def test_settings_that_fit_no_parameter_are_named(kind, init, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        kind(3, 4, init=init)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("make", "value", "error", "message"),
    [
        (chrono, 1.5, ValueError, "init.chrono: T_max has value 1.5, expected 2 <= T_max < inf"),
        (chrono, math.inf, ValueError, "init.chrono: T_max has value inf"),
        (chrono, math.nan, ValueError, "init.chrono: T_max has value nan"),
        (chrono, "100", TypeError, "init.chrono: T_max has type str, expected a number"),
        (identity, -1, ValueError, "init.identity: scale has value -1.0, expected 0 <= scale < inf"),
        (identity, None, TypeError, "init.identity: scale has type NoneType, expected a number"),
    ],
)
def test_arguments_of_initialisers(make, value, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make(value)
