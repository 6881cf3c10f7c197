# SPDX-License-Identifier: Apache-2.0
"""State dicts of ours and of PyTorch, copies, pickles and repr of layers: what is read back computes the same."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bptt
from kernels import assert_same_bits
from stacks import KINDS, PROJECTED, Case, make, parts, threads, torch_layer

every_kind = pytest.mark.parametrize("kind", KINDS)
THEIRS = ["rnn_tanh", "rnn_relu", "lstm", "projected", "gru"]
every_torch_kind = pytest.mark.parametrize("kind", THEIRS)
every_bias = pytest.mark.parametrize("bias", [True, False])

STACK: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
ALL: dict[str, Any] = {
    **STACK, "dropout": 0.2, "recurrent_dropout": 0.25, "zoneout": (0.2, 0.1),
    "clip_state": 0.5, "clip_grad_per_step": 0.2, "checkpoint": 3, "learn_initial_state": True,
}  # fmt: skip


def our_layer(kind: str, bias: bool = True, **options: Any) -> Any:
    return make(kind, 3, **STACK | {"bias": bias} | options)


def assert_same_function(ours: Any, theirs: Any) -> None:
    """Sums of at most I + H + 2 H terms of order 1, 5 steps and 2 layers: errors stay below 100 times 10 eps."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((5, 4, 3))
    (y, state), (ty, tstate) = ours(x), theirs(torch.tensor(x))
    for a, b in zip((y, *parts(state)), (ty, *parts(tstate)), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1000 * np.finfo(np.float64).eps)


@every_torch_kind
@every_bias
@pytest.mark.parametrize(
    "form", [lambda t: t, lambda t: t.numpy(), lambda t: t.tolist()], ids=["tensor", "array", "list"]
)
def test_pytorchs_state_dict_is_taken(kind: str, bias: bool, form: Callable[[Any], Any]) -> None:
    theirs, ours = torch_layer(kind, 3, bias=bias, **STACK), our_layer(kind, bias)
    ours.load_state_dict({name: form(value) for name, value in theirs.state_dict().items()})
    assert_same_function(ours, theirs)


@every_torch_kind
@every_bias
def test_our_parameters_go_to_pytorch_and_back(kind: str, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = torch_layer(kind, 3, bias=bias, **STACK), our_layer(kind, bias)
    state = ours.to_torch_state_dict()
    assert list(state) == list(theirs.state_dict())
    assert not any(np.shares_memory(value, ours.params.flat) for value in state.values())
    theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    assert_same_function(ours, theirs)
    back = our_layer(kind, bias, init="zeros")
    with back.params.edit() as p:
        p.flat[:] = 0
    back.load_state_dict(state)
    np.testing.assert_array_equal(back.params.flat, ours.params.flat)


def test_a_single_layer_in_float32() -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.GRU(3, 7), bptt.GRU(3, 7)
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(x)[0], theirs(torch.tensor(x))[0].detach().numpy(), rtol=0, atol=2e-6)
    wide = bptt.GRU(3, 7, dtype="float64")
    wide.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(wide.params["weight_ih_l0"], ours.params["weight_ih_l0"])


def fake(kind: str, layers: int = 1) -> dict[str, Any]:
    """PyTorch's state dict without PyTorch."""
    return dict(our_layer(kind, num_layers=layers, bidirectional=False).to_torch_state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bias_hh_l0"), "state lacks bias_hh_l0, expected both of PyTorch's biases"),
        (lambda s: s.pop("weight_hh_l0"), "state lacks weight_hh_l0, expected the names of state_dict()"),
        (lambda s: s.update(bias_ih_l1=s["bias_ih_l0"]), "state has unknown bias_ih_l1, expected the names"),
        (lambda s: s.update(weight_hr_l0=np.zeros((2, 7))), "state has unknown weight_hr_l0, expected the names"),
        (lambda s: s.update(bias_hh_l0=np.zeros(7)), "bias_hh_l0 has shape (7,), expected (28,)"),
        (lambda s: s.update(bias_ih_l0=np.zeros((28, 1))), "bias_ih_l0 has shape (28, 1), expected (28,)"),
        (lambda s: s.update(weight_ih_l0=np.zeros((28, 4))), "weight_ih_l0 has shape (28, 4), expected (28, 3)"),
    ],
)
def test_a_state_dict_of_pytorch_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    state, layer = fake("lstm"), bptt.LSTM(3, 7, dtype="float64", seed=0)
    before = layer.params.flat.copy()
    change(state)
    with pytest.raises(ValueError, match=f"^LSTM.load_state_dict: {re.escape(message)}"):
        layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.params.flat, before)


