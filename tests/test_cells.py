# SPDX-License-Identifier: Apache-2.0
"""RNNCell, LSTMCell, GRUCell: one step of the layers, with their bits; against the reference, differences, PyTorch."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bptt
from differences import check_gradient
from kernels import assert_close, assert_same_bits
from stacks import DTYPES, KINDS, SEED, Case, Expected, Results, named, parts, whole

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_cell = pytest.mark.parametrize("cls", [bptt.RNNCell, bptt.LSTMCell, bptt.SLSTMCell, bptt.GRUCell])
OPTIONS: list[dict[str, Any]] = [{}, {"bias": False}, {"clip_state": 0.2, "clip_grad_per_step": 0.1}, {"zoneout": 0.3}]
T, B, I, H = 6, 4, 5, 7  # noqa: E741
THEIRS = ["rnn_tanh", "rnn_relu", "lstm", "gru"]


def twin(case: Case) -> Any:
    """The cell of a case's layer, with its weights."""
    cls, own, _ = KINDS[case.kind]
    options = {"dtype": case.layer.params.dtype, "seed": SEED, **own, **case.options}
    cell = getattr(bptt, f"{cls.__name__}Cell")(case.layer.input_size, case.layer.hidden_size, **options)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in case.layer.params.items()})
    return cell


def step_of(cell: Any, case: Case) -> Results:
    """Forward and backward of one step by the cell, by the names that a case's `run` gives; dy is 0."""
    final, tape = cell.forward(case.x[0], whole(s[0] for s in parts(case.state)))
    dx, dinitial, grads = cell.backward(tape, whole(s[0] for s in parts(case.dstate)))
    layers, outputs = (whole(s[np.newaxis] for s in parts(state)) for state in (dinitial, final))
    return named(
        parts(final)[0][np.newaxis], outputs, dx[np.newaxis], layers, {f"{name}_l0": g for name, g in grads.items()}
    )


def one_step(kind: str, dtype: str = "float64", B: int = B, **options: Any) -> Case:
    case = Case.random(kind, dtype, T=1, B=B, I=I, **options)
    return case.but(dy=np.zeros_like(case.dy))


@every_kind
@every_dtype
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_is_that_of_the_reference_and_has_the_bits_of_the_layer(
    kind: str, dtype: str, options: dict[str, Any]
) -> None:
    for B in (1, 4, 33):
        case = one_step(kind, dtype, B, **options)
        results = step_of(twin(case), case)
        assert_close(results, Expected(case).results(), case.tolerance())
        assert_same_bits(results, case.run())


@every_kind
@every_dtype
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_inference_is_that_of_the_layer(kind: str, dtype: str, options: dict[str, Any]) -> None:
    case = one_step(kind, dtype, **options)
    state = twin(case)(case.x[0], whole(s[0] for s in parts(case.state)))
    expected = case.infer()
    for i, part in enumerate(parts(state)):
        np.testing.assert_array_equal(part, expected[f"final {i}"][0])


def loop(cell: Any, case: Case) -> Results:
    """Forward and backward through time, by hand."""
    state: Any = whole(s[0] for s in parts(case.state))
    y, tapes = [], []
    for x in case.x:
        state, tape = cell.forward(x, state)
        y.append(parts(state)[0])
        tapes.append(tape)
    dstate = [s[0] for s in parts(case.dstate)]
    dx, total = np.empty_like(case.x), cell.params.zeros_like()
    for t in reversed(range(len(case.x))):
        dstate[0] = dstate[0] + case.dy[t]
        dx[t], dbefore, grads = cell.backward(tapes[t], whole(dstate))
        total.flat[:] += grads.flat
        dstate = list(parts(dbefore))
    final, dinitial = (whole(s[np.newaxis] for s in parts(each)) for each in (state, whole(dstate)))
    return named(np.array(y), final, dx, dinitial, {f"{name}_l0": g for name, g in total.items()})


@every_kind
@every_dtype
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_a_loop_has_the_bits_of_the_layer_forward_and_its_gradients(
    kind: str, dtype: str, options: dict[str, Any]
) -> None:
    """Backward, the layer adds dy, dstate and products in another order, and sums the steps in chunks of time."""
    case = Case.random(kind, dtype, T=T, B=B, I=I, **options)
    results, expected = loop(twin(case), case), case.run()
    forward = [name for name in results if name.startswith(("y", "final"))]
    assert_same_bits({name: results[name] for name in forward}, {name: expected[name] for name in forward})
    assert_close(results, expected, case.tolerance())


