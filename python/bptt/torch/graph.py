# SPDX-License-Identifier: Apache-2.0
"""Our functions as an operator of PyTorch, `torch.ops.bptt.recurrent`, which full graphs of `torch.compile` can hold.

Outside of graphs `Recurrence` does the same with less overhead, and the operator is not used. Nothing is compiled here.

The tape of a forward pass is no tensor, and a graph hands tensors alone from forward to backward. So the operator also
returns a token, a tensor of one element whose memory belongs to an object that holds the tape: the tape is found by
the token's address, and is freed with it, also where a graph is dropped without a backward pass. In a second backward
pass, and where the token is not the same memory (a copy; a checkpoint that saved it elsewhere), backward runs forward
again.
A compiler may reuse memory as soon as it knows no reader: the tape therefore reads copies of x, of the states and of y.

Shapes: x [T,B,I]; states h [L*D,B,R] and of an LSTM c [L*D,B,H]; weights in PyTorch's order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from bptt.torch.counts import count_again, count_taken
from bptt.torch.network import follow_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bptt.torch.network import Network, Options, Ran

    # The network of a call and its options, checked: of name, x, states, weights and the settings of the call.
    Prepare = Callable[..., tuple[Network, Options]]

__all__ = ["in_graph", "register"]

_library = torch.library.Library("bptt", "DEF")
_SETTINGS = "str name, bool bidirectional, float dropout, Tensor? seed, Tensor? lengths, Tensor? resets"
_library.define(
    f"recurrent(Tensor x, Tensor[] states, Tensor[] weights, {_SETTINGS}, bool keep) -> "
    "(Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "recurrent_backward(Tensor token, Tensor[] gradients, Tensor x, Tensor[] states, Tensor[] weights, "
    f"{_SETTINGS}, bool[] wanted) -> Tensor[]"
)


class _Held:
    """A forward pass, until a backward pass takes it, and the memory of its token."""

    def __init__(self, network: Network, ran: Ran) -> None:
        self.network, self._memory = network, np.zeros(1, np.int64)
        self.ran: Ran | None = ran
        self.__array_interface__ = self._memory.__array_interface__


_held: WeakValueDictionary[int, _Held] = WeakValueDictionary()  # by address


def register(prepare: Prepare) -> None:
    """Give the operator its implementation."""

    def passed(
        x: Any, states: Sequence[Any], weights: Sequence[Any], settings: Sequence[Any], keep: bool
    ) -> tuple[tuple[Any, ...], Network, Ran | None]:
        network, options = prepare(x, states, weights, *settings)
        read = [each.detach() for each in (x, *states)]
        if keep:
            read = [each.clone(memory_format=torch.contiguous_format) for each in read]
        follow_threads()
        outputs, ran = network.forward((*read, *weights), False, options, keep)
        return outputs, network, ran

    def forward(x: Any, states: Sequence[Any], weights: Sequence[Any], *settings: Any) -> tuple[Any, ...]:
        *settings, keep = settings  # type: ignore[assignment]
        (y, *final), network, ran = passed(x, states, weights, settings, keep)
        count_taken(settings[0].split("_")[0])
        token = torch.empty(0, dtype=torch.int64)
        if ran is not None:
            held = _Held(network, ran)
            token = torch.from_numpy(np.asarray(held))
            _held[token.data_ptr()] = held
            y = y.clone() if ran.reads_y else y
        return y, final[0], final[1] if len(final) > 1 else x.new_empty(0), token

    def backward(
        token: Any, gradients: Sequence[Any], x: Any, states: Sequence[Any], weights: Sequence[Any], *settings: Any
    ) -> list[Any]:
        *settings, wanted = settings  # type: ignore[assignment]
        held = _held.get(token.data_ptr())
        if held is not None and held.ran is not None:
            network, ran = held.network, held.ran
            held.ran = None
        else:
            count_again("in a graph of torch.compile: no tape, or a second backward pass")
            _, network, again = passed(x, states, weights, settings, True)
            assert again is not None
            ran = again
        inputs = (x, *states, *weights)
        found = network.backward(ran, inputs, gradients[: 1 + len(states)], False, tuple(wanted), False)
        return [x.new_empty(0) if each is None else each for each in found]

    _library.impl("recurrent", forward, "CPU")
    _library.impl("recurrent_backward", backward, "CPU")


def _shapes(x: Any, states: Sequence[Any], weights: Sequence[Any], *settings: Any) -> tuple[Any, ...]:
    """The outputs without their values."""
    directions, keep = 2 if settings[1] else 1, settings[-1]
    T, B = x.shape[:2]
    h = torch.empty_like(states[0], memory_format=torch.contiguous_format)
    c = torch.empty_like(states[1], memory_format=torch.contiguous_format) if len(states) > 1 else x.new_empty(0)
    y = x.new_empty(T, B, directions * states[0].shape[2])
    return y, h, c, torch.empty(int(keep), dtype=torch.int64, device=x.device)


def _gradient_shapes(
    token: Any, gradients: Sequence[Any], x: Any, states: Sequence[Any], weights: Sequence[Any], *settings: Any
) -> list[Any]:
    return [
        torch.empty_like(each, memory_format=torch.contiguous_format) if want else x.new_empty(0)
        for each, want in zip([x, *states, *weights], settings[-1], strict=True)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    """Keep what backward needs."""
    x, states, weights, name, bidirectional, dropout, seed, lengths, resets, _ = inputs
    ctx.counts = len(states), len(weights)
    ctx.settings = name, bidirectional, dropout
    ctx.optional = [each is not None for each in (seed, lengths, resets)]
    given = [each for each in (seed, lengths, resets) if each is not None]
    ctx.save_for_backward(output[3], x, *states, *weights, *given)


def _gradients(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    """The gradients of the operator's arguments."""
    token, x, *rest = ctx.saved_tensors
    n, m = ctx.counts
    states, weights, given = rest[:n], rest[n : n + m], iter(rest[n + m :])
    optional = [next(given) if there else None for there in ctx.optional]
    needs = ctx.needs_input_grad
    wanted = [needs[0], *needs[1], *needs[2]]
    found = torch.ops.bptt.recurrent_backward(
        token, [*gradients[: 1 + n]], x, states, weights, *ctx.settings, *optional, wanted
    )
    dx, *others = [each if want else None for each, want in zip(found, wanted, strict=True)]
    return dx, others[:n], others[n:], *[None] * 7


