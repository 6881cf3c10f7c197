# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a model as in training, and backward passes that also give the gradient of every state.

All on a copy of the model: its parameters, and the random numbers of its next call of `forward`, stay as they are.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, as_floats, check_shape, shape_error
from bptt._engine.lengths import as_lengths, within
from bptt._engine.packed import Shape
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential
from bptt.train.model_and_loss import check_loss, check_model, loss_and_gradient

if TYPE_CHECKING:
    from typing import TypeAlias

    from bptt._arrays import Array, ArrayIn
    from bptt._engine.stack import State, StateIn
    from bptt._engine.tape import RecurrentTape
    from bptt.params import Params
    from bptt.train.model_and_loss import Loss, Model

    Steps: TypeAlias = dict[str, tuple[Array, ...]]  # by kernel, of each state: [T,B,R], then [T,B,H]


class _Observed:
    """A recurrent layer as a `Sequential` calls it, which keeps its input and, in backward, every state's gradient."""

    _has_state = True

    def __init__(self, layer: Recurrent) -> None:
        self.layer = layer
        self.x: Any = None
        self.dsteps: list[tuple[Array, ...]] = []  # of each kernel

    def forward(
        self, x: Any, state: StateIn, lengths: ArrayIn | None, resets: ArrayIn | None
    ) -> tuple[Any, State, RecurrentTape]:
        """As the layer's."""
        self.x = x
        return self.layer.forward(x, state, lengths, resets)

    def backward(self, tape: RecurrentTape, dy: Any, dstate: Any, grads: Params) -> tuple[Any, None, Params]:
        """As the layer's, but the tape stays usable, and neither parameters nor states get a gradient."""
        shown = tape.shown
        rows = as_floats("backward", "dy", shown.taken(dy), self.layer.params.dtype)
        dx, _, made = tape.stack.backward(
            tape.native, rows, None, None, retain=True, want_dstate=False, want_dsteps=True
        )
        self.dsteps = [states if isinstance(states, tuple) else (states,) for states in made]
        return shown.given(dx), None, grads

    _backward = backward  # what a Sequential calls


class Part(NamedTuple):
    """A recurrent layer of the model: its number, its input [T,B,I], and what it is called through."""

    number: int
    layer: Recurrent
    x: Array
    observed: _Observed


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
        self._twin: Any = None  # the model with its recurrent layers observed
        self._tape: Any = None
        self.x = array
        self.y = self._forward()
        self.reduces_time = self.model._reduces_time
        self.loss, self.dy = self._value_and_gradient()
        self.grads = self.model.params.zeros_like()

    def _forward(self) -> Array:
        if isinstance(self.model, Sequential):
            self._twin = copy.copy(self.model)  # of the same layers and parameters
            self._twin._called = tuple(
                _Observed(layer) if isinstance(layer, Recurrent) else called
                for layer, called in zip(self.layers, self.model._called, strict=True)
            )
            observed = list(self._twin._called)
        else:
            self._twin = _Observed(self.model)
            observed = [self._twin]
        y, _, self._tape = self._twin.forward(self.x, None, self.lengths, None)
        for number, each in enumerate(observed):
            if isinstance(each, _Observed):
                inside = as_floats(self.where, "x", self.shown.taken(as_array(self.where, "x", each.x)))
                self.parts.append(Part(number, each.layer, inside, each))
        result: Array = y
        return result

    def _value_and_gradient(self) -> tuple[float, Array]:
        where = self.where
        mask = None
        if self.lengths is not None and not self.reduces_time:
            mask = self.shown.given(within(self.lengths, self.T))
        value, gradient = loss_and_gradient(where, self._loss, self.y, self.target, mask)
        dy = as_floats(where, "dy", gradient, self.model.params.dtype)
        check_shape(where, "dy", dy, self.y.shape)
        return value, dy

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
        self._twin.backward(self._tape, dy, None, self.grads)
        return {
            name: states
            for part in self.parts
            for name, states in zip(kernel_names(part.number, part.layer), part.observed.dsteps, strict=True)
        }

    def in_time(self, dy: Array) -> Array:
        """An array like y as a view [T,B,...]."""
        return self.shown.taken(dy)

    def only_at(self, chosen: Array) -> Array:
        """The loss's gradient of y where `chosen` [T,B] is True, zeros elsewhere."""
        dy = np.zeros_like(self.dy)
        self.in_time(dy)[chosen] = self.in_time(self.dy)[chosen]
        return dy


def _check(where: str, model: Any, x: Any, loss: Any) -> None:
    check_model(where, model)
    if not any(isinstance(layer, Recurrent) for layer in model._layers):
        raise ValueError(f"{where}: model has no recurrent layer, expected at least one such as bptt.LSTM")
    if hasattr(x, "batch_sizes"):
        raise ValueError(f"{where}: x has packed rows, expected an array and lengths")
    check_loss(where, loss)