def test_a_state_dict_of_another_layer_is_named() -> None:
    for ours, kind, layers, message in (
        (bptt.GRU(3, 7), "lstm", 1, "bias_ih_l0 has shape (28,), expected (21,)"),
        (bptt.LSTM(3, 7, bias=False), "lstm", 1, "state has unknown bias_ih_l0, bias_hh_l0, expected the names"),
        (bptt.LSTM(3, 7), "lstm", 2, "state has unknown weight_ih_l1, weight_hh_l1 and 2 more"),
        (bptt.LSTM(3, 7, 2), "lstm", 1, "state lacks bias_ih_l1"),
        (bptt.LSTM(3, 7, proj_size=PROJECTED), "lstm", 1, "state lacks weight_hr_l0"),
        (bptt.LSTM(3, 7, peephole=True), "lstm", 1, "state is of a layer of PyTorch, which has no peephole"),
        (bptt.LSTM(3, 7, layer_norm=True), "lstm", 1, "state is of a layer of PyTorch, which has no layer_norm"),
        (bptt.LSTM(3, 7, coupled=True), "gru", 1, "state is of a layer of PyTorch, which has no coupled"),
        (bptt.SLSTM(3, 7), "lstm", 1, "state is of a layer of PyTorch, which has no exponential gates"),
        (bptt.LSTM(3, 7, learn_initial_state=True), "lstm", 1, "state lacks initial_h_l0, initial_c_l0"),
    ):
        with pytest.raises(ValueError, match=f"^{type(ours).__name__}.load_state_dict: {re.escape(message)}"):
            ours.load_state_dict(fake(kind, layers))
    with pytest.raises(TypeError, match=r"LSTM.load_state_dict: bias_ih_l0 has dtype complex128, expected real"):
        bptt.LSTM(3, 7).load_state_dict(fake("lstm") | {"bias_ih_l0": np.zeros(28, complex)})


def test_a_gru_of_pytorch_is_none_that_resets_before_the_product() -> None:
    """The names and shapes fit, but it is another function: PyTorch's r multiplies Wh h0 + b_hn."""
    with pytest.raises(ValueError, match=r"^GRU.load_state_dict: .*reset_after=False"):
        bptt.GRU(3, 7, reset_after=False).load_state_dict(fake("gru"))


@pytest.mark.parametrize(
    ("kind", "options", "what"),
    [
        ("peephole", {}, "weight_peephole_l0"),
        ("coupled", {}, "coupled"),
        ("lstm_norm", {}, "weight_norm_l0, bias_norm_l0"),
        ("gru_norm", {}, "weight_norm_l0"),
        ("gru_before", {}, "reset_after=False"),
        ("lstm", {"learn_initial_state": True}, "initial_h_l0, initial_c_l0"),
    ],
)
def test_what_pytorch_has_not_is_named(kind: str, options: dict[str, Any], what: str) -> None:
    layer = make(kind, 3, **options)
    message = f"to_torch_state_dict: the layer has {what}, expected a cell that PyTorch's layers have"
    with pytest.raises(ValueError, match=f"^{type(layer).__name__}.{message}$"):
        layer.to_torch_state_dict()


def our_model(**options: Any) -> Any:
    options = {"dtype": "float64", **options}
    return bptt.Sequential(
        bptt.Embedding(9, 4, **options),
        bptt.LSTM(4, 3, num_layers=2, bidirectional=True, **options),
        bptt.Dropout(0.1),
        bptt.GRU(6, 5, **options),
        bptt.Linear(5, 2, **options),
    )


def their_model() -> Any:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(9, 4),
        torch.nn.LSTM(4, 3, num_layers=2, bidirectional=True),
        torch.nn.Dropout(0.1),
        torch.nn.GRU(6, 5),
        torch.nn.Linear(5, 2),
    ).double()


