# SPDX-License-Identifier: Apache-2.0
"""Networks as PyTorch's operations describe them: a list of weights, whose shapes give all sizes.

A network keeps no weights: each call packs those it is given. Its native stacks wait in a list between calls, so that
any number of threads can call at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bptt._dispatch import core
from bptt._engine.call_options import NativeOptions
from bptt._engine.kernels import new_stack
from bptt._engine.options import StateOptions
from bptt._engine.packed import Shape
from bptt._engine.states import States
from bptt._engine.structure import Structure
from bptt._precision import get_matmul_precision
from bptt._runtime import threads_chosen
from bptt.torch import openmp
from bptt.torch.memory import DTYPES, array_of, gradient_view, in_order, passing_view, tensor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from bptt import _core
    from bptt._arrays import Array, ArrayIn

    Options = list[_core.CallOptions] | None
    Tensors = tuple[Any, ...]

openmp.use_threads()
core.set_tensor_classes(torch.Tensor, torch.nn.Parameter, torch.from_numpy)

MOST_NETWORKS = 256  # after which those of old sizes are forgotten


class Asked(NamedTuple):
    """What an operation says of a network besides the shapes of its weights. dropout: between layers, of this call."""

    cell: str
    bias: bool
    num_layers: int
    num_directions: int
    dropout: float


class Ran(NamedTuple):
    """A forward pass that backward can follow: its stack and its tape, which may read y and have the weights."""

    stack: _core.Stack
    tape: _core.Tape
    reads_y: bool
    has_weights: bool = True


class Network:
    """The native stacks of one structure, and the options of its calls."""

    is_guest = True  # on PyTorch's threads, where there is a host (openmp.py)
    plain: bool  # whether a call without lengths and resets has no options
    direct: bool  # whether such a call reads tensors natively: only the cells of PyTorch do

    def __init__(self, structure: Structure, dropout: float) -> None:
        self.structure = structure
        self.widths, self.kernels, self._info = structure.widths, structure.kernels, structure.info
        self._states = len(self._info.states)
        self._gate_bias = self._info.vectors_are_bias and structure.bias  # a GRU's n has the second bias apart
        options = StateOptions.check("bptt.torch", structure.dtype, dropout=dropout, seed=0)
        self._options = NativeOptions(structure, options, States(structure, None))
        self.plain = self.direct = structure.num_directions == 1 and not dropout
        self._idle: list[_core.Stack] = []
        self.random = bool(dropout)

    def options(
        self, x: Any, sizes: Array | None, seed: int, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> Options:
        """The options of a call on x, whose shape alone counts. sizes [T]: of packed rows; seed: 0 for no masks."""
        if self.plain and sizes is None and lengths is None and resets is None:
            return None
        return self._options.make("bptt.torch", None, x, Shape(True, sizes=sizes), lengths, resets, seed)

    def forward(self, inputs: Tensors, one_step: bool, options: Options, training: bool) -> tuple[Tensors, Ran | None]:
        """The outputs, y and the final states, and in training what backward needs.

        Args:
            inputs: x, states, weights, in PyTorch's order.
            one_step: x [B,I] and states [B,.] of a cell, whose outputs are its states alone.
        """
        try:
            stack = self._idle.pop()
        except IndexError:
            stack = new_stack(self.structure)
            stack.is_guest = self.is_guest
        if options is None and self.direct:
            found = stack.forward_tensors(inputs, one_step, training)
            if found is not None:
                self._idle.append(stack)
                outputs, tape, reads_y, has_weights = found
                return outputs, None if tape is None else Ran(stack, tape, reads_y, has_weights)
        n = self._states
        view = array_of if training else passing_view  # a tape keeps them
        x, *states = [view(each)[None] if one_step else view(each) for each in inputs[: 1 + n]]
        stack.pack(self._parts(inputs[1 + n :]), training)
        y, final, tape = stack.forward(x, states[0] if n == 1 else tuple(states), training, options)
        self._idle.append(stack)
        ran = None if tape is None else Ran(stack, tape, not y.flags.writeable)
        last = final if isinstance(final, tuple) else (final,)
        made = [each[0] for each in last] if one_step else [y, *last]
        return tuple([tensor_of(each) for each in made]), ran

    def backward(
        self,
        ran: Ran,
        inputs: Tensors,
        gradients: Sequence[Any],
        one_step: bool,
        wanted: tuple[bool, ...],
        retain: bool,
    ) -> Sequence[Any]:
        """The gradients of the inputs, None for those that are not wanted.

        Args:
            inputs: as of forward; the weights are read where the tape has none.
            gradients: of the outputs, None for zeros.
        """
        if self.direct:
            given = tuple([None if each is None else in_order(each) for each in gradients])
            given = (None, *given) if one_step else given
            found: Sequence[Any] | None = ran.stack.backward_tensors(ran.tape, inputs, given, wanted, one_step, retain)
            if found is not None:
                return found
        n = self._states
        arrays = [None if each is None else gradient_view(each) for each in gradients]
        if one_step:
            arrays = [None, *[None if each is None else each[None] for each in arrays]]
        want_dx, want_dstates, want_weights = wanted[0], any(wanted[1 : 1 + n]), any(wanted[1 + n :])
        parts = self._gradients() if want_weights else None
        dx, dinitial = ran.stack.backward(
            ran.tape,
            arrays[0],
            self._whole(arrays[1:]),
            parts,
            retain=retain,
            want_dx=want_dx,
            want_dstate=want_dstates,
            weights=None if ran.has_weights else self._parts(inputs[1 + n :]),
        )
        made = [dx, *(dinitial if isinstance(dinitial, tuple) else (dinitial,) * n)]
        if one_step:
            made = [None if each is None else each[0] for each in made]
        made += [None] * (len(wanted) - 1 - n) if parts is None else self._in_order(parts)
        return [tensor_of(each) if want and each is not None else None for each, want in zip(made, wanted, strict=True)]

    def _whole(self, states: Sequence[Array | None]) -> Any:
        """The gradients of states as the stack takes them: zeros only where one of several is there."""
        given = [each for each in states if each is not None]
        if not given:
            return None
        if self._states == 1:
            return given[0]
        B, kernels = given[0].shape[1], self.structure.kernels
        return tuple(
            np.zeros((kernels, B, width), self.structure.dtype) if each is None else each
            for each, width in zip(states, self.widths, strict=True)
        )

    def _parts(self, weights: Sequence[Any]) -> list[Any]:
        """The parameters of each kernel, at their own addresses but for the biases, which are sums of two.

        The order of PyTorch's weights and the sums are also in csrc/bindings/tensor_calls.h, for calls without options.
        """
        bias, H = self.structure.bias, self.structure.hidden_size
        arrays, parts = [passing_view(each) for each in weights], []
        each = len(arrays) // self.structure.kernels
        for i in range(0, len(arrays), each):
            vectors = total = None
            if bias:
                first, second = arrays[i + 2], arrays[i + 3]
                total = first + second
                if self._gate_bias:
                    total[2 * H :] = first[2 * H :]
                    vectors = second[2 * H :].reshape(1, H)
            projection = arrays[i + each - 1] if self._info.projects else None
            parts.append((arrays[i], arrays[i + 1], total, vectors, projection))
        return parts

    def _gradients(self) -> list[Any]:
        """Room for the gradients of each kernel."""
        of = self.structure
        rows, H, R = len(self._info.gates) * of.hidden_size, of.hidden_size, of.output_size

        def room(*shape: int) -> Array:
            return np.empty(shape, of.dtype)

        return [
            (
                room(rows, of.inputs[k // of.num_directions]),
                room(rows, R),
                room(rows) if of.bias else None,
                room(1, H) if self._gate_bias else None,
                room(R, H) if self._info.projects else None,
            )
            for k in range(of.kernels)
        ]

    def _in_order(self, parts: list[Any]) -> list[Array]:
        """Gradients of the kernels as gradients of PyTorch's weights, each in its own memory."""
        found: list[Array] = []
        for weight_ih, weight_hh, bias, vectors, projection in parts:
            found += [weight_ih, weight_hh]
            if bias is not None:
                second = bias.copy()
                if vectors is not None:
                    second[2 * self.structure.hidden_size :] = vectors[0]
                found += [bias, second]
            if projection is not None:
                found.append(projection)
        return found


