# SPDX-License-Identifier: Apache-2.0
"""`Last`, alone, in a Sequential and in `fit`: models with one output for each row."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import checkpoint, losses
from differences import check_gradient

T, B, F = 5, 4, 6
LENGTHS = np.array([2, 5, 0, 3])
F64: dict[str, Any] = {"dtype": "float64", "seed": 0}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, F))
DY = RNG.standard_normal((B, F))
IDS = np.ones((T, B), int)


def by_loop(x: NDArray[Any], lengths: Any, both: bool = False) -> NDArray[Any]:
    y = np.zeros((x.shape[1], x.shape[2]), x.dtype)
    for b, n in enumerate(lengths):
        if n:
            y[b] = x[n - 1, b]
            if both:
                y[b, F // 2 :] = x[0, b, F // 2 :]
    return y


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_steps_and_gradients_in_all_forms(lengths: Any, both: bool) -> None:
    counts = [T] * B if lengths is None else lengths
    want = by_loop(X, counts, both)
    layer = bptt.Last(bidirectional=both)
    y, tape = layer.forward(X, lengths)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(layer(X, lengths), want)
    dx, grads = layer.backward(tape, DY)
    assert (dx.shape, dx.dtype, len(grads)) == (X.shape, X.dtype, 0)
    # the transpose of a linear map
    other = RNG.standard_normal(X.shape)
    assert np.vdot(dx, other) == pytest.approx(np.vdot(DY, by_loop(other, counts, both)), rel=1e-13)

    turned = bptt.Last(batch_first=True, bidirectional=both)
    y, tape = turned.forward(X.swapaxes(0, 1), lengths)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(turned.backward(tape, DY)[0], dx.swapaxes(0, 1))

    y, tape = layer.forward(X[:, 1], None if lengths is None else lengths[1:2])
    np.testing.assert_array_equal(y, want[1])
    np.testing.assert_array_equal(layer.backward(tape, DY[1])[0], dx[:, 1])


@pytest.mark.parametrize("both", [False, True])
def test_packed_rows(both: bool) -> None:
    lengths = np.array([2, 5, 1, 3])
    order = np.argsort(-lengths)
    there = np.arange(T)[:, None] < lengths[order]
    layer = bptt.Last(bidirectional=both)
    y, tape = layer.forward(bptt.Packed(X[:, order][there], there.sum(1), sorted_indices=order))
    np.testing.assert_array_equal(y, by_loop(X, lengths, both))
    dx = layer.backward(tape, DY)[0]
    wanted = layer.backward(layer.forward(X, lengths)[1], DY)[0]
    np.testing.assert_array_equal(dx.data, wanted[:, order][there])
    np.testing.assert_array_equal(dx.sorted_indices, order)


def test_dtypes_and_empty_arrays() -> None:
    last = bptt.Last()
    assert last(X.astype(np.float32)).dtype == np.float32
    assert last(np.ones((T, B, F), int)).dtype == np.float32
    assert last.backward(last.forward(np.float32(X))[1], DY)[0].dtype == np.float32
    for shape in ((0, B, F), (T, 0, F), (T, B, 0)):
        y, tape = last.forward(np.ones(shape))
        assert y.shape == shape[1:]
        assert last.backward(tape, y)[0].shape == shape
    assert not last(np.ones((0, B, F))).any()


@pytest.mark.parametrize("rows", ["lengths", "packed", "all"])
@pytest.mark.parametrize("kind", [bptt.LSTM, bptt.GRU])
def test_both_directions_are_joined_where_each_has_read_the_row(kind: Any, rows: str) -> None:
    """The final states, which the layer returns itself."""
    lengths = np.array([5, 4, 2, 2])
    x: Any = X
    if rows == "packed":
        there = np.arange(T)[:, None] < lengths
        x = bptt.Packed(X[there], there.sum(1))
    model = bptt.Sequential(kind(F, 3, bidirectional=True, num_layers=2, **F64), bptt.Last(bidirectional=True))
    y, (state,), tape = model.forward(x, lengths=lengths if rows == "lengths" else None)
    h = state if kind is bptt.GRU else state[0]
    np.testing.assert_array_equal(y, np.concatenate([h[-2], h[-1]], axis=-1))
    # so their gradient may come either way
    got = model.backward(tape, DY)[2].flat.copy()
    dh = np.zeros_like(h)
    dh[-2], dh[-1] = DY[:, :3], DY[:, 3:]
    tape = model.forward(x, lengths=lengths if rows == "lengths" else None)[2]
    dstate = dh if kind is bptt.GRU else (dh, np.zeros_like(dh))
    np.testing.assert_allclose(model.backward(tape, None, (dstate,))[2].flat, got, rtol=0, atol=1e-14)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradients_of_a_classifier(both: bool, batch_first: bool) -> None:
    """With a stateless layer on either side of Last, against central differences of the loss."""
    model = bptt.Sequential(
        bptt.LSTM(F, 4, bidirectional=both, batch_first=batch_first, **F64),
        bptt.Linear(4 + 4 * both, 6, **F64),
        bptt.Last(batch_first=batch_first, bidirectional=both),
        bptt.Linear(6, 3, **F64),
    )
    x, classes = (X.swapaxes(0, 1) if batch_first else X), np.array([0, 2, 1, 1])

    def f(point: list[NDArray[Any]]) -> tuple[float, float]:
        with model.params.edit() as p:
            p.flat[:] = point[1]
        value = losses.cross_entropy(model(point[0], lengths=LENGTHS)[0], classes)[0]
        return value, value

    flat = model.params.flat.copy()
    y, _, tape = model.forward(x, lengths=LENGTHS)
    dx, _, grads = model.backward(tape, losses.cross_entropy(y, classes)[1])
    check_gradient(f, [x, flat], [dx, grads.flat.copy()], 40 * T)


def test_a_classifier_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    lstm, linear = torch.nn.LSTM(F, 4, dtype=torch.float64), torch.nn.Linear(4, 3, dtype=torch.float64)
    model = bptt.Sequential(bptt.LSTM(F, 4, **F64), bptt.Last(), bptt.Linear(4, 3, **F64))
    theirs = [(f"0.{k}", v) for k, v in lstm.state_dict().items()]
    theirs += [(f"2.{k}", v) for k, v in linear.state_dict().items()]
    model.load_state_dict(dict(theirs))
    lengths, classes = np.array([5, 4, 2, 1]), np.array([0, 2, 1, 1])
    x = torch.tensor(X, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths))
    value = torch.nn.functional.cross_entropy(linear(lstm(packed)[1][0][-1]), torch.tensor(classes))
    value.backward()
    y, _, tape = model.forward(X, lengths=lengths)
    loss, dy = losses.cross_entropy(y, classes)
    dx, _, grads = model.backward(tape, dy)
    error = 1000 * np.finfo(np.float64).eps  # as in test_torch_state
    assert loss == pytest.approx(value.item(), abs=error)
    for got, wanted in (
        (dx, x.grad),
        (grads["0.weight_hh_l0"], lstm.weight_hh_l0.grad),
        (grads["0.bias_l0"], lstm.bias_ih_l0.grad),
        (grads["2.weight"], linear.weight.grad),
    ):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=error)


def classifier(**options: Any) -> bptt.Sequential:
    return bptt.Sequential(
        bptt.Embedding(10, 3, **F64), bptt.GRU(3, 4, **F64, **options), bptt.Last(**options), bptt.Linear(4, 2, **F64)
    )


def test_no_dy_of_a_sequential() -> None:
    model = bptt.Sequential(
        bptt.GRU(F, 3, **F64), bptt.Linear(3, 3, **F64), bptt.GRU(3, 4, **F64), bptt.Last(), bptt.Linear(4, 2, **F64)
    )
    first, second = RNG.standard_normal((1, B, 3)), RNG.standard_normal((1, B, 4))
    grads = model.params.zeros_like()
    for dstate in ((first, second), (first, None), (None, second)):
        grads.flat[:] = 7  # what is there is overwritten
        dx, dinitial, _ = model.backward(model.forward(X)[2], None, dstate, grads)
        wanted = model.backward(model.forward(X)[2], np.zeros((B, 2)), dstate)
        np.testing.assert_array_equal(dx, wanted[0])
        np.testing.assert_array_equal(grads.flat, wanted[2].flat)
        for got, expected in zip(dinitial, wanted[1], strict=True):
            np.testing.assert_array_equal(got, expected)
    assert not grads["4.weight"].any()
    model = classifier()
    dx, _, grads = model.backward(model.forward(IDS)[2], None, (second,))
    assert dx is None  # ids have no gradient
    assert grads["0.weight"].any()


def test_names_copies_and_files(tmp_path: Path) -> None:
    model, ids = classifier(), np.arange(T * B).reshape(T, B) % 10
    assert model._reduces_time
    assert not bptt.Sequential(bptt.GRU(3, 4), bptt.Linear(4, 2))._reduces_time
    assert repr(model).splitlines()[3] == "  (2): Last()"
    assert repr(bptt.Last(True, True)) == "Last(batch_first=True, bidirectional=True)"
    assert list(model.params)[-2:] == ["3.weight", "3.bias"]
    y = model(ids)[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        np.testing.assert_array_equal(twin(ids)[0], y)
    checkpoint.save(tmp_path / "model", model.state_dict(), {})
    other = bptt.Sequential(bptt.Embedding(10, 3, dtype="float64"), bptt.GRU(3, 4, dtype="float64"), bptt.Last(),
                            bptt.Linear(4, 2, dtype="float64"))  # fmt: skip
    other.load_state_dict(checkpoint.load(tmp_path / "model")[0])
    np.testing.assert_array_equal(other(ids)[0], y)


def test_a_stream_has_the_output_of_a_row_that_ends_now() -> None:
    model = bptt.Sequential(bptt.GRU(F, 4, **F64), bptt.Last(), bptt.Linear(4, 2, **F64))
    stream = model.stream(B)
    for t in range(T):
        np.testing.assert_allclose(stream(X[t]), model(X[: t + 1])[0], rtol=0, atol=1e-14)
    stream.reset()
    assert stream(X).shape == (T, B, 2)
    with pytest.raises(ValueError, match=r"Last.stream: the layer is for two directions, expected one direction"):
        bptt.Sequential(bptt.GRU(F, 4), bptt.Last(bidirectional=True)).stream()


def seen(calls: list[Any]) -> Any:
    """Cross-entropy that notes its arguments."""

    def loss(*arguments: Any) -> tuple[float, Any]:
        calls.append(arguments)
        return losses.cross_entropy(*arguments)

    return loss


@pytest.mark.parametrize("batch_first", [False, True])
def test_fit_gives_the_loss_one_step_for_each_row(batch_first: bool) -> None:
    ids = np.arange(T * B).reshape(T, B) % 10
    classes, lengths = np.array([0, 1, 1, 0]), np.array([2, 5, 1, 3])
    there = np.arange(T)[:, None] < lengths
    order = np.argsort(-lengths)
    rows = bptt.Packed(ids[:, order][there[:, order]], there.sum(1), sorted_indices=order)
    batches = [bptt.Batch(ids, classes, lengths=lengths), bptt.Batch(rows, classes), (ids, classes)]
    if batch_first:
        batches = [bptt.Batch(ids.T, classes, lengths=lengths), bptt.Batch(rows, classes), (ids.T, classes)]
    model, calls, targets = classifier(batch_first=batch_first) if batch_first else classifier(), [], []
    history = bptt.fit(
        model, batches, loss=seen(calls), optimizer=bptt.optim.SGD(0.0), on_step=lambda s: targets.append(s.targets)
    )
    assert history.loss[0] == pytest.approx(history.loss[1], rel=1e-14)
    assert [len(arguments) for arguments in calls] == [2, 2, 2]
    assert targets == [B, B, B]
    calls.clear()
    mask = np.array([True, False, True, True])
    bptt.fit(
        model,
        [batch._replace(mask=mask) for batch in batches[:2]],
        loss=seen(calls), optimizer=bptt.optim.Adam(0.01), on_step=lambda s: targets.append(s.targets),
    )  # fmt: skip
    assert targets[3:] == [3, 3]
    assert all((arguments[2] == mask).all() for arguments in calls)


def test_fit_learns_which_class_a_row_has() -> None:
    """The first symbol of a row, which a state must carry to the end of rows of different lengths."""
    rng = np.random.default_rng(1)
    ids, lengths = rng.integers(0, 8, (8, 32)), rng.integers(3, 9, 32)
    model = bptt.Sequential(
        bptt.Embedding(8, 8, seed=0), bptt.GRU(8, 16, seed=0), bptt.Last(), bptt.Linear(16, 2, seed=0)
    )
    batch = bptt.Batch(ids, ids[0] % 2, lengths=lengths)
    history = bptt.fit(model, [batch], loss=losses.cross_entropy, optimizer=bptt.optim.Adam(0.02), epochs=80)
    assert history.loss[-1] < 0.05 * history.loss[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bptt.Last(bach_first=True), TypeError, "Last: there is no option 'bach_first', did you mean 'batch"),
        (lambda: bptt.Last(1), TypeError, "Last: batch_first has type int, expected True or False"),
        (lambda: bptt.Last()(X[0, 0]), ValueError, r"Last.forward: x has shape \(6,\), expected \(T, B, features\)"),
        (lambda: bptt.Last(True)(X[0, 0]), ValueError, r"x has shape \(6,\), expected \(B, T, features\)"),
        (lambda: bptt.Last()(X * 1j), TypeError, "Last.forward: x has dtype complex128, expected real numbers"),
        (lambda: bptt.Last()(X, [6] * B), ValueError, "Last.forward: lengths has values from 6 to 6, expected 0 to 5"),
        (lambda: bptt.Last()(X, [5]), ValueError, r"Last.forward: lengths has shape \(1,\), expected \(4,\)"),
        (lambda: bptt.Last()(bptt.Packed(X[0], [4]), [1] * B), ValueError, "lengths is given with packed rows"),
        (lambda: bptt.Last()(bptt.Packed(X[0, 0], [6])), ValueError, r"x has shape \(6,\), expected \(sum, features\)"),
        (lambda: bptt.Last(bidirectional=True)(X[..., :3]), ValueError, "x has 3 features, expected an even number"),
        (
            lambda: (layer := bptt.Last()).backward(layer.forward(X)[1], X),
            ValueError, r"Last.backward: dy has shape \(5, 4, 6\), expected \(4, 6\)",
        ),
        (
            lambda: bptt.Sequential(bptt.GRU(3, 4), bptt.Last(), bptt.GRU(4, 5)),
            ValueError, "Sequential: layer 2, GRU, works over time, expected it before layer 1, Last, whose y has no",
        ),
        (lambda: bptt.Sequential(bptt.Last(), bptt.Last()), ValueError, "layer 1, Last, works over time, expected"),
        (lambda: bptt.Sequential(bptt.GRUCell(3, 4), bptt.Last()), ValueError, "has cells and layers over time"),
        (
            lambda: bptt.Sequential(bptt.GRU(3, 4, batch_first=True), bptt.Last()),
            ValueError, "Sequential: layers differ in batch_first, expected one value",
        ),
        (
            lambda: (m := classifier()).backward(m.forward(IDS)[2], None),
            TypeError, "Sequential.backward: dy and dstate are None, expected at least one of them",
        ),
        (
            lambda: (m := classifier()).backward(m.forward(IDS)[2], None, (None,)),
            TypeError, "Sequential.backward: dy and dstate are None",
        ),
        (
            lambda: bptt.fit(
                classifier(), [(IDS, IDS[0])], loss=losses.mse, optimizer=bptt.optim.SGD(0.1), tbptt=2
            ),
            ValueError, r"fit: model has one output for each row \(Last\), which tbptt cannot cut, expected tbptt=None",
        ),
    ],
)  # fmt: skip
def test_wrong_calls_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert len(str(raised.value)) < 200