@every_kind
def test_gradients_are_central_differences(kind: str) -> None:
    case = one_step(kind)
    cell = twin(case)
    names = [*cell.params]

    def loss(point: list[Any]) -> tuple[float, float]:
        cell.load_state_dict(dict(zip(names, point[: len(names)], strict=True)))
        x, *state = point[len(names) :]
        after = parts(cell(x, whole(state)))
        terms = [s * d[0] for s, d in zip(after, parts(case.dstate), strict=True)]
        return sum(float(each.sum()) for each in terms), sum(float(np.abs(each).sum()) for each in terms)

    point = [*cell.state_dict().values(), case.x[0], *(s[0] for s in parts(case.state))]
    results = step_of(cell, case)
    gradient = [results[f"d{name}_l0"] for name in names] + [results["dx"][0]]
    gradient += [results[f"dinitial {i}"][0] for i in range(len(parts(case.state)))]
    # sums over I, H and R, then some 40 operations on each unit (normalisation: sums over H, and 1 / sigma below 30)
    check_gradient(loss, point, gradient, roundings=30 * (I + 3 * H + 40))


@every_kind
def test_without_a_batch_axis_a_state_or_rows(kind: str) -> None:
    case = one_step(kind)
    cell = twin(case)
    zeros = whole(np.zeros_like(s[0]) for s in parts(case.state))
    full, tape = cell.forward(case.x[0], zeros)
    dx, dstate, _ = cell.backward(tape, whole(s[0] for s in parts(case.dstate)))
    absent, tape = cell.forward(case.x[0])
    alone, single = cell.forward(case.x[0][1])
    dx1, dstate1, _ = cell.backward(single, whole(s[0, 1] for s in parts(case.dstate)))
    np.testing.assert_array_equal(dx1, dx[1])
    for row, whole_state, without in zip(parts(alone), parts(full), parts(absent), strict=True):
        np.testing.assert_array_equal(row, whole_state[1])
        np.testing.assert_array_equal(without, whole_state)
    for row, batch in zip(parts(dstate1), parts(dstate), strict=True):
        np.testing.assert_array_equal(row, batch[1])
    np.testing.assert_array_equal(parts(cell(case.x[0][1], whole(s[1] for s in parts(zeros))))[0], parts(alone)[0])

    none, tape = cell.forward(case.x[0][:0])
    assert [s.shape for s in parts(none)] == [(0, s.shape[1]) for s in parts(full)]
    dx, _, grads = cell.backward(tape, none)
    assert dx.shape == (0, I)
    assert not grads.flat.any()


