# SPDX-License-Identifier: Apache-2.0
"""Calls of `bptt.torch` in PyTorch's graph: what is computed, when, and what becomes of changed tensors."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

import bptt

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    CELLS,
    assert_agree,
    assert_close,
    bt,
    every_cell,
    every_kind,
    flat,
    layer,
    loss_of,
    one_thread,  # noqa: F401
    results,
)

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def input_for(kind: str, **options: Any) -> Any:
    return torch.randn(*([3, 5] if kind in CELLS else [4, 3, 5]), dtype=torch.float64, **options)


def memory() -> int:
    """What tapes and packed weights use now; the packed weights of idle stacks stay."""
    gc.collect()
    return int(bptt._dispatch.core.memory_in_use()[0])


@every_kind
@pytest.mark.parametrize("frozen", ["weights", "input", "biases"])
def test_only_what_is_asked_for_is_computed(kind: str, frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bptt.torch.network import Network

    seen: list[tuple[bool, bool]] = []
    backward = Network.backward

    def watched(self: Any, *arguments: Any) -> Any:
        found = backward(self, *arguments)
        states = len(self.widths)
        seen.append((found[0] is not None, any(each is not None for each in found[1 + states :])))
        return found

    monkeypatch.setattr(Network, "backward", watched)
    model, x = layer(kind, num_layers=2), input_for(kind, requires_grad=frozen != "input")
    for name, each in model.named_parameters():
        each.requires_grad_(frozen == "input" or (frozen == "biases" and "bias" not in name))

    def gradients() -> list[Any]:
        leaves = [each for each in (*model.parameters(), x) if each.requires_grad]
        return list(torch.autograd.grad(loss_of(model(x)), leaves))

    assert_agree(gradients)
    assert seen == [(frozen != "input", frozen != "weights")]


@every_kind
def test_no_tape_without_gradients(kind: str) -> None:
    model, x = layer(kind, 64, 64), torch.randn(50, 32, 64, dtype=torch.float64)
    with bt.enabled():
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                model(x)
                before = memory()
                y = model(x)[0]
                assert memory() <= before
                assert not y.requires_grad
        model.requires_grad_(False)
        assert model(x)[0].grad_fn is None


@every_kind
def test_the_tape_goes_with_backward_and_with_the_graph(kind: str) -> None:
    model, x = layer(kind, 64, 64), torch.randn(50, 32, 64, dtype=torch.float64)
    with bt.enabled():
        model(x)[0].sum().backward()
        before = memory()
        loss = model(x)[0].sum()
        tape = memory() - before
        assert tape > 50 * 32 * 64 * 8 * (0 if kind.startswith("rnn") else 1) / 2
        loss.backward()
        assert memory() <= before  # though the loss is still there
        loss = model(x)[0].sum()
        del loss
        assert memory() <= before


@every_kind
def test_missing_gradients(kind: str) -> None:
    model, x = layer(kind, num_layers=2, bidirectional=True), input_for(kind, requires_grad=True)
    leaves = [x, *model.parameters()]
    count = len(flat(model(x)))
    for i in range(count):  # y alone, h alone, c alone
        assert_agree(
            lambda i=i: list(torch.autograd.grad(loss_of(flat(model(x))[i]), leaves, allow_unused=True)), calls=1
        )


@pytest.mark.parametrize("batch_first", [False, True])
def test_gradients_of_any_layout(batch_first: bool) -> None:
    model, x = layer("gru", batch_first=batch_first), torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    leaves = [x, *model.parameters()]

    def of(loss: Callable[[Any], Any]) -> Callable[[], list[Any]]:
        return lambda: list(torch.autograd.grad(loss(model(x)[0]), leaves))

    assert_agree(of(lambda y: y.sum()))  # expanded
    assert_agree(of(lambda y: (y.permute(2, 0, 1) ** 2).sum()))
    assert_agree(of(lambda y: y[:, -1, ::2].sin().sum()))
    grad = torch._neg_view(torch.randn(3, 4, 7, dtype=torch.float64))
    assert_agree(lambda: list(torch.autograd.grad(model(x)[0], leaves, grad)))


@pytest.mark.parametrize("kind", ["lstm", "lstm_projected", "gru", "rnn_tanh", "lstm_cell", "gru_cell"])
def test_a_retained_graph_gives_the_same_gradients_again(kind: str) -> None:
    model, x = layer(kind), input_for(kind, requires_grad=True)
    leaves = [x, *model.parameters()]
    with bt.enabled():
        loss = loss_of(model(x))
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        second = torch.autograd.grad(loss, leaves, retain_graph=True)
        third = torch.autograd.grad(loss, leaves)
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, third, strict=True))
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, leaves)


def test_hooks_see_and_change_gradients() -> None:
    model, x = layer("lstm"), input_for("lstm", requires_grad=True)
    seen: list[str] = []

    def gradients() -> list[Any]:
        seen.clear()
        y, (h, _) = model(x)
        handles = [
            y.register_hook(lambda grad: (seen.append("y"), grad * 2)[1]),
            h.register_hook(lambda grad: seen.append("h")),
            model.weight_hh_l0.register_hook(lambda grad: (seen.append("weight"), grad + 1)[1]),
            model.weight_ih_l0.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated")),
        ]
        model.zero_grad()
        x.grad = None
        (loss_of(y) + loss_of(h)).backward()
        for handle in handles:
            handle.remove()
        assert sorted(seen) == ["accumulated", "h", "weight", "y"]
        return [x.grad.clone(), *[each.grad.clone() for each in model.parameters()]]

    assert_agree(gradients)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "gru_cell"])
def test_gradients_of_gradients_are_pytorchs(kind: str) -> None:
    model, x = layer(kind), input_for(kind, requires_grad=True)
    leaves = [x, *model.parameters()]

    def gradients() -> list[Any]:
        first = torch.autograd.grad(loss_of(model(x)), leaves, create_graph=True)
        penalty = sum((each**2).sum() for each in first)
        return [*first, *torch.autograd.grad(penalty, leaves)]

    assert_agree(gradients, calls=1)
    with bt.enabled():
        gradients()
    assert any("create_graph" in why for why in bt.explain(reset=True).again)


def test_gradients_of_gradients_with_dropout_are_an_error() -> None:
    model, x = layer("gru", num_layers=2, dropout=0.5), input_for("gru", requires_grad=True)
    with bt.enabled(), pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(model(x)[0].sum(), x, create_graph=True)


def test_batched_gradients_are_pytorchs() -> None:
    model, x = layer("gru"), input_for("gru", requires_grad=True)
    grads = torch.randn(3, 4, 3, 7, dtype=torch.float64)
    assert_agree(lambda: list(torch.autograd.grad(model(x)[0], [x], grads, is_grads_batched=True)), calls=1)


def failed_in_place(run: Callable[[], Any]) -> bool:
    """Whether autograd refuses a run since a tensor was changed."""
    try:
        run()
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            return True
        raise
    return False


@every_kind
@pytest.mark.parametrize("what", ["weight_hh_l0", "weights", "x", "state", "y"])
@pytest.mark.parametrize("frozen", [False, True])
def test_changes_in_place_are_errors_where_they_are_pytorchs(kind: str, what: str, frozen: bool) -> None:
    """Where PyTorch's own operation still gives gradients, ours gives the same."""
    dtype = torch.float32  # in float64 PyTorch's LSTM runs step by step; here it has the operation that most use

    def gradients() -> list[Any]:
        model = layer(kind, dtype=dtype)
        model.requires_grad_(not frozen)
        width = model.proj_size or 7
        x = (torch.ones(4, 3, 5, dtype=dtype).cumsum(0) / 9).requires_grad_() * 1
        state = [torch.zeros(1, 3, width, dtype=dtype), torch.zeros(1, 3, 7, dtype=dtype)]
        y, final = model(x, tuple(state) if kind.startswith("lstm") else state[0])
        loss = loss_of((y * 1, final))
        with torch.no_grad():
            if what == "weights":
                for each in model.parameters():
                    each.mul_(2)
            else:
                {"x": x, "state": state[0], "y": y}.get(what, model.weight_hh_l0).add_(1)
        return list(torch.autograd.grad(loss, [x, *([] if frozen else model.parameters())]))

    theirs: list[list[Any]] = []
    fails = failed_in_place(lambda: theirs.append(gradients()))
    with bt.enabled():
        ours: list[list[Any]] = []
        failed = failed_in_place(lambda: ours.append(gradients()))
    if not fails:
        assert not failed, "PyTorch gives gradients"
        assert_close(ours[0], theirs[0])
    elif what != "y":  # where y has changed, ours runs the forward pass again
        assert failed or frozen