def _refused(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    """Raise: without this, PyTorch would take the gradients as constants."""
    what = "create_graph=True of a call in a graph of torch.compile is not implemented"
    raise RuntimeError(f"bptt.torch.{ctx.name}.backward: {what}, expected a call outside of it")


def _save_name(ctx: Any, inputs: tuple[Any, ...], output: list[Any]) -> None:
    ctx.name = inputs[5]


torch.library.register_fake("bptt::recurrent", _shapes, lib=_library)
torch.library.register_fake("bptt::recurrent_backward", _gradient_shapes, lib=_library)
torch.library.register_autograd("bptt::recurrent", _gradients, setup_context=_save, lib=_library)
torch.library.register_autograd("bptt::recurrent_backward", _refused, setup_context=_save_name, lib=_library)


def in_graph(
    name: str,
    x: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    bidirectional: bool,
    dropout: float,
    lengths: Any,
    resets: Any,
) -> tuple[Any, ...]:
    """A call as a node of the graph that is recorded: y and the final states."""
    drops = dropout and states[0].shape[0] > (2 if bidirectional else 1)  # between layers
    seed = torch.randint(1, 1 << 62, (), dtype=torch.int64) if drops else None
    tensors = (x, *states, *weights)
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    found: tuple[Any, ...] = torch.ops.bptt.recurrent(
        x, [*states], [*weights], name, bidirectional, dropout, seed, lengths, resets, keep
    )
    return found[: 1 + len(states)]
