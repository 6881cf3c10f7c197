# SPDX-License-Identifier: Apache-2.0
"""`bptt.torch.lstm`, `gru`, `rnn` and the layers inside full graphs of torch.compile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bptt.torch import graph  # noqa: E402
from torch_cases import KINDS, assert_close, bt, every_kind, flat, layer, loss_of, one_thread, python  # noqa: E402, F401

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(torch.nn.Module):
    """A function of bptt between layers of PyTorch; y and the state are changed in place afterwards."""

    def __init__(self, kind: str, dropout: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.inner = layer(kind, 5, 7, **options)
        self.before = torch.nn.Linear(5, 5).double()
        self.name = kind.removesuffix("_projected").removesuffix("_tanh").removesuffix("_relu")
        self.options: dict[str, Any] = {"dropout": dropout, "bidirectional": self.inner.bidirectional}
        self.options["batch_first"] = self.inner.batch_first
        if self.name == "rnn":
            self.options["nonlinearity"] = kind.removeprefix("rnn_")
        self.weights = torch.nn.ParameterList(list(self.inner.parameters()))
        del self.inner

    def forward(self, x: Any, state: Any = None, **options: Any) -> Any:
        x = self.before(x).relu()
        y, final = getattr(bt, self.name)(x, state, list(self.weights), **self.options, **options)
        return y.mul_(2).sin(), final


def gradients(model: Any, *arguments: Any, **options: Any) -> list[Any]:
    """The outputs and the gradients of parameters. (A graph's inputs are leaves of `model` alone here.)"""
    outputs = model(*arguments, **options)
    return [*flat(outputs), *torch.autograd.grad(loss_of(outputs), list(model.parameters()))]


def compiled(model: Any, **options: Any) -> Any:
    return torch.compile(model, fullgraph=True, **{"backend": "aot_eager", **options})


def x_of(T: int, B: int, batch_first: bool = False) -> Any:
    return torch.randn(*((B, T) if batch_first else (T, B)), 5, dtype=torch.float64)


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("batch_first", [True, False])
def test_full_graphs(kind: str, batch_first: bool) -> None:
    model = Model(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    of_graph = compiled(model, dynamic=True)
    bt.explain(reset=True)
    sizes = [(4, 3), (6, 2), (2, 5)]
    for T, B in sizes:
        x = x_of(T, B, batch_first)
        assert_close(gradients(of_graph, x), gradients(model, x))
        with torch.no_grad():
            assert_close(flat(of_graph(x)), flat(model(x)))
    found = bt.explain(reset=True)
    assert sum(found.taken.values()) == 4 * len(sizes)
    assert not found.again  # each backward found its tape
    assert not graph._held


@pytest.mark.slow
def test_lengths_resets_and_states() -> None:
    model = Model("lstm", batch_first=True)
    x, resets = x_of(6, 3, True), torch.rand(3, 6) < 0.3
    state = tuple(torch.randn(1, 3, 7, dtype=torch.float64) for _ in range(2))
    for lengths in ([6, 2, 4], torch.tensor([6, 0, 1])):
        options = {"lengths": lengths, "resets": resets}
        assert_close(gradients(compiled(model), x, state, **options), gradients(model, x, state, **options))


@pytest.mark.slow
def test_dropout_has_the_same_masks_forward_and_backward() -> None:
    model, x = Model("gru", dropout=0.5, num_layers=2), x_of(4, 3)
    of_graph = compiled(model)
    torch.manual_seed(3)
    first = gradients(of_graph, x)
    torch.manual_seed(3)
    assert_close(gradients(of_graph, x), first)
    torch.manual_seed(3)
    assert_close(first, gradients(model, x))
    assert not torch.equal(of_graph(x)[0], first[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_operator_is_what_pytorch_expects(kind: str) -> None:
    model = layer(kind)
    x, weights = x_of(4, 3).requires_grad_(), list(model.parameters())
    states = [torch.randn(1, 3, 7, dtype=torch.float64, requires_grad=True) for _ in range(1 + (kind == "lstm"))]
    lengths, resets = torch.tensor([4, 2, 1]), torch.zeros(4, 3, dtype=torch.bool)
    for given in ((None, None, None, True), (None, lengths, resets, True), (torch.tensor(5), None, None, True)):
        torch.library.opcheck(torch.ops.bptt.recurrent.default, (x, states, weights, kind, False, 0.0, *given))
    plain = [each.detach() for each in (x, *states, *weights)]
    x, states, weights = plain[0], plain[1 : 1 + len(states)], plain[1 + len(states) :]
    torch.library.opcheck(
        torch.ops.bptt.recurrent.default, (x, states, weights, kind, False, 0.0, None, None, None, False)
    )


def test_a_tape_is_freed_with_its_graph() -> None:
    model, x = Model("gru"), x_of(4, 3)
    of_graph = compiled(model)
    assert_close(gradients(of_graph, x), gradients(model, x))
    assert not graph._held
    kept = of_graph(x)
    assert len(graph._held) == 1
    del kept
    gc.collect()
    assert not graph._held
    y, _ = of_graph(x)
    y.sum().backward()
    del y, _
    gc.collect()
    assert not graph._held


def test_a_token_that_is_a_copy_runs_forward_again() -> None:
    model, x = layer("gru"), x_of(4, 3)
    weights, states = [each.detach() for each in model.parameters()], [torch.zeros(1, 3, 7, dtype=torch.float64)]
    settings = ("gru", False, 0.0, None, None, None)
    y, h, _, token = torch.ops.bptt.recurrent(x, states, weights, *settings, True)
    wanted = [True] * 6
    given = ([torch.ones_like(y), torch.zeros_like(h)], x, states, weights, *settings, wanted)
    bt.explain(reset=True)
    first = torch.ops.bptt.recurrent_backward(token, *given)
    assert not bt.explain(reset=True).again
    second = torch.ops.bptt.recurrent_backward(token.clone(), *given)
    assert sum(bt.explain(reset=True).again.values()) == 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    third = torch.ops.bptt.recurrent_backward(token, *given)  # the first pass took the tape
    assert sum(bt.explain(reset=True).again.values()) == 1
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_gradients_of_gradients_are_refused() -> None:
    model, x = layer("gru"), x_of(4, 3).requires_grad_()
    states = [torch.zeros(1, 3, 7, dtype=torch.float64)]
    weights = list(model.parameters())
    y = torch.ops.bptt.recurrent(x, states, weights, "gru", False, 0.0, None, None, None, True)[0]
    (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"bptt.torch.gru.backward: create_graph=True of a call in a graph"):
        dx.sum().backward()


@pytest.mark.slow
def test_checkpoints_inside_a_graph() -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = Model("gru"), x_of(4, 3).requires_grad_()

    def f(x: Any) -> Any:
        return checkpoint(lambda x: model(x)[0], x, use_reentrant=False)

    ours, theirs = (torch.autograd.grad(run(x).sum(), x) for run in (compiled(f), f))
    assert_close([*ours], [*theirs])


@pytest.mark.slow
@every_kind
def test_layers_in_full_graphs(kind: str) -> None:
    """PyTorch's compiler takes subclasses of its recurrent layers only with this setting."""
    theirs = layer(kind, num_layers=2)
    cls = getattr(bt, type(theirs).__name__)
    options = {"nonlinearity": theirs.nonlinearity} if kind.startswith("rnn") else {}
    ours = cls(5, 7, 2, **options, **({"proj_size": 3} if kind == "lstm_projected" else {})).double()
    ours.load_state_dict(theirs.state_dict())
    x = x_of(4, 3)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
        compiled(ours)(x)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        of_graph = compiled(ours)
        bt.explain(reset=True)
        assert_close(gradients(of_graph, x), gradients(theirs, x))
        assert_close(flat(of_graph(x, lengths=[4, 1, 2])), flat(ours(x, lengths=[4, 1, 2])))
        assert sum(bt.explain().taken.values()) == 3


@pytest.mark.slow
def test_errors_have_their_words() -> None:
    model = Model("gru")
    with pytest.raises(ValueError, match=r"state has shape \(1, 3, 6\), expected \(1, 3, 7\)"):
        compiled(model)(x_of(4, 3), torch.zeros(1, 3, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="lengths has"):
        compiled(model)(x_of(4, 3), lengths=torch.tensor([4, 9, 1]))


def test_the_compiler_is_not_imported() -> None:
    assert python("import bptt.torch, sys; print('torch._dynamo' in sys.modules)") == "False\n"


@pytest.mark.slow
def test_compiled_code() -> None:
    model = Model("lstm", num_layers=2, bidirectional=True)
    of_graph = compiled(model, backend="inductor", dynamic=True)
    for T, B in [(4, 3), (6, 2)]:
        x = x_of(T, B)
        assert_close(gradients(of_graph, x), gradients(model, x))