_networks: dict[Hashable, Network | None] = {}


def kept(key: Hashable, make: Callable[[], Network | None]) -> Network | None:
    """The network of a key, made when it is first asked for."""
    try:
        return _networks[key]
    except KeyError:
        pass
    if len(_networks) >= MOST_NETWORKS:
        _networks.clear()
    return _networks.setdefault(key, make())


def network_of(asked: Asked, input_size: int, dtype: Any, weights: Sequence[Any]) -> Network | None:
    """The network of these weights; None where their shapes are not those of one."""

    def make() -> Network | None:
        structure = structure_of(asked, input_size, dtype, [tuple(each.shape) for each in weights])
        return None if structure is None else Network(structure, asked.dropout)

    return kept((asked, input_size, dtype, get_matmul_precision(), *[each.shape for each in weights]), make)


def structure_of(asked: Asked, input_size: int, dtype: Any, shapes: list[tuple[int, ...]]) -> Structure | None:
    """The structure whose weights have these shapes, if there is one."""
    if len(shapes) < 2 or len(shapes[1]) != 2 or asked.num_layers < 1 or input_size < 1:
        return None
    gates = len(core.cell_info(asked.cell).gates)
    rows, width = shapes[1]
    H = rows // gates
    projected = asked.cell == "lstm" and width != H
    if H < 1 or not (width == H or (projected and 1 <= width < H)):
        return None
    structure = Structure(
        "lstm_projected" if projected else asked.cell,
        DTYPES[dtype],
        input_size,
        H,
        width if projected else 0,
        asked.num_layers,
        asked.num_directions,
        asked.bias,
        precision=get_matmul_precision(),
    )
    expected: list[tuple[int, ...]] = []
    for k in range(structure.kernels):
        expected += [(gates * H, structure.inputs[k // asked.num_directions]), (gates * H, width)]
        expected += [(gates * H,)] * (2 * asked.bias)
        expected += [(width, H)] * projected
    return structure if shapes == expected else None


def follow_threads() -> None:
    """Use as many threads as PyTorch does, unless the program has chosen a number for bptt."""
    n = torch.get_num_threads()
    if n != core.get_num_threads() and not threads_chosen():
        core.set_num_threads(min(n, core.max_threads))
