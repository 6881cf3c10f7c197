# SPDX-License-Identifier: Apache-2.0
"""Options of `bptt.torch.LSTM`, `GRU` and `RNN`: as bptt's own layers, and by finite differences."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import bptt  # noqa: E402
from bptt._engine.options import mixed  # noqa: E402
from torch_cases import TOLERANCE, bt, flat, loss_of, one_thread  # noqa: E402, F401

F64 = torch.float64
STATE_OPTIONS: list[dict[str, Any]] = [
    {"zoneout": (0.3, 0.1)},
    {"recurrent_dropout": 0.4},
    {"clip_state": 0.2, "clip_grad_per_step": 0.05},
    {"checkpoint": 3, "zoneout": 0.2},
    {"checkpoint": "sqrt"},
]
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, options) for name in ("LSTM", "GRU", "RNN") for options in STATE_OPTIONS],
    ("LSTM", {"peephole": True}),
    ("LSTM", {"peephole": True, "proj_size": 3, "zoneout": 0.2}),
    ("LSTM", {"layer_norm": True, "recurrent_dropout": 0.2}),
    ("GRU", {"layer_norm": True}),
    ("GRU", {"reset_after": False, "clip_state": 0.3}),
    ("RNN", {"nonlinearity": "relu", "zoneout": 0.2}),
]
every_case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda each: each if isinstance(each, str) else "-".join(each)
)


def made(name: str, options: dict[str, Any], *sizes: int, dtype: Any = F64, **form: Any) -> Any:
    """A layer whose parameters are all random, also those that begin at 0 or 1."""
    torch.manual_seed(1)
    layer = getattr(bt, name)(*sizes, **options, **form, dtype=dtype)
    for each in layer.parameters():
        torch.nn.init.normal_(each, std=0.4)
    return layer


def own(layer: Any, name: str, options: dict[str, Any]) -> Any:
    """bptt's layer with the weights of this one."""
    of = layer
    theirs = getattr(bptt, name)(
        of.input_size, of.hidden_size, of.num_layers, bias=of.bias, bidirectional=of.bidirectional, dtype=np.float64,
        seed=5, **options,
    )  # fmt: skip
    weights = {key: each.detach().numpy() for key, each in layer.state_dict().items()}
    for key in theirs.params:
        if key.startswith("bias_hn"):
            value = weights["bias_hh" + key[7:]][2 * of.hidden_size :]
        elif key.startswith("bias_l"):
            value = weights["bias_ih" + key[4:]] + weights["bias_hh" + key[4:]]
            if "bias_hn" + key[4:] in theirs.params:
                value[2 * of.hidden_size :] = weights["bias_ih" + key[4:]][2 * of.hidden_size :]
        else:
            value = weights[key]
        theirs.params[key] = value
    return theirs


def assert_near(ours: Any, theirs: Any) -> None:
    ours, theirs = ours.detach().numpy(), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE[F64] * max(1.0, np.abs(theirs).max())


@every_case
@pytest.mark.parametrize(("bias", "bidirectional"), [(True, True), (False, False)])
def test_as_bptts_layers(name: str, options: dict[str, Any], bias: bool, bidirectional: bool, monkeypatch: Any) -> None:
    layer = made(name, options, 5, 7, 2, bias=bias, bidirectional=bidirectional)
    theirs = own(layer, name, options)
    monkeypatch.setattr("bptt.torch.functional.drawn_seed", lambda: mixed(theirs._stack.state_options.seed, 1))
    x, lengths = torch.randn(7, 3, 5, dtype=F64, requires_grad=True), [7, 2, 5]
    resets = torch.rand(7, 3) < 0.2
    y, state = layer(x, lengths=lengths, resets=resets)
    y2, state2, tape = theirs.forward(x.detach().numpy(), None, lengths, resets.numpy())
    for a, b in zip([y, *flat(state)], [y2, *(state2 if isinstance(state2, tuple) else [state2])], strict=True):
        assert_near(a, b)
    dy = torch.linspace(-1, 1, y.numel(), dtype=F64).reshape(y.shape)
    y.backward(dy)
    dx, _, grads = theirs.backward(tape, dy.numpy())
    assert_near(x.grad, dx)
    for key, each in layer.named_parameters():
        if key in grads:
            assert_near(each.grad, grads[key])
        elif key.startswith("bias_ih"):
            assert_near(each.grad, grads["bias" + key[7:]])
    with torch.no_grad():
        assert_near(layer.eval()(x, lengths=lengths)[0], theirs(x.detach().numpy(), None, lengths)[0])


@every_case
def test_gradients_by_finite_differences(name: str, options: dict[str, Any]) -> None:
    options = {key: value for key, value in options.items() if key != "clip_grad_per_step"} | {"dropout": 0.3}
    layer = made(name, options, 2, 4, 2)
    x = torch.randn(4, 2, 2, dtype=F64, requires_grad=True)
    keys = list(dict(layer.named_parameters()))

    def of(x: Any, *weights: Any) -> Any:
        torch.manual_seed(7)
        outputs = torch.func.functional_call(layer, dict(zip(keys, weights, strict=True)), (x,))
        return tuple(flat(outputs))

    assert torch.autograd.gradcheck(of, (x, *layer.parameters()), fast_mode=True)