def test_arrays_of_all_kinds_are_taken() -> None:
    cell, x = bptt.GRUCell(2, 3, seed=0), np.array([[1, 2], [3, 4]])
    expected = cell(x.astype(np.float32))
    for form in (x, x.tolist(), x.astype(">f8"), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(cell(form), expected)
    np.testing.assert_array_equal(cell(x, np.zeros((2, 3), int).tolist()), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda lstm, gru: lstm(np.zeros((1, 2, 3))),
            ValueError,
            "LSTMCell.forward: x has shape (1, 2, 3), expected (B, 3)",
        ),
        (lambda lstm, gru: lstm(np.zeros(4)), ValueError, "LSTMCell.forward: x has shape (4,), expected (B, 3)"),
        (lambda lstm, gru: gru(0.0), ValueError, "GRUCell.forward: x has shape (), expected (B, 3)"),
        (lambda lstm, gru: gru(["a"] * 3), TypeError, "GRUCell.forward: x has dtype <U1, expected real numbers"),
        (
            lambda lstm, gru: lstm(np.zeros((2, 3)), np.zeros((2, 4))),
            ValueError,
            "LSTMCell.forward: state has type ndarray, expected the tuple (h, c)",
        ),
        (
            lambda lstm, gru: lstm(np.zeros((2, 3)), (np.zeros((2, 4)), np.zeros((1, 2, 4)))),
            ValueError,
            "LSTMCell.forward: state c has shape (1, 2, 4), expected (2, 4)",
        ),
        (
            lambda lstm, gru: gru(np.zeros(3), np.zeros((1, 4))),
            ValueError,
            "GRUCell.forward: state h has shape (1, 4), expected (4,)",
        ),
        (
            lambda lstm, gru: gru.backward(gru.forward(np.zeros((2, 3)))[1], np.zeros((2, 3))),
            ValueError,
            "GRUCell.backward: dstate h has shape (2, 3), expected (2, 4)",
        ),
        (
            lambda lstm, gru: gru.backward(lstm.forward(np.zeros((2, 3)))[1], np.zeros((2, 4))),
            ValueError,
            "GRUCell.backward: tape is of another layer, expected one of this layer's forward",
        ),
        (
            lambda lstm, gru: bptt.Sequential(lstm, bptt.GRU(4, 4)),
            ValueError,
            "Sequential: layers has cells and layers over time, expected one kind: x has one shape",
        ),
        (
            lambda lstm, gru: bptt.Sequential(gru).stream(),
            ValueError,
            "Sequential.stream: the model has cells, expected layers over time: cells take one step",
        ),
        (
            lambda lstm, gru: bptt.Sequential(gru)(np.zeros((2, 3)), lengths=[1, 1]),
            ValueError,
            "GRUCell.forward: lengths has type list, expected None: a cell takes one step",
        ),
        (
            lambda lstm, gru: bptt.fit(bptt.Sequential(gru), [], loss=bptt.losses.mse, optimizer=bptt.optim.SGD(0.1)),
            TypeError,
            "fit: model has cells, which take one step, expected layers over time",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call(bptt.LSTMCell(3, 4), bptt.GRUCell(3, 4))


@every_cell
def test_options_of_layers_are_refused_by_name(cls: Any) -> None:
    for name in ("num_layers", "bidirectional", "recurrent_dropout", "learn_initial_state", "checkpoint"):
        with pytest.raises(TypeError, match=f"^{cls.__name__}: there is no option '{name}', "):
            cls(3, 4, **{name: 1})
    with pytest.raises(TypeError, match=f"^{cls.__name__}: there is no option 'hidden', did you mean 'hidden_size'"):
        cls(3, hidden=4)
    for size in (2**26, 2**62, 2**100):
        with pytest.raises((ValueError, MemoryError)):
            cls(8, size)


@every_cell
def test_every_option_is_described_as_the_layers_is(cls: Any) -> None:
    layer = getattr(bptt, cls.__name__.removesuffix("Cell"))
    text, theirs = inspect.getdoc(cls) or "", inspect.signature(layer).parameters
    assert "{options}" not in text
    for name, parameter in inspect.signature(cls).parameters.items():
        assert len(re.findall(rf"^ +{name}: ", text, re.MULTILINE)) == 1, name
        assert (parameter.default, parameter.annotation) == (theirs[name].default, theirs[name].annotation), name


@every_kind
def test_a_cell_is_a_layer_to_all_else(kind: str, tmp_path: Path) -> None:
    case = one_step(kind)
    cell, x = twin(case), case.x[0]
    before = parts(cell(x))[0]
    final, tape = cell.forward(x)
    cell.backward(tape, final)
    with pytest.raises(RuntimeError, match="used"):
        cell.backward(tape, final)
    copies = [copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))]
    bptt.checkpoint.save(tmp_path / "cell.safetensors", cell.params, {})
    grads = cell.backward(cell.forward(x)[1], final)[2]
    bptt.optim.Adam(lr=0.1).step(cell.params, grads)
    assert not np.array_equal(parts(cell(x))[0], before)
    cell.load_state_dict(bptt.checkpoint.load(tmp_path / "cell.safetensors")[0])
    for each in (cell, *copies):
        np.testing.assert_array_equal(parts(each(x))[0], before)
        assert repr(each) == repr(cell)


