# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a model as in training, and backward passes that also give the gradient of every state.

All on a copy of the model: its parameters, and the random numbers of its next call of `forward`, stay as they are.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, as_floats, check_shape, is_number, kind_of, shape_error
from bptt._engine.call_options import as_lengths
from bptt._engine.packed import Shape
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from bptt._arrays import Array, ArrayIn
    from bptt._engine.tape import RecurrentTape
    from bptt.params import Params

    Model: TypeAlias = Sequential | Recurrent
    Loss: TypeAlias = Callable[..., tuple[float, Array]]
    Steps: TypeAlias = dict[str, tuple[Array, ...]]  # by kernel, of each state: [T,B,R], then [T,B,H]


class Part(NamedTuple):
    """A recurrent layer of the model: its number, its input [T,B,I] and the tape of its forward pass."""

    number: int
    layer: Recurrent
    x: Array
    tape: RecurrentTape


def kernel_names(number: int, layer: Recurrent) -> list[str]:
    """A name for each kernel of a layer: "0", or "0_l1_reverse" where the layer has several."""
    D = layer.num_directions
    if layer._stack.structure.kernels == 1:
        return [str(number)]
    return [f"{number}_l{j // D}" + "_reverse" * (j % D) for j in range(layer._stack.structure.kernels)]


class Run:
    """The forward pass of a copy of a model, with its loss, and any number of backward passes.

    where: the operation, for errors. Others are as of `bptt.gradient_flow`.
    """

    def __init__(
        self, where: str, model: Model, x: ArrayIn, target: Any, loss: Loss, lengths: ArrayIn | None = None
    ) -> None:
        _check(where, model, x, loss)
        self.where = where
        self.model: Model = copy.deepcopy(model)
        self.layers: tuple[Any, ...] = self.model._layers
        array = as_array(where, "x", x)
        features = bool(self.layers[0]._has_features)  # others take ids
        self.shown = Shape(array.ndim > 1 + features, self.model.batch_first)
        if array.ndim < 1 + features or not array.size:
            raise shape_error(where, "x", array, "at least one step of at least one row")
        lead = self.shown.taken(array).shape[:2]
        self.T, self.B = lead[0], lead[1]
        self.lengths = None if lengths is None else as_lengths(where, lengths, self.B, self.T)
        self.target = target
        self._loss = loss
        self.parts: list[Part] = []
        self._tapes: list[Any] = []
        self.x = array
        self.y = self._forward(array)
        self.reduces_time = bool(getattr(self.model, "_reduces_time", False))
        self.loss, self.dy = self._value_and_gradient()
        self.grads = self.model.params.zeros_like()

    def _forward(self, x: Array) -> Array:
        flow: Any = x
        for number, layer in enumerate(self.layers):
            if isinstance(layer, Recurrent):
                given = flow
                flow, _, tape = layer.forward(flow, None, self.lengths)
                inside = as_floats(self.where, "x", self.shown.taken(as_array(self.where, "x", given)))
                self.parts.append(Part(number, layer, inside, tape))
            else:
                flow, tape = layer.forward(flow)
            self._tapes.append(tape)
        result: Array = flow
        return result

    def _value_and_gradient(self) -> tuple[float, Array]:
        where = self.where
        masks = []
        if self.lengths is not None and not self.reduces_time:
            masks = [self.shown.given(np.arange(self.T)[:, np.newaxis] < self.lengths)]
        result = self._loss(self.y, self.target, *masks)
        if not isinstance(result, (tuple, list)) or len(result) != 2 or not is_number(result[0]):
            has = f"returned {type(result).__name__}"
            raise TypeError(f"{where}: loss {has}, expected (value, gradient with respect to y)")
        dy = as_floats(where, "dy", result[1], self.model.params.dtype)
        check_shape(where, "dy", dy, self.y.shape)
        return float(result[0]), dy

    @property
    def finite(self) -> bool:
        """Whether the loss and its gradient are finite."""
        return math.isfinite(self.loss) and bool(np.isfinite(self.dy).all())

    @property
    def random(self) -> bool:
        """Whether a forward pass draws masks."""
        dropped = any(getattr(layer, "p", 0) for layer in self.layers)
        return bool(dropped) or any(part.layer._stack.state_options.random for part in self.parts)

    def names(self) -> list[str]:
        """The names of all kernels."""
        return [name for part in self.parts for name in kernel_names(part.number, part.layer)]

    def steps(self, dy: Array) -> Steps:
        """The gradient of every state as it leaves each step, by kernel, for this gradient of y."""
        found: Steps = {}
        flow: Any = dy
        parts = list(self.parts)
        for number in reversed(range(len(self.layers))):
            layer, tape = self.layers[number], self._tapes[number]
            if not parts:
                break  # an Embedding in front takes no gradient to a state
            if parts[-1].number != number:
                flow, _ = layer.backward(tape, flow, self._window(number))
                continue
            parts.pop()
            shown = tape.shown
            rows = as_floats(self.where, "dy", shown.taken(flow), self.model.params.dtype)
            dx, _, made = tape.stack.backward(
                tape.native, rows, None, None, retain=True, want_dx=bool(parts), want_dstate=False, want_dsteps=True
            )
            for name, states in zip(kernel_names(number, layer), made, strict=True):
                found[name] = states if isinstance(states, tuple) else (states,)
            flow = None if dx is None else shown.given(dx)
        return {name: found[name] for name in self.names()}

    def _window(self, number: int) -> Params:
        return self.grads.window(f"{number}.") if isinstance(self.model, Sequential) else self.grads

    def in_time(self, dy: Array) -> Array:
        """An array like y as a view [T,B,...]."""
        return self.shown.taken(dy)

    def only_at(self, chosen: Array) -> Array:
        """The loss's gradient of y where `chosen` [T,B] is True, zeros elsewhere."""
        dy = np.zeros_like(self.dy)
        self.in_time(dy)[chosen] = self.in_time(self.dy)[chosen]
        return dy


def _check(where: str, model: Any, x: Any, loss: Any) -> None:
    if not isinstance(model, (Sequential, Recurrent)):
        raise TypeError(f"{where}: model {kind_of(model)}, expected a Sequential or a recurrent layer")
    if model._one_step:
        raise TypeError(f"{where}: model has cells, which take one step, expected layers over time")
    if not any(isinstance(layer, Recurrent) for layer in model._layers):
        raise ValueError(f"{where}: model has no recurrent layer, expected at least one such as bptt.LSTM")
    if hasattr(x, "batch_sizes"):
        raise ValueError(f"{where}: x has packed rows, expected an array and lengths")
    if not callable(loss):
        expected = "a function such as bptt.losses.mse"
        raise TypeError(f"{where}: loss has type {type(loss).__name__}, expected {expected}")
