# SPDX-License-Identifier: Apache-2.0
"""What stands in for PyTorch's recurrent operations, `torch._VF.lstm` and its kin.

Each takes the arguments of the operation it replaces. What the kernels cannot take goes to PyTorch's own operation,
which also raises the errors for wrong arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from bptt._dispatch import core
from bptt.torch.autograd import Call, run
from bptt.torch.compiling import uncompiled
from bptt.torch.counts import count_left, count_taken
from bptt.torch.coverage import covered
from bptt.torch.memory import DTYPES, are_plain, array_of, is_plain
from bptt.torch.network import Asked, Network, follow_threads, network_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bptt._arrays import Array

    Operation = Callable[..., Any]

OVER_TIME = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # the kernels have the same names for their cells
MISFIT = "shapes that do not fit"
_is_autocast = torch.is_autocast_enabled
_is_compiling = torch.compiler.is_compiling
_are_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_tracing = torch._C._get_tracing_state


def surroundings() -> str:
    """What around a call the kernels know nothing of, if there is anything."""
    if _is_compiling():
        return "inside torch.compile"
    if _tracing() is not None:
        return "torch.jit.trace"
    if _is_autocast("cpu"):
        return "autocast"
    if _are_transforms_active():
        return "torch.func transforms"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives"
    if _dispatch_modes():
        return "a dispatch mode"
    if _function_modes() and any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack()):
        return "a function mode"
    return ""


def refused(inputs: Sequence[Any]) -> str:
    """What of the tensors the kernels cannot take, if anything. inputs: x first."""
    if core.are_plain_tensors(tuple(inputs)):
        return ""
    dtype = inputs[0].dtype
    if dtype not in DTYPES:
        return f"dtype {str(dtype).removeprefix('torch.')}"
    if are_plain(inputs, dtype):
        return ""
    for each in inputs:
        if is_plain(each, dtype):
            continue
        if type(each) not in (torch.Tensor, torch.nn.Parameter):
            return f"a tensor of class {type(each).__name__}"
        if each.device.type != "cpu":
            return f"device {each.device.type}"
        return "different dtypes" if each.dtype is not dtype else "tensors that are not dense"
    return ""


def drawn_seed() -> int:
    """A seed for masks from PyTorch's generator, so that manual_seed reproduces them; never 0."""
    return int(torch.randint(1, 1 << 62, (), dtype=torch.int64).item())


class LeftError(Exception):
    """Ends the search for a network: `args[0]` says why a call is left to PyTorch."""


def _network(asked: Asked, inputs: Sequence[Any], states: int) -> Network:
    """The network that runs a call. inputs: x, states, weights. Raises: LeftError."""
    why = surroundings() or refused(inputs)
    if not why and not 0 <= asked.dropout < 1:
        why = "dropout of everything"
    if not why and not all(inputs[0].shape):
        why = "an empty input"
    network = None if why else network_of(asked, inputs[0].shape[-1], inputs[0].dtype, inputs[1 + states :])
    if network is None:
        raise LeftError(why or MISFIT)
    return network


def over_time(name: str, original: Operation) -> Operation:
    """The stand-in of an operation over time, of padded and of packed rows."""
    states = 2 if name == "lstm" else 1

    def operation(*args: Any, **named: Any) -> Any:
        if named or len(args) != 9:
            return original(*args, **named)
        if isinstance(args[3], (list, tuple)):  # packed rows
            x, sizes, hx, weights, bias, layers, dropout, train, two = args
            batch_first = False
        else:
            x, hx, weights, bias, layers, dropout, train, two, batch_first = args
            sizes = None
        if not covered.has_list(weights):
            return original(*args)
        try:
            inputs = (x, *hx, *weights) if states == 2 else (x, hx, *weights)
            drops = dropout if train and layers > 1 else 0.0
            network = _network(Asked(name, bias, layers, 2 if two else 1, drops), inputs, states)
            if sizes is None:
                if batch_first:
                    inputs = (x.transpose(0, 1), *inputs[1:])
                counts = None
                _check(network, inputs, 3, inputs[0].shape[1])
            else:
                counts = _batch_sizes(x, sizes)
                _check(network, inputs, 2, int(counts[0]))
        except LeftError as why:
            count_left(name, why.args[0])
            return original(*args)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # arguments of other kinds: its error
            return original(*args)
        options = None
        if counts is not None or not network.plain:
            options = network.options(inputs[0], counts, drawn_seed() if drops else 0)
        again = None
        if torch.is_grad_enabled() and not drops:
            again = _repeated(original, sizes, states, (bias, layers, 0.0, train, two))
        count_taken(name)
        follow_threads()
        outputs = run(Call(name, network, False, again, options), inputs)
        return (outputs[0].transpose(0, 1), *outputs[1:]) if batch_first else outputs

    return uncompiled(operation)


def cell(name: str, original: Operation) -> Operation:
    """The stand-in of an operation of one step: (x, hx, w_ih, w_hh, b_ih, b_hh), hx (h, c) of an LSTM."""
    of = name.removesuffix("_cell")
    states = 2 if of == "lstm" else 1

    def operation(*args: Any, **named: Any) -> Any:
        if named or not 4 <= len(args) <= 6 or not covered.has_cell(args[2]):
            return original(*args, **named)
        try:
            x, hx = args[:2]
            weights = [each for each in args[2:] if each is not None]
            inputs = (x, *hx, *weights) if states == 2 else (x, hx, *weights)
            if len(weights) == 3:
                raise LeftError(MISFIT)
            network = _network(Asked(of, len(weights) == 4, 1, 1, 0.0), inputs, states)
            shape = x.shape[0], network.structure.hidden_size
            if x.dim() != 2 or inputs[1].shape != shape or inputs[states].shape != shape:
                raise LeftError(MISFIT)
        except LeftError as why:
            count_left(name, why.args[0])
            return original(*args)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return original(*args)
        count_taken(name)
        follow_threads()
        outputs = run(Call(name, network, True, _repeated_cell(original, states)), inputs)
        return outputs if states == 2 else outputs[0]

    return uncompiled(operation)


def _check(network: Network, inputs: Sequence[Any], axes: int, B: int) -> None:
    """Raise LeftError unless x has this number of axes and the states are those of B rows."""
    kernels = network.kernels
    fits = inputs[0].dim() == axes
    for i, width in enumerate(network.widths):
        fits = fits and inputs[1 + i].shape == (kernels, B, width)
    if not fits:
        raise LeftError(MISFIT)


def _batch_sizes(x: Any, sizes: Any) -> Array:
    """The batch sizes [T] of packed rows, checked."""
    if not is_plain(sizes, torch.int64) or sizes.dim() != 1 or not len(sizes):
        raise LeftError(MISFIT)
    counts = array_of(sizes)
    if counts[-1] < 1 or (counts[1:] > counts[:-1]).any() or counts.sum() != len(x):
        raise LeftError(MISFIT)
    return counts


def _repeated(original: Operation, sizes: Any, states: int, rest: tuple[Any, ...]) -> Operation:
    """PyTorch's operation over time as a function of x [T,B,I] or packed rows, states and weights."""

    def again(x: Any, *others: Any) -> Any:
        hx = others[:2] if states == 2 else others[0]
        weights = list(others[states:])
        return original(x, hx, weights, *rest, False) if sizes is None else original(x, sizes, hx, weights, *rest)

    return again


def _repeated_cell(original: Operation, states: int) -> Operation:
    """The same of one step."""

    def again(x: Any, *others: Any) -> Any:
        return original(x, others[:2] if states == 2 else others[0], *others[states:])

    return again
