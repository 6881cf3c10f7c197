# SPDX-License-Identifier: Apache-2.0
"""Calls of `bptt.torch` on tensors whose memory changes or lies unusually, and masks where there is no graph."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import assert_agree, assert_close, bt, layer, one_thread  # noqa: E402, F401


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("what", ["x", "state"])
def test_a_tensor_may_get_other_memory_between_forward_and_backward(kind: str, what: str) -> None:
    def run() -> list[Any]:
        torch.manual_seed(3)
        model, x = layer(kind), torch.randn(1, 300, 5, dtype=torch.float64)
        state = [torch.randn(1, 300, 7, dtype=torch.float64) for _ in range(2 if kind == "lstm" else 1)]
        y, _ = model(x, tuple(state) if len(state) > 1 else state[0])
        changed = x if what == "x" else state[0]
        changed.data = torch.full_like(changed, 9)
        y.sum().backward()
        return [each.grad for each in model.parameters()]

    assert_agree(run)


def test_elements_at_odd_addresses() -> None:
    memory = bytearray(b"\0" + torch.randn(60).numpy().tobytes())

    def run() -> list[Any]:
        x = torch.frombuffer(memory, dtype=torch.float32, offset=1, count=60)
        return [layer("gru", dtype=torch.float32)(x.reshape(4, 3, 5))[0]]

    assert_agree(run)


def test_layers_in_training_drop_out_without_a_graph() -> None:
    model, x = layer("lstm", num_layers=2, dropout=0.5), torch.randn(4, 3, 5, dtype=torch.float64)
    with bt.enabled():
        torch.manual_seed(5)
        with_graph = model(x)[0].detach()
        torch.manual_seed(5)
        with torch.no_grad():
            masked, other = model(x)[0], model(x)[0]
        model.requires_grad_(False)
        torch.manual_seed(5)
        frozen = model(x)[0]
        assert_close([model.eval()(x)[0]], [model(x)[0]])
    assert_close([masked, frozen], [with_graph, with_graph])
    assert not torch.equal(masked, other)


def test_only_plain_tensors_are_read_by_their_memory() -> None:
    from bptt._dispatch import core

    x, weights = torch.randn(3, 2, 4), list(torch.nn.GRU(4, 4).parameters())
    assert core.are_plain_tensors((x, *weights, x[:1].expand(3, 2, 4), x.mT, x.detach()))
    assert core.are_plain_tensors((x.double(),))
    with torch.inference_mode():
        assert core.are_plain_tensors((torch.ones(2),))
    others: list[Any] = [
        torch._neg_view(x),
        torch._efficientzerotensor((2, 3)),
        x.to_sparse(),
        x.to_mkldnn(),
        x.to("meta"),
        x.half(),
        x.long(),
        torch._to_functional_tensor(x),
        torch.ones(0, 3),
        x.numpy(),
        None,
        x.as_subclass(type("Other", (torch.Tensor,), {})),
    ]
    for each in others:
        assert not core.are_plain_tensors((each,)), each
        assert not core.are_plain_tensors((x, each)), each
    assert not core.are_plain_tensors((x, x.double()))
    assert not core.are_plain_tensors(())
    seen: list[bool] = []
    torch.func.grad(lambda a: (seen.append(core.are_plain_tensors((a,))), a.sum())[1])(x)
    torch.func.vmap(lambda a: (seen.append(core.are_plain_tensors((a,))), a)[1])(x)
    assert seen == [False, False]


@pytest.mark.parametrize("kind", ["lstm_projected", "gru"])
def test_tensors_in_another_order_take_the_longer_way(kind: str) -> None:
    """With the bits of the native one."""
    model, found = layer(kind, num_layers=2, dtype=torch.float32), []
    x = torch.randn(5, 3, 4).permute(2, 1, 0)
    with bt.enabled():
        for each in (x, x.contiguous()):
            y = model(each)[0]
            grad = torch.ones(y.shape[::-1]).permute(2, 1, 0)
            found.append([y, *torch.autograd.grad([y], list(model.parameters()), [grad])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
