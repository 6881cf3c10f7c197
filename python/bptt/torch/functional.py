# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent operations as functions, with what its layers cannot say: lengths and resets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bptt._arrays import check_bool, check_number
from bptt.torch import network
from bptt.torch.autograd import Call, run
from bptt.torch.compiling import ends_graph
from bptt.torch.counts import count_taken
from bptt.torch.graph import in_graph, register
from bptt.torch.network import Network, follow_threads
from bptt.torch.operations import drawn_seed, refused, surroundings
from bptt.torch.variants import NoBackward, Variant, variant_network

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
    form = Form("bptt.torch.lstm", "lstm", bidirectional, batch_first, dropout)
    y, *final = call(form, x, state, weights, lengths, resets)
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
    form = Form("bptt.torch.gru", "gru", bidirectional, batch_first, dropout)
    y, h = call(form, x, state, weights, lengths, resets)
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
    form = Form("bptt.torch.rnn", f"rnn_{nonlinearity}", bidirectional, batch_first, dropout)
    y, h = call(form, x, state, weights, lengths, resets)
    return y, h


class Form(NamedTuple):
    """A call besides its tensors. cell: as of the kernels; sizes: the batch sizes of packed rows.

    variant: of a layer that is not PyTorch's; training: whether it draws masks, other than those of dropout.
    """

    where: str
    cell: str
    bidirectional: bool
    batch_first: bool
    dropout: float
    sizes: Any = None
    variant: Variant | None = None
    training: bool = True


def call(form: Form, x: Any, state: Any, weights: Sequence[Any], lengths: Any, resets: Any) -> tuple[Any, ...]:
    """y and the final states; what `lstm`, `gru` and `rnn` say of the arguments."""
    if torch.compiler.is_compiling() and form.variant is None and form.sizes is None:
        return _traced(form, x, state, weights, lengths, resets)
    return _call_now(form, x, state, weights, lengths, resets)


@ends_graph
def _call_now(form: Form, x: Any, state: Any, weights: Sequence[Any], lengths: Any, resets: Any) -> tuple[Any, ...]:
    where = form.where
    for each in (x, *weights):
        if not isinstance(each, torch.Tensor):
            raise TypeError(f"{where}: an argument has type {type(each).__name__}, expected tensors")
    _check_x(form, x)
    why = surroundings()
    if why:
        raise RuntimeError(f"{where}: is called under {why}, expected a plain call: torch.nn's layers take those")
    sizes = None if form.sizes is None else form.sizes.numpy()
    batch_first = check_bool(where, "batch_first", form.batch_first) and sizes is None
    if batch_first:
        x = x.transpose(0, 1)
    found, inputs = _checked(form, x, x.shape[1] if sizes is None else int(sizes[0]), state, weights)
    options = found.options(
        x,
        sizes,
        drawn_seed() if found.random else 0,
        None if lengths is None else _array(lengths),
        None if resets is None else _turned(_array(resets), batch_first),
    )
    count_taken(form.cell.split("_")[0])
    follow_threads()
    again = Call(where, found, False, None, options)
    outputs: tuple[Any, ...]
    if form.variant is not None and any(form.variant.zoneout) and not form.training and torch.is_grad_enabled():
        outputs = NoBackward.apply(again, *inputs)
    else:
        outputs = run(again, inputs)
    return (outputs[0].transpose(0, 1), *outputs[1:]) if batch_first else outputs


def _traced(form: Form, x: Any, state: Any, weights: Sequence[Any], lengths: Any, resets: Any) -> tuple[Any, ...]:
    """The same where torch.compile records a graph: what follows is traced, and checked when the graph runs."""
    if form.batch_first:
        x = x.transpose(0, 1)
    lengths = None if lengths is None else torch.as_tensor(lengths)
    if resets is not None:
        resets = torch.as_tensor(resets)
        resets = resets.transpose(0, 1) if form.batch_first else resets
    widths = _widths(form.cell, weights)
    if state is None:
        each = 2 + sum([weight.dim() == 1 for weight in weights[2:4]]) + (len(widths) == 2 and widths[0] != widths[1])
        rows = len(weights) // each
        states = [x.new_zeros(rows, x.shape[1], width) for width in widths]
    else:
        states = [*state] if len(widths) == 2 else [state]
    outputs = in_graph(form.cell, x, states, weights, form.bidirectional, form.dropout, lengths, resets)
    return (outputs[0].transpose(0, 1), *outputs[1:]) if form.batch_first else outputs