@every_case
def test_forms_of_input(name: str, options: dict[str, Any]) -> None:
    layer = made(name, options, 5, 7, 2, bidirectional=True, batch_first=True)
    plain = {"peephole", "layer_norm", "reset_after"} & set(options)
    x, lengths = torch.randn(3, 6, 5, dtype=F64), torch.tensor([3, 6, 1])
    widths = (layer.proj_size or 7, 7) if name == "LSTM" else (7,)
    state = [torch.randn(4, 3, width, dtype=F64) for width in widths]
    hx = tuple(state) if name == "LSTM" else state[0]
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    layer.eval()
    with torch.no_grad():
        y, final = layer(rows, hx)
        padded, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        expected = layer(x, hx, lengths=lengths)
        for a, b in zip(flat([padded, final]), flat(expected), strict=True):
            assert_near(a, b)
        one = layer(x[1], tuple(each[:, 1] for each in state) if name == "LSTM" else state[0][:, 1])
        assert_near(one[0], expected[0][1])
        assert_near(flat(one)[1], flat(expected)[1][:, 1])
    extra = set(layer.state_dict()) - set(getattr(torch.nn, name)(5, 7, 2, bidirectional=True).state_dict())
    assert bool(extra - {f"weight_hr_l{k}{end}" for k in (0, 1) for end in ("", "_reverse")}) == bool(
        plain - {"reset_after"}
    )


def test_zoneout_keeps_states_and_draws_from_pytorchs_generator() -> None:
    layer, x = made("LSTM", {"zoneout": (0.5, 0.0)}, 5, 50), torch.randn(20, 8, 5, dtype=F64)
    torch.manual_seed(0)
    y = layer(x)[0]
    kept = float((y[1:] == y[:-1]).double().mean())
    assert abs(kept - 0.5) < 5 * (0.25 / y[1:].numel()) ** 0.5
    assert not torch.equal(layer(x)[0], y)
    torch.manual_seed(0)
    assert torch.equal(layer(x)[0], y)
    y = layer.eval()(x)[0]
    assert torch.equal(y, layer(x)[0])
    with pytest.raises(RuntimeError, match="zoneout of a layer in eval mode has no backward pass"):
        y.sum().backward()


def test_a_checkpoint_has_the_same_bits() -> None:
    x = torch.randn(300, 2, 5, dtype=torch.float32)
    found = []
    for options in ({}, {"checkpoint": "sqrt"}):
        layer = made("GRU", options, 5, 7, dtype=torch.float32)
        outputs = layer(x, resets=torch.zeros(300, 2, dtype=torch.bool))
        found.append([*flat(outputs), *torch.autograd.grad(loss_of(outputs), list(layer.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_same_weights_and_state_dict_as_pytorchs() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(3, 4, 2)
    torch.manual_seed(0)
    ours = bt.LSTM(3, 4, 2, peephole=True)
    for key, each in theirs.state_dict().items():
        assert torch.equal(each, ours.state_dict()[key])
    assert (ours.weight_peephole_l1 == 0).all()
    same = bt.LSTM(3, 4, 2, zoneout=0.1)
    same.load_state_dict(theirs.state_dict())
    norm = bt.LSTM(3, 4, layer_norm=True)
    torch.nn.init.normal_(norm.weight_norm_l0)
    norm.reset_parameters()
    assert (norm.weight_norm_l0 == 1).all()
    assert (norm.bias_norm_l0 == 0).all()
    for layer in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert layer.variant == ours.variant
        assert torch.equal(layer(torch.ones(2, 1, 3))[0], ours(torch.ones(2, 1, 3))[0])
        layer.double()
        assert layer(torch.ones(2, 1, 3, dtype=F64))[0].dtype is F64
    text = "LSTM(3, 4, layer_norm=True, recurrent_dropout=0.2, zoneout=0.1, clip_state=2.0, checkpoint='sqrt')"
    options = {"zoneout": 0.1, "recurrent_dropout": 0.2, "clip_state": 2, "checkpoint": "sqrt"}
    assert repr(bt.LSTM(3, 4, layer_norm=True, **options)) == text
    assert repr(bt.GRU(3, 4, reset_after=False)) == "GRU(3, 4, reset_after=False)"
    assert bt.GRU(3, 4).variant is None


def test_errors() -> None:
    x = torch.ones(4, 3, 5)
    layer = bt.LSTM(5, 7, zoneout=0.1)
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, [4, 3, 2])
    for run, error, message in [
        (lambda: bt.LSTM(3, 4, zoneout=1.0), ValueError, r"bptt.torch.LSTM: zoneout has value 1"),
        (lambda: bt.LSTM(3, 4, peephole=True, layer_norm=True), ValueError, "peephole and layer_norm are given"),
        (lambda: bt.LSTM(3, 4, proj_size=2, layer_norm=True), ValueError, "proj_size has value 2 with layer_norm"),
        (lambda: bt.GRU(3, 4, reset_after=False, layer_norm=True), ValueError, "are given together"),
        (lambda: bt.RNN(3, 4, checkpoint="all"), ValueError, "checkpoint has value 'all', expected None, 'sqrt'"),
        (lambda: bt.RNN(3, 4, peephole=True), TypeError, "unexpected keyword argument 'peephole'"),
        (lambda: bt.GRU(3, 4, layer_norm=1), TypeError, "layer_norm"),
        (lambda: layer(rows, lengths=[4, 3, 2]), ValueError, "x has type PackedSequence, expected a tensor of 3 axes"),
        (lambda: layer(x[..., :4]), ValueError, "expected those of torch.nn's layer for 4 features"),
        (lambda: layer.bfloat16()(x.bfloat16()), TypeError, "dtype bfloat16"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            run()
