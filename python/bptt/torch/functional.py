# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent operations as functions, with what its layers cannot say: lengths and resets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bptt._arrays import check_bool, check_number
from bptt.torch.autograd import Call, run
from bptt.torch.compiling import ends_graph
from bptt.torch.counts import count_taken
from bptt.torch.graph import in_graph, register
from bptt.torch.network import Asked, Network, follow_threads, network_of
from bptt.torch.operations import drawn_seed, refused, surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt._arrays import Array
    from bptt.torch.network import Options

__all__ = ["gru", "lstm", "rnn"]


def lstm(
    x: Any,
    state: tuple[Any, Any] | None,
    weights: Sequence[Any],
    *,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: Any = None,
    resets: Any = None,
) -> tuple[Any, tuple[Any, Any]]:
    """An LSTM on tensors, in PyTorch's graph.

    Args:
        x: [T,B,I], or [B,T,I] with batch_first; float32 or float64, on the CPU.
        state: (h, c), h [L*D,B,R] and c [L*D,B,H]; None for zeros.
        weights: in the order of `torch.nn.LSTM.all_weights`, layer by layer, forward before reverse: weight_ih [4H,I],
            weight_hh [4H,R], both biases [4H] or neither, and with a projection weight_hr [R,H]. All sizes follow.
        bidirectional, batch_first: as of torch.nn.LSTM, default False.
        dropout: between layers, default 0. The masks are drawn from PyTorch's generator.
        lengths: [B] integers from 0 to T: row b has lengths[b] steps, later ones are not read, and y is zero there.
            Default None, all rows have T.
        resets: [T,B] booleans (as x): where True, a row starts again from zeros before that step, and no gradient
            passes; the reverse direction starts again after it. Default None.

    Returns: y [T,B,D*R] (as x), and the final state (h, c).
    Raises: ValueError for a wrong shape, TypeError for tensors that the kernels cannot take, RuntimeError inside
        autocast, torch.func transforms and the like.

    >>> import torch, bptt.torch
    >>> layer, x = torch.nn.LSTM(3, 4), torch.ones(5, 2, 3)
    >>> y, (h, c) = bptt.torch.lstm(x, None, list(layer.parameters()), lengths=[5, 2])
    >>> y.shape, bool((y[2:, 1] == 0).all()), bool((h[0, 1] == y[1, 1]).all())
    (torch.Size([5, 2, 4]), True, True)
    """
    y, *final = _run("lstm", x, state, weights, bidirectional, batch_first, dropout, lengths, resets)
    return y, (final[0], final[1])


def gru(
    x: Any,
    state: Any,
    weights: Sequence[Any],
    *,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: Any = None,
    resets: Any = None,
) -> tuple[Any, Any]:
    """A GRU on tensors, in PyTorch's graph.

    Args: as of `lstm`; state h [L*D,B,H]; of each layer and direction weight_ih [3H,I], weight_hh [3H,H], both biases
        [3H] or neither.
    Returns: y [T,B,D*H] (as x), and the final state h.
    Raises: as `lstm`.

    >>> import torch, bptt.torch
    >>> layer, x = torch.nn.GRU(3, 4), torch.ones(5, 1, 3)
    >>> resets = torch.tensor([[False], [False], [True], [False], [False]])
    >>> y, h = bptt.torch.gru(x, None, list(layer.parameters()), resets=resets)
    >>> bool((y[2] == y[0]).all())
    True
    """
    y, h = _run("gru", x, state, weights, bidirectional, batch_first, dropout, lengths, resets)
    return y, h