def _widths(cell: str, weights: Sequence[Any]) -> list[int]:
    """The widths of the states, as weight_hh [G*H,R] says them."""
    R = weights[1].shape[1]
    return [R, weights[1].shape[0] // 4] if cell == "lstm" else [R]


def _prepared(
    x: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    cell: str,
    bidirectional: bool,
    dropout: float,
    seed: Any,
    lengths: Any,
    resets: Any,
) -> tuple[Network, Options]:
    """The network and the options of a call in a graph, checked."""
    form = Form(f"bptt.torch.{cell.split('_')[0]}", cell, bidirectional, False, dropout)
    _check_x(form, x)
    found = _checked(form, x, x.shape[1], states if len(states) > 1 else states[0], weights)[0]
    given = [None if each is None else _array(each) for each in (lengths, resets)]
    return found, found.options(x, None, 0 if seed is None else int(seed), *given)


register(_prepared)


def _check_x(form: Form, x: Any) -> None:
    packed = form.sizes is not None
    if x.dim() != 3 - packed or not all(x.shape):
        axes = "(sum, I)" if packed else "(B, T, I)" if form.batch_first else "(T, B, I)"
        raise ValueError(f"{form.where}: x has shape {tuple(x.shape)}, expected {axes} without a size of 0")


def _checked(form: Form, x: Any, B: int, state: Any, weights: Sequence[Any]) -> tuple[Network, tuple[Any, ...]]:
    """The network of a call of B rows, and its tensors: x, states, weights."""
    _check_dense(form.where, (x, *weights))
    found = _network(form, x, list(weights))
    inputs = (x, *_states(form.where, found, B, x, state), *weights)
    _check_dense(form.where, inputs)
    return found, inputs


def _check_dense(where: str, tensors: tuple[Any, ...]) -> None:
    why = refused(tensors)
    if why:
        raise TypeError(f"{where}: has {why}, expected dense tensors of one dtype, float32 or float64, on the CPU")


def _network(form: Form, x: Any, weights: list[Any]) -> Network:
    """The network of these weights. How many a layer has follows from the place of the next weight_hh."""
    where, cell = form.where, form.cell
    D = 2 if check_bool(where, "bidirectional", form.bidirectional) else 1
    dropout = check_number(where, "dropout", form.dropout, 0.0, 1.0)
    bias = len(weights) > 2 and weights[2].dim() == 1
    projected = cell == "lstm" and len(weights) > 1 and weights[1].dim() == 2
    projected = projected and weights[1].shape[0] != 4 * weights[1].shape[1]
    further = 0 if form.variant is None else len(form.variant.extra(cell))
    each = (2 + 2 * bias + projected + further) * D
    layers = len(weights) // each
    found: Network | None = None
    if layers and len(weights) % each == 0:
        shape = network.Asked(cell, bias, layers, D, dropout if layers > 1 else 0.0)
        if form.variant is None:
            found = network.network_of(shape, x.shape[-1], x.dtype, weights)
        else:
            found = variant_network(shape, form.variant, form.training, x, weights)
    if found is None:
        shapes = ", ".join(str(tuple(each.shape)) for each in weights[:5])
        has = f"weights has {len(weights)} tensors of shapes {shapes}{', ...' if len(weights) > 5 else ''}"
        raise ValueError(f"{where}: {has}, expected those of torch.nn's layer for {x.shape[-1]} features")
    return found


def _states(where: str, network: Network, B: int, x: Any, state: Any) -> tuple[Any, ...]:
    """The initial states, checked."""
    of = network.structure
    shapes = [(of.kernels, B, width) for width in of.widths]
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


def _turned(resets: Any, batch_first: bool) -> Array:
    """Resets as [T,B]."""
    flags: Array = np.asarray(resets)
    return flags.T if batch_first else flags
