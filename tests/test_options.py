# SPDX-License-Identifier: Apache-2.0
"""The options of a layer: zoneout, recurrent dropout, clipping, checkpoints; and the gates of a tape."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest

import bptt
from differences import Array, Terms, check_gradient
from kernels import assert_close, assert_same_bits
from stacks import DTYPES, KINDS, Case, Expected, parts, threads, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

OPTIONS: dict[str, dict[str, Any]] = {
    "zoneout": {"zoneout": 0.3},
    "zoneout of both": {"zoneout": (0.2, 0.6)},
    "zoneout of h": {"zoneout": (0.4, 0.0)},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "clip state": {"clip_state": 0.3},
    "clip gradient": {"clip_grad_per_step": 0.05},
    "all": {
        "dropout": 0.2, "recurrent_dropout": 0.25, "zoneout": (0.2, 0.1), "clip_state": 0.5, "clip_grad_per_step": 0.2,
        "learn_initial_state": True,
    },
}  # fmt: skip
RANDOM = [name for name in OPTIONS if "clip" not in name]
every_option = pytest.mark.parametrize("name", OPTIONS)

T, B = 7, 5
LENGTHS = np.array([4, 7, 0, 6, 1])
RESETS = np.random.default_rng(0).random((T, B)) < 0.2


def asked(kind: str, dtype: str, name: str, layers: int = 2, both: bool = True, **more: Any) -> Case:
    options = OPTIONS[name] | more
    return Case.random(kind, dtype, T, B, num_layers=layers, bidirectional=both, **options)


@every_kind
@every_dtype
@every_option
def test_options_agree_with_the_reference(kind: str, dtype: str, name: str) -> None:
    for layers, both, lengths, resets in ((1, False, None, None), (2, True, LENGTHS, RESETS)):
        case = asked(kind, dtype, name, layers, both).but(lengths=lengths, resets=resets)
        assert_close(case.run(), Expected(case, call=1).results(), case.tolerance())
        expected = Expected(case, training=False).results(backward=False)
        assert_close(case.infer(), expected, case.tolerance())
        assert_close(case.run(), Expected(case, call=2).results(), case.tolerance())  # inference counts no call


@every_kind
@pytest.mark.parametrize("name", RANDOM)
def test_masks_are_those_of_the_seed_and_the_call(kind: str, name: str) -> None:
    case = asked(kind, "float32", name)
    twin = case.but(layer=copy.deepcopy(case.layer))
    first, second = case.run(), case.run()
    assert_same_bits(twin.run(), first)
    assert not np.array_equal(second["y"], first["y"])
    later = copy.deepcopy(case.layer)  # a copy continues where its original is
    assert_same_bits(case.but(layer=later).run(), case.run())
    other = asked(kind, "float32", name, seed=6)
    np.testing.assert_array_equal(other.layer.params.flat, case.layer.params.flat)
    assert not np.array_equal(other.run()["y"], first["y"])


@every_kind
def test_any_number_of_threads_gives_the_same_bits(kind: str) -> None:
    for T, B, I, H, layers in ((5, 40, 6, 33, 2), (2, 2, 40, 130, 1)):  # noqa: E741
        options: dict[str, Any] = OPTIONS["all"] | {"hidden_size": H, "num_layers": layers, "bidirectional": layers > 1}
        cases = [Case.random(kind, "float32", T, B, I, **options) for _ in range(3)]
        resets = np.random.default_rng(1).random((T, B)) < 0.2
        results = []
        for n, case in enumerate(cases, 1):
            with threads(n):
                results.append(case.but(resets=resets, lengths=np.arange(B) % (T + 1)).run())
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])


def not_in_segments(case: Case) -> int:
    """Bytes that a tape holds of whole sequences, checkpoints or not: x and y in the kernels' order, y between layers.

    Also `keep`, one value a row and direction where there are resets.
    """
    layer, ordered = case.layer, case.lengths is not None
    D, R, rows = layer.num_directions, layer.output_size, case.x.shape[0] * case.x.shape[1]
    packed = int(case.lengths.sum()) if ordered else rows
    values = 0
    for k in range(layer.num_layers):
        width = case.x.shape[2] if k == 0 else D * R
        dropped = k > 0 and "dropout" in case.options
        copies = [ordered or d > 0 or dropped for d in range(D)]  # of x, by direction
        values += packed * (width * sum(copies) + R * D * (D > 1 or ordered) + D * (case.resets is not None))
        values += rows * width * (k > 0 and not all(copies))
    return values * layer.params.dtype.itemsize


@every_kind
@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
def test_checkpoints_change_no_bit(kind: str, name: str, layers: int, both: bool) -> None:
    """Segments end where chunks of time end, so that sums keep their order: 200 steps have several, 7 have one."""
    for steps, batch in ((200, 3), (T, B)):
        resets = np.random.default_rng(1).random((steps, batch)) < 0.1
        lengths = np.arange(1, batch + 1) * steps // batch
        each: tuple[dict[str, Any], ...] = ({}, {"resets": resets, "lengths": lengths})
        for more in each:
            results, sizes = [], []
            for checkpoint in (None, "sqrt", 1, 50, 10_000):
                options = OPTIONS.get(name, {}) | {
                    "num_layers": layers,
                    "bidirectional": both,
                    "checkpoint": checkpoint,
                }
                case = Case.random(kind, "float32", steps, batch, **options).but(**more)
                results.append(case.run())
                _, _, tape = case.layer.forward(case.x, case.state, case.lengths, case.resets)
                sizes.append(tape.nbytes - not_in_segments(case))
            for result in results[1:]:
                assert_same_bits(result, results[0])
            if steps == 200:
                assert max(sizes[1:4]) < 0.5 * sizes[0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rnn_relu"])  # which has kinks
@pytest.mark.parametrize("name", ["zoneout", "recurrent dropout"])
def test_gradients_of_masked_layers_agree_with_central_differences(kind: str, name: str) -> None:
    case = asked(kind, "float64", name).but(lengths=LENGTHS, resets=RESETS)
    start = copy.deepcopy(case.layer)

    def loss(point: list[Array]) -> Terms:
        layer = copy.deepcopy(start)  # at the same call, hence with the same masks
        x, *state = point[: 1 + len(parts(case.state))]
        with layer.params.edit() as p:
            for key, value in zip(layer.params, point[1 + len(state) :], strict=True):
                p[key] = value
        y, final, _ = layer.forward(x, whole(state), case.lengths, case.resets)
        pairs = list(zip((case.dy, *parts(case.dstate)), (y, *parts(final)), strict=True))
        return sum(float(np.vdot(d, a)) for d, a in pairs), sum(
            float((np.abs(d) * np.maximum(np.abs(a), 1)).sum()) for d, a in pairs
        )

    got = case.run()
    point = [case.x, *parts(case.state), *(np.array(a) for a in start.params.values())]
    gradient = [got["dx"], *(got[f"dinitial {i}"] for i in range(len(parts(case.state))))]
    gradient += [got[f"d{key}"] for key in start.params]
    # Two layers: a step adds up the products, for some cells 4 H values more, and has some 20 operations more.
    H = case.layer.hidden_size
    check_gradient(loss, point, gradient, 2 * (T + 1) * (2 * H + H + 4 * H + 20) + (T + 1) * B * 2 * H)


@every_kind
def test_limits_bound_what_they_name(kind: str) -> None:
    case = Case.random(kind, "float32", T, B, clip_state=0.25)
    case.x *= 10
    y, state = case.layer(case.x)
    for values in (y, *parts(state)):
        assert np.abs(values).max() == np.float32(0.25)
    # One step of one row: the bias has the gradient of the pre-activations.
    case = Case.random(kind, "float64", 1, 1, clip_grad_per_step=1e-3)
    got = case.but(dy=case.dy * 1e3).run()
    assert np.abs(got["dbias_l0"]).max() == 1e-3


# Our names of the values that the reference keeps; values that only our kernels keep are not listed.
GATES: dict[str, tuple[str, ...]] = {
    "lstm": ("i", "f", "g", "o"),
    "peephole": ("i", "f", "g", "o"),
    "coupled": ("f", "g", "o"),
    "lstm_norm": ("i", "f", "g", "o"),
    "projected": ("i", "f", "g", "o"),
    "peephole_projected": ("i", "f", "g", "o"),
    "slstm": ("i", "f", "z", "o"),
    "slstm_heads": ("i", "f", "z", "o"),
    "gru": ("r", "z", "n", "m"),
    "gru_before": ("r", "z", "n"),
    "gru_norm": ("r", "z", "n"),
    "rnn_tanh": (),
    "rnn_relu": (),
    "rnn_linear": (),
}


@every_kind
@every_dtype
@pytest.mark.parametrize("name", ["zoneout", "clip state", "plain"])
def test_gates_are_those_of_the_reference(kind: str, dtype: str, name: str) -> None:
    options = OPTIONS.get(name, {})
    for layers, both, lengths in ((1, False, None), (2, True, None), (2, True, LENGTHS)):
        case = Case.random(kind, dtype, T, B, num_layers=layers, bidirectional=both, **options).but(lengths=lengths)
        tape = case.layer.forward(case.x, case.state, case.lengths)[2]
        reference = Expected(case)
        counts = np.full(B, T) if lengths is None else lengths
        for k in range(layers):
            for d in range(1 + both):
                gates = tape.gates(k, d)
                states = case.layer._stack.structure.info.states[1:]
                assert list(gates)[len(gates) - len(states) :] == list(states)
                steps = reference.tapes[k][d].steps
                for i, gate in enumerate((*GATES[kind], *states)):
                    made = 1 + states.index(gate) if gate in states else 0
                    kept: list[Any] = [step["made"][made] if made else step["k"][i] for step in steps]
                    expected = np.zeros_like(gates[gate], dtype=np.float64)
                    for b, length in enumerate(counts):
                        for s in range(length):  # the reference's steps are in the row's own order
                            expected[length - 1 - s if d else s, b] = kept[s][b]
                    assert_close({gate: gates[gate]}, {gate: expected}, case.tolerance())


def test_gates_in_other_layouts() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 2))
    lstm = bptt.LSTM(2, 5, seed=0)
    expected = lstm.forward(x)[2].gates()
    turned = bptt.LSTM(2, 5, batch_first=True, seed=0)
    for name, values in turned.forward(x.swapaxes(0, 1))[2].gates().items():
        np.testing.assert_array_equal(values.swapaxes(0, 1), expected[name])
    for layer in (lstm, turned):
        for name, values in layer.forward(x[:, 1])[2].gates().items():
            np.testing.assert_array_equal(values, expected[name][:, 1])
    tape = lstm.forward(bptt.Packed(x.reshape(12, 2), [3] * 4))[2]
    for name, values in tape.gates().items():
        np.testing.assert_array_equal(values.reshape(4, 3, 5), expected[name])
    h, c = lstm(x)[1]
    np.testing.assert_array_equal(expected["c"][-1], c[0])
    np.testing.assert_allclose(expected["o"][-1] * np.tanh(expected["c"][-1]), h[0], rtol=1e-5)


def test_gates_that_are_not_there_are_named() -> None:
    x = np.zeros((300, 2, 3))
    for options in ({}, {"num_layers": 2, "bidirectional": True}):
        layer = bptt.LSTM(3, 4, **options)  # type: ignore[arg-type]
        y, _, tape = layer.forward(x)
        has = f"expected one of {layer.num_layers} layers and {layer.num_directions} directions"
        for where in ((layer.num_layers, 0), (0, layer.num_directions)):
            message = f"gates: there is no layer {where[0]}, direction {where[1]}, {has}"
            with pytest.raises(ValueError, match=re.escape(message)):
                tape.gates(*where)
        with pytest.raises(ValueError, match="gates: layer has value -1, expected an integer >= 0"):
            tape.gates(-1)
        layer.backward(tape, y)
        with pytest.raises(RuntimeError, match="backward has used what the tape kept, expected a question before it"):
            tape.gates()
    y, _, tape = bptt.RNN(3, 4).forward(x)
    assert tape.gates() == {}
    tape.layer.backward(tape, y)
    with pytest.raises(RuntimeError, match="backward has used"):
        tape.gates()
    _, _, tape = bptt.GRU(3, 4, checkpoint="sqrt").forward(x)
    with pytest.raises(RuntimeError, match="a tape with checkpoints keeps no step's values, expected checkpoint=None"):
        tape.gates()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"zoneout": 1.0}, ValueError, "zoneout has value 1.0, expected 0 <= zoneout < 1"),
        ({"zoneout": (0.1, -0.1)}, ValueError, "zoneout has value -0.1, expected 0 <= zoneout < 1"),
        ({"zoneout": (0.1, 0.1, 0.1)}, TypeError, "zoneout has type tuple, expected a number"),
        ({"zoneout": float("nan")}, ValueError, "zoneout has value nan"),
        ({"recurrent_dropout": 1}, ValueError, "recurrent_dropout has value 1.0, expected 0 <= recurrent_dropout < 1"),
        ({"recurrent_dropout": None}, TypeError, "recurrent_dropout has type NoneType, expected a number"),
        ({"clip_state": 0}, ValueError, "clip_state has value 0, expected a number >= 1.18e-38 (float32) or None"),
        ({"clip_state": -1.0}, ValueError, "clip_state has value -1.0, expected"),
        ({"clip_grad_per_step": 0.0}, ValueError, "clip_grad_per_step has value 0, expected a number >= 1.18e-38"),
        ({"clip_grad_per_step": "a"}, TypeError, "clip_grad_per_step has type str, expected a number"),
        ({"checkpoint": 0}, ValueError, "checkpoint has value 0, expected an integer >= 1"),
        ({"checkpoint": "log"}, ValueError, "checkpoint has value 'log', expected None, 'sqrt' or an integer"),
        ({"checkpoint": 2.0}, TypeError, "checkpoint has type float, expected an integer"),
        ({"seed": -1}, ValueError, "seed has value -1, expected an integer >= 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    for layer in (bptt.RNN, bptt.LSTM, bptt.SLSTM, bptt.GRU):
        with pytest.raises(error, match=f"^{layer.__name__}: {re.escape(message)}"):
            layer(2, 3, **options)
