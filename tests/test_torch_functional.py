# SPDX-License-Identifier: Apache-2.0
"""`bptt.torch.lstm`, `gru` and `rnn`: as PyTorch's layers, and with lengths and resets as loops of them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import KINDS, assert_close, bt, every_kind, flat, layer, loss_of, one_thread  # noqa: E402, F401

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def call(kind: str, model: Any, x: Any, state: Any = None, **options: Any) -> Any:
    name = kind.removesuffix("_projected").removesuffix("_tanh").removesuffix("_relu")
    if name == "rnn":
        options["nonlinearity"] = kind.removeprefix("rnn_")
    return getattr(bt, name)(x, state, list(model.parameters()), **options)


def gradients(outputs: Any, *leaves: Any) -> list[Any]:
    return [*flat(outputs), *torch.autograd.grad(loss_of(outputs), leaves)]


@every_kind
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_as_pytorchs_layers(kind: str, bias: bool, batch_first: bool) -> None:
    model = layer(kind, num_layers=2, bidirectional=True, bias=bias, batch_first=batch_first)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    ours = call(kind, model, x, bidirectional=True, batch_first=batch_first)
    leaves = (x, *model.parameters())
    assert_close(gradients(ours, *leaves), gradients(model(x), *leaves))


@every_kind
@pytest.mark.parametrize("batch_first", [True, False])
def test_lengths_as_packed_rows(kind: str, batch_first: bool) -> None:
    model = layer(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    lengths = torch.tensor([3, 6, 1])
    x = torch.randn(*((3, 6, 5) if batch_first else (6, 3, 5)), dtype=torch.float64, requires_grad=True)
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    y, state = model(rows)
    theirs = (torch.nn.utils.rnn.pad_packed_sequence(y, batch_first)[0], state)
    ours = call(kind, model, x, bidirectional=True, batch_first=batch_first, lengths=lengths)
    leaves = (x, *model.parameters())
    assert_close(gradients(ours, *leaves), gradients(theirs, *leaves))


@every_kind
def test_resets_as_calls_of_parts(kind: str) -> None:
    model = layer(kind)
    x = torch.randn(6, 2, 5, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(6, 2, dtype=torch.bool)
    resets[2] = resets[5] = True
    parts = [model(part) for part in x.split([2, 3, 1])]
    theirs = (torch.cat([y for y, _ in parts]), parts[-1][1])
    leaves = (x, *model.parameters())
    assert_close(gradients(call(kind, model, x, resets=resets), *leaves), gradients(theirs, *leaves))
    turned = call(kind, model, x.transpose(0, 1), batch_first=True, resets=resets.T)
    assert_close(flat(turned)[1:], flat(theirs)[1:])


@every_kind
@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_with_lengths_and_resets(kind: str, batch_first: bool) -> None:
    model = layer(kind, num_layers=2, batch_first=batch_first)
    ours = getattr(bt, type(model).__name__)(
        5, 7, 2, batch_first=batch_first, dtype=torch.float64,
        **({"nonlinearity": model.nonlinearity} if kind.startswith("rnn") else {}),
        **({"proj_size": 3} if kind == "lstm_projected" else {}),
    )  # fmt: skip
    ours.load_state_dict(model.state_dict())
    assert isinstance(ours, type(model))
    x = torch.randn(*((3, 6, 5) if batch_first else (6, 3, 5)), dtype=torch.float64)
    assert_close(flat(ours(x)), flat(model(x)))
    options = {"lengths": [6, 2, 4], "resets": torch.rand(x.shape[:2]) < 0.3}
    bt.explain(reset=True)
    assert_close(flat(ours(x, **options)), flat(call(kind, model, x, batch_first=batch_first, **options)))
    assert sum(bt.explain().taken.values()) == 2
    with pytest.raises(ValueError, match="expected a tensor of 3 axes"):
        ours(x[0], lengths=[2])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: str) -> None:
    model = layer(kind, 2, 4)
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    resets = torch.tensor([[False, False], [True, False], [False, True], [False, False]])
    state = [torch.randn(1, 2, width, dtype=torch.float64, requires_grad=True) for width in (model.proj_size or 4, 4)]
    given = tuple(state) if kind.startswith("lstm") else state[:1]

    def of(x: Any, *given: Any) -> Any:
        state = given if len(given) > 1 else given[0]
        return tuple(flat(call(kind, model, x, state, lengths=[4, 3], resets=resets)))

    assert torch.autograd.gradcheck(of, (x, *given))


def test_dropout_is_reproduced() -> None:
    model, x = layer("gru", num_layers=2), torch.ones(4, 3, 5, dtype=torch.float64)
    torch.manual_seed(0)
    first, other = (call("gru", model, x, dropout=0.5)[0] for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(call("gru", model, x, dropout=0.5)[0], first)
    assert not torch.equal(first, other)


def test_errors() -> None:
    model, x = layer("gru"), torch.ones(4, 3, 5, dtype=torch.float64)
    weights = list(model.parameters())
    for run, error, message in [
        (lambda: bt.gru(x[0], None, weights), ValueError, r"x has shape \(3, 5\), expected \(T, B, I\)"),
        (lambda: bt.gru(x, None, weights[:2] * 3), ValueError, "weights has 6 tensors of shapes"),
        (lambda: bt.gru(x[..., :4], None, weights), ValueError, "expected those of torch.nn's layer for 4 features"),
        (lambda: bt.gru(x, x, weights), ValueError, r"state has shape \(4, 3, 5\), expected \(1, 3, 7\)"),
        (lambda: bt.gru(x.float(), None, weights), TypeError, "different dtypes"),
        (lambda: bt.gru(x.half(), None, weights), TypeError, "dtype float16"),
        (lambda: bt.gru(x.numpy(), None, weights), TypeError, "type ndarray, expected tensors"),
        (lambda: bt.lstm(x, x, list(layer("lstm").parameters())), TypeError, r"expected the tuple \(h, c\)"),
        (lambda: bt.gru(x, None, weights, lengths=[4, 4]), ValueError, r"lengths has shape \(2,\), expected \(3,\)"),
        (lambda: bt.gru(x, None, weights, lengths=[4, 4, 5]), ValueError, "expected 0 to 4"),
        (lambda: bt.gru(x, None, weights, resets=torch.ones(3, 4, dtype=torch.bool)), ValueError, "resets has shape"),
        (lambda: bt.gru(x, None, weights, resets=torch.ones(4, 3)), TypeError, "resets"),
        (lambda: bt.rnn(x, None, weights, nonlinearity="sin"), ValueError, "expected 'tanh' or 'relu'"),
        (lambda: torch.func.grad(lambda x: bt.gru(x, None, weights)[0].sum())(x), RuntimeError, "torch.func tran"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            run()