def rnn(
    x: Any,
    state: Any,
    weights: Sequence[Any],
    *,
    nonlinearity: str = "tanh",
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: Any = None,
    resets: Any = None,
) -> tuple[Any, Any]:
    """A simple RNN on tensors, in PyTorch's graph.

    Args: as of `lstm`; state h [L*D,B,H]; nonlinearity "tanh" (default) or "relu"; of each layer and direction
        weight_ih [H,I], weight_hh [H,H], both biases [H] or neither.
    Returns: y [T,B,D*H] (as x), and the final state h.
    Raises: as `lstm`.

    >>> import torch, bptt.torch
    >>> layer, x = torch.nn.RNN(3, 4, nonlinearity="relu"), torch.ones(5, 1, 3)
    >>> y, h = bptt.torch.rnn(x, None, list(layer.parameters()), nonlinearity="relu")
    >>> bool((y[-1] == h[0]).all())
    True
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"bptt.torch.rnn: nonlinearity has value {nonlinearity!r}, expected 'tanh' or 'relu'")
    y, h = _run(f"rnn_{nonlinearity}", x, state, weights, bidirectional, batch_first, dropout, lengths, resets)
    return y, h


def _run(
    name: str,
    x: Any,
    state: Any,
    weights: Sequence[Any],
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
    lengths: Any,
    resets: Any,
) -> tuple[Any, ...]:
    if torch.compiler.is_compiling():
        return _run_in_graph(name, x, state, weights, bidirectional, batch_first, dropout, lengths, resets)
    return _run_now(name, x, state, weights, bidirectional, batch_first, dropout, lengths, resets)


@ends_graph
def _run_now(
    name: str,
    x: Any,
    state: Any,
    weights: Sequence[Any],
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
    lengths: Any,
    resets: Any,
) -> tuple[Any, ...]:
    where = _where(name)
    tensors = (x, *weights)
    for each in tensors:
        if not isinstance(each, torch.Tensor):
            raise TypeError(f"{where}: an argument has type {type(each).__name__}, expected tensors")
    _check_x(where, x, batch_first)
    why = surroundings()
    if why:
        raise RuntimeError(f"{where}: is called under {why}, expected a plain call: torch.nn's layers take those")
    if check_bool(where, "batch_first", batch_first):
        x = x.transpose(0, 1)
        resets = None if resets is None else _turned(_array(resets))
    network = _network(where, name, x, weights, bidirectional, dropout)
    states = _states(where, network, x, state)
    seed = drawn_seed() if network.random else 0
    options = _options(where, network, (x, *states, *weights), seed, lengths, resets)
    count_taken(where.removeprefix("bptt.torch."))
    follow_threads()
    outputs = run(Call(where, network, False, None, options), (x, *states, *weights))
    return (outputs[0].transpose(0, 1), *outputs[1:]) if batch_first else outputs


def _run_in_graph(
    name: str,
    x: Any,
    state: Any,
    weights: Sequence[Any],
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
    lengths: Any,
    resets: Any,
) -> tuple[Any, ...]:
    """The same where torch.compile records a graph: what follows is traced, and checked when the graph runs."""
    if batch_first:
        x = x.transpose(0, 1)
    lengths = None if lengths is None else torch.as_tensor(lengths)
    if resets is not None:
        resets = torch.as_tensor(resets)
        resets = resets.transpose(0, 1) if batch_first else resets
    widths = _widths(name, weights)
    if state is None:
        each = 2 + sum([weight.dim() == 1 for weight in weights[2:4]]) + (len(widths) == 2 and widths[0] != widths[1])
        rows = len(weights) // each
        states = [x.new_zeros(rows, x.shape[1], width) for width in widths]
    else:
        states = [*state] if len(widths) == 2 else [state]
    outputs = in_graph(name, x, states, weights, bidirectional, dropout, lengths, resets)
    return (outputs[0].transpose(0, 1), *outputs[1:]) if batch_first else outputs


def _widths(name: str, weights: Sequence[Any]) -> list[int]:
    """The widths of the states, as weight_hh [G*H,R] says them."""
    R = weights[1].shape[1]
    return [R, weights[1].shape[0] // 4] if name == "lstm" else [R]


def _prepared(
    x: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    name: str,
    bidirectional: bool,
    dropout: float,
    seed: Any,
    lengths: Any,
    resets: Any,
) -> tuple[Network, Options]:
    """The network and the options of a call in a graph, checked."""
    where = _where(name)
    _check_x(where, x, False)
    network = _network(where, name, x, weights, bidirectional, dropout)
    inputs = (x, *_states(where, network, x, states if len(states) > 1 else states[0]), *weights)
    return network, _options(where, network, inputs, 0 if seed is None else int(seed), lengths, resets)


register(_prepared)


def _where(name: str) -> str:
    return f"bptt.torch.{name.removesuffix('_tanh').removesuffix('_relu')}"


def _check_x(where: str, x: Any, batch_first: bool) -> None:
    if x.dim() != 3 or not all(x.shape):
        axes = "(B, T, I)" if batch_first else "(T, B, I)"
        raise ValueError(f"{where}: x has shape {tuple(x.shape)}, expected {axes} without a size of 0")


def _options(where: str, network: Network, inputs: tuple[Any, ...], seed: int, lengths: Any, resets: Any) -> Options:
    """The options of a call. inputs: x [T,B,I], states, weights. resets: [T,B]."""
    why = refused(inputs)
    if why:
        raise TypeError(f"{where}: has {why}, expected dense tensors of one dtype, float32 or float64, on the CPU")
    flags = None if resets is None else np.asarray(_array(resets))
    return network.options(inputs[0], None, seed, None if lengths is None else _array(lengths), flags)


def _network(where: str, name: str, x: Any, weights: Sequence[Any], bidirectional: bool, dropout: float) -> Network:
    """The network of these weights. How many a layer has follows from the place of the next weight_hh."""
    D = 2 if check_bool(where, "bidirectional", bidirectional) else 1
    dropout = check_number(where, "dropout", dropout, 0.0, 1.0)
    weights = list(weights)
    bias = len(weights) > 2 and weights[2].dim() == 1
    projected = name == "lstm" and len(weights) > 1 and weights[1].dim() == 2
    projected = projected and weights[1].shape[0] != 4 * weights[1].shape[1]
    each = (2 + 2 * bias + projected) * D
    layers = len(weights) // each
    why = refused((x, *weights))
    if why:
        raise TypeError(f"{where}: has {why}, expected dense tensors of one dtype, float32 or float64, on the CPU")
    found = None
    if layers and len(weights) % each == 0:
        asked = Asked(name, bias, layers, D, dropout if layers > 1 else 0.0)
        found = network_of(asked, x.shape[-1], x.dtype, weights)
    if found is None:
        shapes = ", ".join(str(tuple(each.shape)) for each in weights[:5])
        has = f"weights has {len(weights)} tensors of shapes {shapes}{', ...' if len(weights) > 5 else ''}"
        raise ValueError(f"{where}: {has}, expected those of torch.nn's layer for {x.shape[-1]} features")
    return found


def _states(where: str, network: Network, x: Any, state: Any) -> tuple[Any, ...]:
    """The initial states, checked."""
    of = network.structure
    shapes = [(of.kernels, x.shape[1], width) for width in of.widths]
    if state is None:
        return tuple([torch.zeros(shape, dtype=x.dtype, device="cpu") for shape in shapes])
    given = tuple(state) if len(shapes) > 1 and isinstance(state, (tuple, list)) else (state,)
    if len(given) != len(shapes) or not all(isinstance(each, torch.Tensor) for each in given):
        expected = "the tuple (h, c)" if len(shapes) > 1 else "a tensor"
        raise TypeError(f"{where}: state has type {type(state).__name__} of length {len(given)}, expected {expected}")
    for each, shape in zip(given, shapes, strict=True):
        if each.shape != shape:
            raise ValueError(f"{where}: state has shape {tuple(each.shape)}, expected {shape}")
    return given


def _array(value: Any) -> Any:
    """An array of NumPy's, of a tensor; other values as they are."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _turned(resets: Any) -> Array:
    """Resets [B,T] as [T,B]."""
    flags: Array = np.asarray(resets)
    return flags.T