def test_a_residual_connection_in_place() -> None:
    model = layer("gru", 7)

    def gradients() -> list[Any]:
        x = torch.linspace(-1, 1, 84, dtype=torch.float64).reshape(4, 3, 7).requires_grad_()
        y, _ = model(x)
        y += x
        return list(torch.autograd.grad(loss_of(y), [x, *model.parameters()]))

    assert_agree(gradients)
    with bt.enabled():
        bt.explain(reset=True)
        gradients()
    assert bt.explain().again == {"y was changed in place": 1}


@every_kind
def test_weights_may_be_any_tensors_and_shared(kind: str) -> None:
    model, x = layer(kind, 7, 7 if kind != "lstm_projected" else 9, num_layers=1), None
    x = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)

    class Dropped(torch.nn.Module):
        """DropConnect: weights that are computed at each call."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            named = {name: each * 0.5 for name, each in self.model.named_parameters()}
            return torch.func.functional_call(self.model, named, (x,))

    assert_agree(lambda: results(Dropped(), x), calls=1)

    class Twice(torch.nn.Module):
        """One layer used twice: its gradients add up."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x), self.model(x * 0.5)

    assert_agree(lambda: results(Twice(), x), calls=2)


def test_weights_shared_between_layers() -> None:
    model = layer("gru", 7, 7, num_layers=2)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(model, f"{name}_l1", getattr(model, f"{name}_l0"))
    x = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)
    assert_agree(lambda: results(model, x), calls=1)
    model = layer("gru", 7, 7)
    model.bias_hh_l0 = model.bias_ih_l0
    assert_agree(lambda: results(model, x), calls=1)