def test_a_sequential_of_cells_is_one_step_of_that_of_layers() -> None:
    """Forward the same bits; the gradients of T steps within the tolerance of `stacks.Case` for two layers."""
    layers = bptt.Sequential(
        bptt.Embedding(9, I, seed=0), bptt.LSTM(I, H, seed=1), bptt.Dropout(0.0), bptt.GRU(H, H, seed=2),
        bptt.Linear(H, 2, seed=3),
    )  # fmt: skip
    cells = bptt.Sequential(
        bptt.Embedding(9, I), bptt.LSTMCell(I, H), bptt.Dropout(0.0), bptt.GRUCell(H, H), bptt.Linear(H, 2)
    )
    cells.load_state_dict({name.removesuffix("_l0"): value for name, value in layers.params.items()})
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 9, (T, B)), rng.standard_normal((T, B, 2)).astype(np.float32)
    y, final, tape = layers.forward(ids)
    _, dinitial, grads = layers.backward(tape, dy)

    state: Any = None
    tapes, total = [], cells.params.zeros_like()
    for t in range(T):
        np.testing.assert_array_equal(cells(ids[t], state)[0], y[t])
        step, state, tape = cells.forward(ids[t], state)
        np.testing.assert_array_equal(step, y[t])
        tapes.append(tape)
    dstate: Any = None
    for t in reversed(range(T)):
        _, dstate, own = cells.backward(tapes[t], dy[t], dstate)
        total.flat[:] += own.flat
    for mine, whole_state in zip((*state[0], state[1]), (*final[0], final[1]), strict=True):
        np.testing.assert_array_equal(mine, whole_state[0])
    tolerance = 2 * 2 * 8 * np.finfo(np.float32).eps * np.sqrt(H + 4 * H + T * B)
    results = {"flat": total.flat, "h": dstate[0][0], "c": dstate[0][1], "gru": dstate[1]}
    expected = {"flat": grads.flat, "h": dinitial[0][0][0], "c": dinitial[0][1][0], "gru": dinitial[1][0]}
    assert_close(results, expected, tolerance)
    for twin_model in (copy.deepcopy(cells), pickle.loads(pickle.dumps(cells))):
        np.testing.assert_array_equal(twin_model(ids[0])[0], cells(ids[0])[0])


def test_reprs() -> None:
    assert repr(bptt.RNNCell(2, 3, nonlinearity="relu")) == "RNNCell(2, 3, nonlinearity='relu', dtype=float32)"
    assert (
        repr(bptt.LSTMCell(2, 3, proj_size=1, bias=False)) == "LSTMCell(2, 3, proj_size=1, bias=False, dtype=float32)"
    )
    assert repr(bptt.GRUCell(2, 3, zoneout=0.5, dtype="f8")) == "GRUCell(2, 3, zoneout=0.5, dtype=float64)"


def test_gates_of_a_step() -> None:
    (_, c), tape = bptt.LSTMCell(2, 3, seed=0).forward(np.ones((4, 2)))
    gates = tape.gates()
    assert {name: gate.shape for name, gate in gates.items()} == dict.fromkeys("ifgoc", (4, 3))
    np.testing.assert_array_equal(gates["c"], c)


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("bias", [True, False])
def test_pytorchs_names(kind: str, bias: bool) -> None:
    cell = twin(Case.random(kind, T=1, I=I, bias=bias))
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bias
    state = cell.to_torch_state_dict()
    assert list(state) == names
    back = copy.deepcopy(cell)
    with back.params.edit() as p:
        p.flat[:] = 0
    back.load_state_dict(state)
    np.testing.assert_array_equal(back.params.flat, cell.params.flat)
    if bias:
        del state["bias_hh"]
        with pytest.raises(ValueError, match="state lacks bias_hh, expected both of PyTorch's biases"):
            back.load_state_dict(state)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(THEIRS)))
def test_what_pytorchs_cells_are_not_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"Cell.to_torch_state_dict: the layer has "):
        twin(Case.random(kind, T=1, I=I)).to_torch_state_dict()


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("bias", [True, False])
def test_pytorchs_cells_agree(kind: str, bias: bool) -> None:
    """Sums of at most I + H terms of order 1: errors stay below 100 times 10 eps, as in test_torch_state.py."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    case = one_step(kind, bias=bias)
    cell, (cls, own, _) = twin(case), KINDS[kind]
    theirs = getattr(torch.nn, f"{cls.__name__}Cell")(I, H, bias=bias, dtype=torch.float64, **own)
    cell.load_state_dict(theirs.state_dict())
    x, *state = (torch.tensor(a, requires_grad=True) for a in (case.x[0], *(s[0] for s in parts(case.state))))
    after = parts(theirs(x, whole(state)))
    sum((s * torch.tensor(d[0])).sum() for s, d in zip(after, parts(case.dstate), strict=True)).backward()
    results = step_of(cell, case)
    expected = {f"final {i}": s for i, s in enumerate(after)} | {"dx": x.grad}
    expected |= {f"dinitial {i}": s.grad for i, s in enumerate(state)}
    expected |= {f"d{name}_l0": p.grad for name, p in theirs.named_parameters() if name.startswith("weight")}
    for name, value in expected.items():
        ours = results[name][0] if not name.startswith("dweight") else results[name]
        np.testing.assert_allclose(ours, value.detach().numpy(), rtol=0, atol=1000 * np.finfo(np.float64).eps)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in cell.to_torch_state_dict().items()})
    np.testing.assert_allclose(parts(theirs(x, whole(state)))[0].detach().numpy(), results["final 0"][0], atol=1e-12)
