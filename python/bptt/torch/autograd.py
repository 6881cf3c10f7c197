# SPDX-License-Identifier: Apache-2.0
"""A call of a network on tensors, and its place in PyTorch's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bptt._dispatch import core
from bptt.torch.counts import count_again
from bptt.torch.memory import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bptt.torch.network import Network, Options, Ran

    Tensors = tuple[Any, ...]

_saving_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph


class Call:
    """A call as it can be repeated: of a network, with options.

    one_step: x [B,I] and states [B,.] of a cell, whose outputs are its states alone.
    original: PyTorch's operation as a function of x, states and weights; None where it has no such operation.
    options: as `Network.options` makes them.
    """

    __slots__ = ("name", "network", "one_step", "options", "original", "states")

    def __init__(
        self, name: str, network: Network, one_step: bool, original: Callable[..., Any] | None, options: Options = None
    ) -> None:
        self.name, self.network, self.one_step, self.original, self.options = name, network, one_step, original, options
        self.states = len(network.widths)

    def forward(self, inputs: Tensors, training: bool) -> tuple[Tensors, Ran | None]:
        """The outputs, y and the final states, and what backward needs. inputs: x, states, weights."""
        return self.network.forward(inputs, self.one_step, self.options, training)

    def backward(
        self, ran: Ran, inputs: Tensors, gradients: Sequence[Any], wanted: tuple[bool, ...], retain: bool
    ) -> Sequence[Any | None]:
        """The wanted gradients of x, states and weights. gradients: of the outputs, None for zeros."""
        return self.network.backward(ran, inputs, gradients, self.one_step, wanted, retain)


def run(call: Call, inputs: Tensors) -> Tensors:
    """The outputs of a call, in PyTorch's graph where there is one."""
    if torch.is_grad_enabled():
        for each in inputs:
            if each.requires_grad:
                outputs: Tensors = _apply(call, *inputs)
                return outputs
    return call.forward(inputs, call.network.random)[0]  # masks are of training alone


class Recurrence(torch.autograd.Function):
    """A call as a node of PyTorch's graph.

    The tape belongs to the graph: it goes when the graph is freed or, as PyTorch's own saved tensors, in a backward
    pass that does not retain it. Where hooks decide what becomes of saved tensors (checkpoints, offloading to a disk),
    there is no tape, as they could not see it: backward runs the forward pass again from what they return. So it does
    where y was changed in place, which PyTorch's own operations allow.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Any) -> Tensors:
        """The outputs; what backward needs is kept in ctx."""
        ctx.set_materialize_grads(False)
        # PyTorch saves x and the states for the gradients of weights: without them, a program may change both in place.
        frozen = True not in ctx.needs_input_grad[2 + call.states :]
        loose = inputs[: 1 + call.states] if frozen else ()
        read = _aliases(call, inputs)
        if frozen:
            read[1:] = [each.clone() for each in read[1:]]
        outputs, ran = call.forward((*read, *inputs[1 + call.states :]), True)
        assert ran is not None
        ctx.call, ctx.ran, ctx.watched = call, ran, []
        if _saving_hooks(True) is not None:
            ctx.ran = None
        elif not call.one_step and ran.reads_y:
            y = outputs[0].detach()  # the same memory and version, and no part of the graph
            ctx.watched.append((y, y._version, y.data_ptr()))
        ctx.read = [(each, each.data_ptr()) for each in read]
        ctx.loose = [(each, None if each.is_inference() else each._version) for each in loose]
        ctx.save_for_backward(*inputs[len(loose) :])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """The gradients of the inputs that need them."""
        call, wanted = ctx.call, ctx.needs_input_grad[1:]
        inputs = (*[each for each, _ in ctx.loose], *ctx.saved_tensors)
        given = [each for each in gradients if each is not None]
        if not given:
            return (None,) * (1 + len(wanted))
        if torch.is_grad_enabled() or not all(map(_is_usual, given)):
            _check_unchanged(ctx)
            return None, *_by_pytorch(call, inputs, gradients, wanted)
        ran, retain = ctx.ran, _keeps_graph()
        why = "saved-tensor hooks, such as checkpoints" if ran is None else _changed(ctx)
        if why:
            _check_unchanged(ctx)
            count_again(why)
            read = _aliases(call, inputs)
            ran = call.forward((*read, *inputs[1 + call.states :]), True)[1]
            ctx.ran, ctx.watched, ctx.read = ran, [], [(each, each.data_ptr()) for each in read]
        if not retain:
            ctx.ran = None
        return None, *call.backward(ran, inputs, gradients, wanted, retain)


# Recurrence.apply without PyTorch's look for torch.func's transforms, which every caller of `run` has done (4 us).
_apply = super(torch.autograd.Function, Recurrence).apply


def _is_usual(gradient: Any) -> bool:
    """Whether a gradient is an array of numbers: no batch of gradients (`is_grads_batched`), no subclass."""
    if core.are_plain_tensors((gradient,)) or is_plain(gradient, gradient.dtype):
        return True
    return type(gradient) is torch.Tensor and bool(gradient.is_neg() or gradient._is_zerotensor())


def _check_unchanged(ctx: Any) -> None:
    """Raise RuntimeError where a pass over inputs that are not saved would see other ones than the first pass."""
    if any(version is not None and each._version != version for each, version in ctx.loose):
        what = "x or the state was modified by an inplace operation, and backward needs it again"
        raise RuntimeError(f"{ctx.call.name}.backward: {what}, expected it as forward left it")


def _aliases(call: Call, inputs: Tensors) -> list[Any]:
    """x and the states as a tape reads them: their memory stays, also where a program gives a tensor another one."""
    return [each.detach() for each in inputs[: 1 + call.states]]


def _changed(ctx: Any) -> str:
    """How what the tape reads is no longer what it was, if so."""
    for y, version, at in ctx.watched:
        if y._version != version or y.data_ptr() != at:
            return "y was changed in place"
    for each, at in ctx.read:
        if each.data_ptr() != at:
            return "the memory of x or of a state has moved"
    return ""


def _by_pytorch(
    call: Call, inputs: Tensors, gradients: Sequence[Any], wanted: Sequence[bool]
) -> tuple[Any | None, ...]:
    """The gradients by PyTorch's own operation, which can be differentiated again."""
    if call.original is None:
        what = "create_graph=True or batched gradients of a call with dropout, lengths or resets"
        raise RuntimeError(f"{call.name}.backward: {what} are not implemented, expected plain gradients")
    count_again("create_graph=True or batched gradients, by PyTorch's operation")
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        again = [each.view_as(each) for each in inputs]  # one for each argument, also where two are the same tensor
        outputs = call.original(*again)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[1] is not None]
    found = iter(
        torch.autograd.grad(
            [pair[0] for pair in pairs],
            [each for each, want in zip(again, wanted, strict=True) if want],
            [pair[1] for pair in pairs],
            create_graph=create,
            allow_unused=True,
        )
    )
    return tuple([next(found) if want else None for want in wanted])