def test_parametrized_weights() -> None:
    model = layer("lstm")
    torch.nn.utils.parametrizations.weight_norm(model, "weight_hh_l0")
    assert_agree(lambda: results(model, torch.ones(4, 3, 5, dtype=torch.float64, requires_grad=True)), calls=1)


@pytest.mark.parametrize("reentrant", [False, True])
@every_kind
def test_checkpoints(kind: str, reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = layer(kind, num_layers=2, dropout=0.0), input_for(kind, requires_grad=True)

    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return flat(checkpoint(self.model, x, use_reentrant=reentrant))

    assert_agree(lambda: results(Checkpointed(), x)) if not reentrant else assert_agree(
        lambda: backward_of(Checkpointed(), x)
    )


def backward_of(model: Any, x: Any) -> list[Any]:
    """As results, by backward(): reentrant checkpoints know no autograd.grad."""
    model.zero_grad()
    x.grad = None
    loss_of(model(x)).backward()
    return [x.grad.clone(), *[each.grad.clone() for each in model.parameters()]]


def test_a_checkpoint_keeps_no_tape() -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = layer("lstm", 64, 64), torch.randn(50, 32, 64, dtype=torch.float64)
    with bt.enabled():
        model(x)[0].sum().backward()
        before = memory()
        y = checkpoint(model, x, use_reentrant=False)[0]
        assert memory() <= before
        y.sum().backward()


def test_a_checkpoint_draws_the_same_masks() -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = layer("lstm", num_layers=2, dropout=0.5), input_for("lstm", requires_grad=True)
    with bt.enabled():
        torch.manual_seed(3)
        plain = torch.autograd.grad(model(x)[0].sum(), x)[0]
        torch.manual_seed(3)
        again = torch.autograd.grad(checkpoint(model, x, use_reentrant=False)[0].sum(), x)[0]
    torch.testing.assert_close(plain, again)


def test_tensors_saved_elsewhere() -> None:
    model, x = layer("gru"), input_for("gru", requires_grad=True)

    def gradients() -> list[Any]:
        with torch.autograd.graph.save_on_cpu():
            y = model(x)[0]
        return list(torch.autograd.grad(loss_of(y), [x, *model.parameters()]))

    assert_agree(gradients, calls=1)


@every_cell
def test_cells_whose_outputs_are_changed_in_place(kind: str) -> None:
    """h is no part of a cell's tape."""
    model, x = layer(kind), input_for(kind, requires_grad=True)

    def gradients() -> list[Any]:
        outputs = flat(model(x))
        outputs[0].mul_(2)
        return list(torch.autograd.grad(loss_of(outputs), [x, *model.parameters()]))

    with bt.enabled():
        ours = gradients()
    if kind == "gru_cell":
        assert_close(ours, gradients())


def test_storages_can_still_be_resized() -> None:
    """`tensor.numpy()` would forbid it."""
    model, x = layer("gru"), input_for("gru")
    with bt.enabled():
        model(x)[0].sum().backward()
    assert all(each.untyped_storage().resizable() for each in (x, *model.parameters()))
