# SPDX-License-Identifier: Apache-2.0
"""Stacks, both directions, projections, dropout between layers: against combined references, and PyTorch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import bptt
from kernels import assert_close, assert_same_bits
from stacks import DTYPES, HIDDEN, KINDS, Case, Expected, make, named, parts, threads, torch_layer, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_shape = pytest.mark.parametrize(("layers", "both"), [(2, False), (1, True), (3, True)])


@every_kind
@every_dtype
@every_shape
def test_a_stack_is_its_layers_and_directions(kind: str, dtype: str, layers: int, both: bool) -> None:
    for T, B, state in ((6, 4, True), (1, 1, False), (0, 3, True)):
        case = Case.random(kind, dtype, T, B, num_layers=layers, bidirectional=both, state=state)
        expected = Expected(case).results()
        assert_close(case.run(), expected, case.tolerance())
        assert_close(case.infer(), {name: expected[name] for name in case.infer()}, case.tolerance())


@every_kind
def test_without_biases(kind: str) -> None:
    case = Case.random(kind, num_layers=2, bidirectional=True, bias=False)
    assert not [name for name in case.layer.params if name.startswith(("bias_l", "bias_hn"))]
    assert_close(case.run(), Expected(case).results(), case.tolerance())


@every_kind
def test_inference_gives_the_bits_of_training(kind: str) -> None:
    case = Case.random(kind, "float32", num_layers=2, bidirectional=True)
    trained = case.run()
    assert_same_bits(case.infer(), {name: trained[name] for name in case.infer()})


@every_kind
@every_dtype
def test_what_memory_held_before_does_not_matter(kind: str, dtype: str) -> None:
    """Runs on NaN leave them in the blocks that the next run is given; narrow inputs take another way to dx."""
    each: tuple[dict[str, Any], ...] = ({}, {"clip_state": 0.6, "recurrent_dropout": 0.2})
    for I, B, H in ((3, 4, 7), (3, 2, 7), (4, 4, 7), (3, 9, 20), (9, 4, 17)):  # noqa: E741
        for options in each:
            case = Case.random(kind, dtype, 6, B, I, hidden_size=H, **options)
            state, dstate = (whole(a * np.nan for a in parts(s)) for s in (case.state, case.dstate))
            poison = case.but(x=case.x * np.nan, state=state, dy=case.dy * np.nan, dstate=dstate)
            poison.run()
            poison.run()
            assert_close(case.run(), Expected(case, call=3).results(), case.tolerance())


def torch_gradients(kind: str, layer: Any) -> dict[str, np.ndarray]:
    """By our names: of the two biases, which have the same gradient, the one in the place of ours."""
    theirs = {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}
    ours = {name.replace("bias_ih", "bias"): g for name, g in theirs.items() if not name.startswith("bias_hh")}
    if kind == "gru":
        ours |= {
            name.replace("bias_hh", "bias_hn"): g[2 * HIDDEN :]
            for name, g in theirs.items()
            if name.startswith("bias_hh")
        }
    return {f"d{name}": g for name, g in ours.items()}


@pytest.mark.parametrize(("layers", "both", "bias"), [(2, False, True), (1, True, False), (3, True, True)])
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "projected", "gru"])
def test_stacks_agree_with_pytorch(kind: str, layers: int, both: bool, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": both, "bias": bias}
    theirs, case = torch_layer(kind, 5, **options), Case.random(kind, **options)
    case.layer.load_state_dict(theirs.state_dict())
    x, *state = (torch.tensor(a, requires_grad=True) for a in (case.x, *parts(case.state)))
    y, final = theirs(x, whole(state))
    torch.autograd.backward((y, *parts(final)), [torch.tensor(a) for a in (case.dy, *parts(case.dstate))])
    expected = named(
        y.detach().numpy(), whole(s.detach().numpy() for s in parts(final)), x.grad.numpy(),
        whole(s.grad.numpy() for s in state), {},
    )  # fmt: skip
    assert_close(case.run(), expected | torch_gradients(kind, theirs), case.tolerance())


@every_kind
def test_batch_first_and_no_batch_are_only_other_views(kind: str) -> None:
    case = Case.random(kind, num_layers=2, bidirectional=True)
    plain = case.run()
    turned = case.but(
        layer=make(kind, 5, num_layers=2, bidirectional=True, batch_first=True),
        x=case.x.swapaxes(0, 1), dy=case.dy.swapaxes(0, 1),
    ).run()  # fmt: skip
    for name in ("y", "dx"):
        turned[name] = turned[name].swapaxes(0, 1)
    assert_same_bits({name: np.ascontiguousarray(a) for name, a in turned.items()}, plain)
    for batch_first in (False, True):
        single = case.but(
            layer=make(kind, 5, num_layers=2, bidirectional=True, batch_first=batch_first),
            x=case.x[:, 1], dy=case.dy[:, 1], state=whole(s[:, 1] for s in parts(case.state)),
            dstate=whole(s[:, 1] for s in parts(case.dstate)),
        ).run()  # fmt: skip
        rows = {name: a[:, 1] for name, a in plain.items() if name in ("y", "dx") or not name.startswith("d")}
        rows |= {name: a[:, 1] for name, a in plain.items() if name.startswith("dinitial")}
        assert_close({name: single[name] for name in rows}, rows, case.tolerance())


@every_kind
def test_tapes_of_a_stack_are_values(kind: str) -> None:
    case = Case.random(kind, "float32", num_layers=2, bidirectional=True)
    expected, layer = case.run(), case.layer
    tapes = [layer.forward(x, case.state)[2] for x in (case.x, case.x[::-1])]
    with layer.params.edit() as p:
        p.flat[:] *= 0.5
    layer(case.x)  # packs the new weights; the tapes keep the old ones
    mine = layer.params.zeros_like()
    for tape in reversed(tapes):
        dx, dinitial, grads = layer.backward(tape, case.dy, case.dstate, grads=mine)
        assert grads is mine
    assert_same_bits(
        named(expected["y"], whole(expected[f"final {i}"] for i in range(len(parts(dinitial)))), dx, dinitial, mine),
        expected,
    )
    for tape in tapes:
        with pytest.raises(RuntimeError, match="tape was used already, expected a tape of a new forward"):
            layer.backward(tape, case.dy)


def test_many_threads_may_use_one_stack() -> None:
    """Lengths of all sizes at once: a layer keeps nothing of a call for the next one."""
    base = Case.random("gru", "float32", num_layers=2, bidirectional=True)
    cases = [base.but(x=base.x[: 2 + k % 5], dy=base.dy[: 2 + k % 5]) for k in range(20)]
    expected = [case.run() for case in cases]
    base.layer.params["bias_l0"] = base.layer.params["bias_l0"]  # the packed weights are out of date, for all at once
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(Case.run, cases), expected, strict=True):
            assert_same_bits(got, want)


def linear_stack(p: float, seed: int = 3) -> Any:
    """y is x where x is positive, apart from the dropout between two layers."""
    layer = bptt.RNN(64, 64, num_layers=2, nonlinearity="relu", dropout=p, seed=seed)
    with layer.params.edit() as params:
        params.flat[:] = 0
        params["weight_ih_l0"] = params["weight_ih_l1"] = np.eye(64)
    return layer


def test_dropout_between_layers_is_a_mask_of_the_seed_and_the_call() -> None:
    p, shape = 0.25, (40, 32, 64)  # 81,920 elements: more than one thread fills them
    x = np.full(shape, 3.0, np.float32)
    layer, twin, other = linear_stack(p), linear_stack(p), linear_stack(p, seed=4)
    masks = []
    for n in (1, 2, 3):
        with threads(n):
            y, _, tape = layer.forward(x)
            dx, _, _ = layer.backward(tape, np.full_like(y, 3.0))
        np.testing.assert_array_equal(dx, y)  # x and dy are equal, so that the same mask gives the same values
        assert sorted(set(y.ravel().tolist())) == [0.0, 4.0]
        # 81,920 draws: standard deviation sqrt(p (1-p) / n) = 0.0015; 6 of them
        assert abs((y == 0).mean() - p) < 0.009
        np.testing.assert_array_equal(twin.forward(x)[0], y)
        masks.append(y)
    masks.append(other.forward(x)[0])
    for k, a in enumerate(masks):
        # Independent masks differ in 2 p (1-p) = 0.375 of the places, with a standard deviation of 0.0017.
        assert all(abs((a != b).mean() - 0.375) < 0.01 for b in masks[:k])
    np.testing.assert_array_equal(layer(x)[0], x)
    np.testing.assert_array_equal(layer.forward(x)[0], twin.forward(x)[0])  # inference has counted no call


def test_dropout_in_a_stack_has_its_gradient() -> None:
    """Each call draws new masks, so that a difference of two losses needs two layers at the same call."""
    for kind in ("lstm", "gru"):
        case = Case.random(kind, num_layers=3, bidirectional=True, dropout=0.4)
        first, second = case.run(), case.run()
        assert not np.array_equal(first["y"], second["y"])
        assert_close(first, Expected(case, call=1).results(), case.tolerance())
        assert_close(second, Expected(case, call=2).results(), case.tolerance())
        assert_close(case.infer(), Expected(case, training=False).results(backward=False), case.tolerance())


@pytest.mark.parametrize(
    ("layer", "options", "error", "message"),
    [
        (bptt.LSTM, {"num_layers": 0}, ValueError, "num_layers has value 0, expected an integer >= 1"),
        (bptt.LSTM, {"num_layers": 1.5}, TypeError, "num_layers has type float, expected an integer"),
        (bptt.GRU, {"dropout": 1.0}, ValueError, "dropout has value 1.0, expected 0 <= dropout < 1"),
        (bptt.GRU, {"dropout": -0.1}, ValueError, "dropout has value -0.1, expected 0 <= dropout < 1"),
        (bptt.GRU, {"dropout": "a"}, TypeError, "dropout has type str, expected a number"),
        (bptt.LSTM, {"proj_size": 3}, ValueError, "proj_size has value 3, expected less than hidden_size, 3"),
        (bptt.LSTM, {"proj_size": -1}, ValueError, "proj_size has value -1, expected an integer >= 0"),
        (bptt.LSTM, {"proj_size": 2, "coupled": True}, ValueError, "proj_size has value 2 with coupled, expected 0"),
        (bptt.LSTM, {"proj_size": 2, "layer_norm": True}, ValueError, "proj_size has value 2 with layer_norm"),
        (
            bptt.LSTM,
            {"peephole": True, "coupled": True},
            ValueError,
            "peephole and coupled are given together, expected at most one of them",
        ),
        (
            bptt.GRU,
            {"reset_after": False, "layer_norm": True},
            ValueError,
            "reset_after=False and layer_norm are given together, expected at most one of them",
        ),
    ],
)
def test_what_cannot_be_made_is_named(
    layer: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{layer.__name__}: {message}"):
        layer(2, 3, **options)


def test_wrong_states_of_a_stack_are_named() -> None:
    layer, x = bptt.LSTM(2, 5, num_layers=2, bidirectional=True, proj_size=3), np.zeros((4, 3, 2))
    h, c = np.zeros((4, 3, 3)), np.zeros((4, 3, 5))
    layer(x, (h, c))
    for state, message in (
        ((h[:1], c), r"state h has shape \(1, 3, 3\), expected \(4, 3, 3\)"),
        ((c, c), r"state h has shape \(4, 3, 5\), expected \(4, 3, 3\)"),
        ((h, c[:, :1]), r"state c has shape \(4, 1, 5\), expected \(4, 3, 5\)"),
        (h, r"state has type ndarray, expected the tuple \(h, c\)"),
    ):
        with pytest.raises(ValueError, match=f"^LSTM.forward: {message}"):
            layer(x, state)
    y, _, tape = layer.forward(x)
    for dy, message in ((y[..., :3], r"dy has shape \(4, 3, 3\), expected \(4, 3, 6\)"), (y[:2], "dy has shape")):
        with pytest.raises(ValueError, match=f"^LSTM.backward: {message}"):
            layer.backward(tape, dy)
    with pytest.raises(ValueError, match=r"LSTM.backward: dstate c has shape \(4, 3, 3\), expected \(4, 3, 5\)"):
        layer.backward(tape, y, (h, h))
    layer.backward(tape, y, (h, c))  # the failed calls have not used it up


def test_names_and_shapes_of_a_stack() -> None:
    lstm = bptt.LSTM(2, 5, num_layers=2, bidirectional=True, proj_size=3, peephole=True, learn_initial_state=True)
    for suffix, width in (("_l0", 2), ("_l0_reverse", 2), ("_l1", 6), ("_l1_reverse", 6)):
        shapes = {name.removesuffix(suffix): s for name, s in lstm.params.shapes.items() if name.endswith(suffix)}
        assert shapes == {
            "weight_ih": (20, width), "weight_hh": (20, 3), "bias": (20,), "weight_peephole": (3, 5),
            "weight_hr": (3, 5), "initial_h": (3,), "initial_c": (5,),
        }  # fmt: skip
    norm = bptt.LSTM(2, 5, layer_norm=True).params.shapes
    assert (norm["weight_norm_l0"], norm["bias_norm_l0"], norm["bias_l0"]) == ((9, 5), (5,), (20,))
    assert bptt.LSTM(2, 5, coupled=True).params.shapes["weight_hh_l0"] == (15, 5)
    assert list(bptt.GRU(2, 5, reset_after=False).params) == ["weight_ih_l0", "weight_hh_l0", "bias_l0"]
    assert bptt.GRU(2, 5, layer_norm=True).params.shapes["weight_norm_l0"] == (6, 5)