def assert_same_model(ours: Any, theirs: Any) -> None:
    """Sums of at most 6 + 15 terms of order 1, 5 steps and 5 layers: errors stay below 100 times 10 eps."""
    torch = pytest.importorskip("torch")
    ids = np.random.default_rng(0).integers(0, 9, (5, 4))
    embedding, lstm, _, gru, linear = theirs
    y = linear(gru(lstm(embedding(torch.tensor(ids)))[0])[0])
    np.testing.assert_allclose(ours(ids)[0], y.detach().numpy(), rtol=0, atol=1000 * np.finfo(np.float64).eps)


def test_a_model_of_pytorch_is_taken_and_given() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = our_model(seed=0), their_model()
    ours.load_state_dict(theirs.state_dict())
    assert_same_model(ours, theirs)
    ours, state = our_model(seed=1), our_model(seed=1).to_torch_state_dict()
    assert list(state) == list(theirs.state_dict())
    assert not any(np.shares_memory(value, ours.params.flat) for value in ours.to_torch_state_dict().values())
    theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    assert_same_model(ours, theirs)


def test_a_models_state_dict_for_pytorch_comes_back() -> None:
    ours, back = our_model(seed=0), our_model(seed=1)
    state = ours.to_torch_state_dict()
    back.load_state_dict(state)
    np.testing.assert_array_equal(back.params.flat, ours.params.flat)
    mixed = {name: value for name, value in ours.state_dict().items() if name.startswith("1.")}
    back.load_state_dict({name: value for name, value in state.items() if not name.startswith("1.")} | mixed)
    np.testing.assert_array_equal(back.params.flat, ours.params.flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("1.bias_hh_l0"), ", layer 1: state lacks bias_hh_l0, expected both of PyTorch's biases"),
        (lambda s: s.update({"3.bias_ih_l0": np.zeros(3)}), ", layer 3: bias_ih_l0 has shape (3,), expected (15,)"),
        (lambda s: s.pop("4.bias"), ": state lacks 4.bias, expected the names of state_dict()"),
        (lambda s: s.update({"4.bias": np.zeros(3)}), ": 4.bias has shape (3,), expected (2,)"),
        (lambda s: s.update({"14.weight": 1}), ": state has unknown 14.weight, expected the names of state_dict()"),
        (lambda s: s.update({"4.gain": 1}), ": state has unknown 4.gain, expected the names of state_dict()"),
        (lambda s: s.clear(), ": state lacks 0.weight, 1.weight_ih_l0 and 17 more, expected the names of state_dict()"),
        (
            lambda s: [s.update({f"encoder.a_long_name_of_a_user.{name}": s.pop(name)}) for name in list(s)],
            ": state lacks 0.weight, 1.weight_ih_l0 and 17 more and has unknown encoder.a_long_name_of_a_user.0.w... "
            "and 22 more, expected the names of state_dict()",
        ),
    ],
)
def test_a_models_state_dict_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    model, state = our_model(), our_model().to_torch_state_dict()
    before = model.params.flat.copy()
    change(state)
    with pytest.raises(ValueError, match=f"^Sequential.load_state_dict{re.escape(message)}$") as error:
        model.load_state_dict(state)
    assert len(str(error.value)) < 200
    np.testing.assert_array_equal(model.params.flat, before)


def test_what_is_no_state_dict_and_what_pytorch_has_not_is_named() -> None:
    for layer in (bptt.GRU(2, 3), bptt.Linear(2, 3), our_model()):
        with pytest.raises(TypeError, match=f"^{type(layer).__name__}.load_state_dict: state has type list, expected"):
            layer.load_state_dict([1])
    model = bptt.Sequential(bptt.Linear(2, 2), bptt.LSTM(2, 3, 8, learn_initial_state=True))
    message = ", layer 1: the layer has initial_h_l0, initial_c_l0 and 14 more, expected a cell that PyTorch's layers"
    with pytest.raises(ValueError, match=f"^Sequential.to_torch_state_dict{message} have$"):
        model.to_torch_state_dict()
    before = bptt.Sequential(bptt.GRU(3, 7, reset_after=False))
    with pytest.raises(ValueError, match=r"^Sequential.load_state_dict, layer 0: .*reset_after=False"):
        before.load_state_dict({f"0.{name}": value for name, value in fake("gru").items()})


@every_kind
def test_our_own_state_dict_comes_back(kind: str) -> None:
    layer, other = make(kind, 3, **ALL), KINDS[kind][0](3, 7, **KINDS[kind][1], **ALL, dtype="float64")
    state = layer.state_dict()
    assert list(state) == list(layer.params)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.params.flat, layer.params.flat)
    assert not any(np.shares_memory(value, layer.params.flat) for value in state.values())
    state.pop("initial_h_l1_reverse")
    with pytest.raises(ValueError, match=f"^{type(layer).__name__}.load_state_dict: state lacks initial_h_l1_reverse"):
        other.load_state_dict(state)


@every_kind
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["copy", "pickle"])
def test_copies_are_whole_and_independent(kind: str, duplicate: Callable[[Any], Any]) -> None:
    case = Case.random(kind, "float32", **ALL)
    case.run()  # one call of forward: the copy draws the masks of the second
    lengths, resets = np.array([6, 2, 0, 5]), np.random.default_rng(0).random((6, 4)) < 0.2
    case = case.but(lengths=lengths, resets=resets)
    twin = case.but(layer=duplicate(case.layer))
    assert repr(twin.layer) == repr(case.layer)
    expected = case.run()
    with case.layer.params.edit() as p:
        p.flat[:] = 0
    with threads(2):
        assert_same_bits(twin.run(), expected)
    assert not np.array_equal(case.run()["y"], expected["y"])


def test_copies_of_models_with_all_options() -> None:
    model = bptt.Sequential(bptt.Linear(3, 4), make("lstm", 4, dtype="float32", **ALL), bptt.Linear(14, 2))
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(twin) == repr(model)
        first, second = copy.deepcopy(model), twin  # both at the same call
        y, _, tape = first.forward(x)
        same, _, other = second.forward(x)
        np.testing.assert_array_equal(same, y)
        np.testing.assert_array_equal(second.backward(other, y)[2].flat, first.backward(tape, y)[2].flat)
        with twin.params.edit() as p:
            p.flat[:] = 0
        assert model(x)[0].any()
        fresh = copy.deepcopy(model)
        with fresh.params.edit() as p:
            p.flat[:] = 0
        fresh.load_state_dict(model.state_dict())
        np.testing.assert_array_equal(fresh(x)[0], model(x)[0])


def test_reprs_name_what_differs_from_the_defaults() -> None:
    for layer, text in (
        (bptt.RNN(2, 3, 2, nonlinearity="relu"), "RNN(2, 3, num_layers=2, nonlinearity='relu', dtype=float32)"),
        (bptt.LSTM(2, 3, proj_size=1, peephole=True), "LSTM(2, 3, proj_size=1, peephole=True, dtype=float32)"),
        (bptt.LSTM(2, 3, coupled=True, bias=False), "LSTM(2, 3, coupled=True, bias=False, dtype=float32)"),
        (bptt.GRU(2, 3, reset_after=False), "GRU(2, 3, reset_after=False, dtype=float32)"),
        (bptt.GRU(2, 3, layer_norm=True, zoneout=0.5), "GRU(2, 3, layer_norm=True, zoneout=0.5, dtype=float32)"),
        (
            bptt.LSTM(2, 3, batch_first=True, dtype="f8", **ALL),
            "LSTM(2, 3, num_layers=2, batch_first=True, bidirectional=True, learn_initial_state=True, dropout=0.2, "
            "recurrent_dropout=0.25, zoneout=(0.2, 0.1), checkpoint=3, clip_state=0.5, clip_grad_per_step=0.2, "
            "dtype=float64)",
        ),
        (bptt.GRU(2, 3, checkpoint="sqrt"), "GRU(2, 3, checkpoint='sqrt', dtype=float32)"),
    ):
        assert repr(layer) == text
        again = eval(text, {**vars(bptt), "float32": "float32", "float64": "float64"})
        assert repr(again) == text
        assert again.params.shapes == layer.params.shapes
