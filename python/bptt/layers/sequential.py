# SPDX-License-Identifier: Apache-2.0
"""Sequential: layers one after the other, with one state per recurrent layer and all parameters in one buffer.

Adds no equation. Its tape consists of the layers' tapes, so that it is as re-entrant as they are.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

from bptt._arrays import check_tuple, kind_of
from bptt._engine.packed import Packed, as_packed, returned_like
from bptt._engine.tape import Tape
from bptt.layers.base import Layer, Stateless
from bptt.layers.cells import RecurrentCell
from bptt.layers.last import Last
from bptt.layers.over_time import OverTime
from bptt.layers.quantized import Quantized
from bptt.layers.recurrent import Recurrent
from bptt.layers.streams import SequentialStream
from bptt.params import Params

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bptt._arrays import Array, ArrayIn
    from bptt._engine.stack import State, StateIn

    States: TypeAlias = tuple[State, ...]
    StatesIn: TypeAlias = Sequence[StateIn] | None

__all__ = ["Sequential"]


class SequentialTape(Tape):
    """The tapes of all layers, in order."""

    __slots__ = ("tapes",)

    def __init__(self, layer: Sequential, tapes: list[Tape]) -> None:
        self.layer = layer
        self.tapes = tapes


class Sequential(Layer):
    """Feed each layer the output of the one before.

        y = layer_n(... layer_1(layer_0(x)))

    Args: layers, each recurrent or stateless, of one dtype; each takes as many features as the one before gives, and an
        Embedding can only come first. Their parameters move into one buffer, and each layer stays usable as a view of
        it. copy.deepcopy makes an independent model; copy.copy another one of the same layers and parameters.
    Parameters: those of layer k, named "k.name". Layers share no weights; the last example below ties two.
    Call: `y, state = model(x, state=None)`, `y, state, tape = model.forward(x, state=None)`,
        `dx, dstate, grads = model.backward(tape, dy, dstate=None)`; lengths and resets go to each recurrent layer, as
        in `LSTM.forward`, and to `Last` (y of a stateless layer is not zero beyond a row's end: mask the loss);
        `Packed` rows pass through all layers. state is a tuple with the state of each recurrent layer, in order; None
        stands for zeros, as a whole or for one of them. dx is None where an Embedding is first.
        Of cells in the place of recurrent layers, x and y are one step [B,.]; there are no lengths, resets or streams.
    Raises: ValueError for sizes that do not fit, a layer that occurs twice or belongs to a Sequential already;
        TypeError for anything but a layer, or for another dtype.

    >>> import numpy as np
    >>> from bptt import Embedding, GRU, Linear
    >>> model = Sequential(Embedding(10, 3), GRU(3, 4), Linear(4, 10))
    >>> y, (h,) = model(np.zeros((5, 2), int))
    >>> y.shape, h.shape, list(model.params)[:2]
    ((5, 2, 10), (1, 2, 4), ['0.weight', '1.weight_ih_l0'])

    One weight of two layers: add the gradient of the second to that of the first, and copy the first after each step:

    >>> from bptt import losses, optim
    >>> tied, adam = Sequential(Embedding(10, 4), GRU(4, 4), Linear(4, 10, bias=False)), optim.Adam()
    >>> tied.params["2.weight"] = tied.params["0.weight"]
    >>> y, state, tape = tied.forward(np.zeros((5, 2), int))
    >>> grads = tied.backward(tape, losses.cross_entropy(y, np.ones((5, 2), int))[1])[2]
    >>> grads["0.weight"] += grads["2.weight"]
    >>> grads["2.weight"][:] = 0
    >>> info = adam.step(tied.params, grads)
    >>> tied.params["2.weight"] = tied.params["0.weight"]
    """

    def __init__(self, *layers: OverTime | RecurrentCell | Stateless) -> None:
        if not layers:
            raise ValueError("Sequential: layers has length 0, expected at least one")
        for k, layer in enumerate(layers):
            if not isinstance(layer, (OverTime, RecurrentCell, Stateless)):
                raise TypeError(f"Sequential: layer {k} {kind_of(layer)}, expected a layer; models cannot be nested")
            what = f"Sequential: layer {k}, {type(layer).__name__},"
            twin = next((j for j, other in enumerate(layers[:k]) if other.params is layer.params), None)
            if twin is not None:
                own = "expected its own: copy.deepcopy(layer) makes them; help(bptt.Sequential) says how to tie weights"
                raise ValueError(f"{what} has the parameters of layer {twin}, {own}")
            if layer.params.joined:
                own = "expected another layer: copy.deepcopy(layer) makes one"
                raise ValueError(f"{what} belongs to a Sequential already, {own}")
            if k and layer._has_features is False:
                has = f"has type {type(layer).__name__}"
                raise ValueError(f"Sequential: layer {k} {has}, expected it at the front only")
        _check_sizes(layers)
        over_time = [layer for layer in layers if isinstance(layer, (OverTime, Last))]
        self._one_step = any(layer._one_step for layer in layers)
        self._reduces_time = any(layer._reduces_time for layer in layers)
        if self._one_step and over_time:
            raise ValueError("Sequential: layers has cells and layers over time, expected one kind: x has one shape")
        _check_time(layers)
        if len({layer.batch_first for layer in over_time}) > 1:
            raise ValueError("Sequential: layers differ in batch_first, expected one value")
        self.layers = layers
        self._called: tuple[Any, ...] = tuple(layer._in_sequence() for layer in layers)
        self._states_count = sum(layer._has_state for layer in layers)
        self._batch_first = any(layer.batch_first for layer in over_time)
        self._prefixes = tuple(f"{k}." for k in range(len(layers)))
        floats = {str(k): layer.params for k, layer in enumerate(layers) if not isinstance(layer, Quantized)}
        self.params = Params.join(floats)

    @property
    def batch_first(self) -> bool:
        """Whether x and y are [B,T,.]."""
        return self._batch_first

    def __call__(
        self, x: Any, state: StatesIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, States]:
        """Inference: stores no tape and drops nothing."""
        states = self._states("forward", "state", state)
        final: list[State] = []
        flow: Any = self._entering(x)
        for layer in self._called:
            if layer._has_state:
                flow, after = layer(flow, states[len(final)], lengths, resets)
                final.append(after)
            elif layer._reduces_time:
                flow = layer(flow, lengths)
            elif isinstance(flow, Packed):
                flow = flow._replace(data=layer(flow.data))
            else:
                flow = layer(flow)
        return returned_like(x, flow) if isinstance(flow, Packed) else flow, tuple(final)

    def forward(
        self, x: Any, state: StatesIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, States, SequentialTape]:
        """Training: also return the tape for `backward`."""
        states = self._states("forward", "state", state)
        final: list[State] = []
        tapes: list[Tape] = []
        flow: Any = self._entering(x)
        for layer in self._called:
            tape: Tape
            if layer._has_state:
                flow, after, tape = layer.forward(flow, states[len(final)], lengths, resets)
                final.append(after)
            elif layer._reduces_time:
                flow, tape = layer.forward(flow, lengths)
            elif isinstance(flow, Packed):
                data, tape = layer.forward(flow.data)
                flow = flow._replace(data=data)
            else:
                flow, tape = layer.forward(flow)
            tapes.append(tape)
        y = returned_like(x, flow) if isinstance(flow, Packed) else flow
        return y, tuple(final), SequentialTape(self, tapes)

    def backward(
        self, tape: Tape, dy: Any, dstate: StatesIn = None, grads: Params | None = None
    ) -> tuple[Any, States, Params]:
        """Backpropagation through all layers, last to first.

        Args: tape of `forward`, used up by this call; dy, shaped like y, or None for zeros where there is a dstate;
            dstate, like the final state; grads, `params.zeros_like()` to write into, default a new one.
        Returns: dx (None where an Embedding is first), the gradient of the initial state, the gradients by name.
        """
        tape = self._own(tape, SequentialTape)
        dstates = list(self._states("backward", "dstate", dstate))
        if dy is None and all(each is None for each in dstates):
            raise TypeError("Sequential.backward: dy and dstate are None, expected at least one of them")
        initial: list[State] = []
        grads = self._gradients(grads)
        flow: Any = self._entering(dy)
        for k in reversed(range(len(self.layers))):
            layer, window = self._called[k], grads.window(self._prefixes[k])
            if layer._has_state:
                flow, before, _ = layer._backward(tape.tapes[k], flow, dstates.pop(), window)
                initial.append(before)
            elif flow is None:
                window.flat[...] = 0
            elif isinstance(flow, Packed):
                data, _ = layer.backward(tape.tapes[k], flow.data, window)
                flow = None if data is None else flow._replace(data=data)
            else:
                flow, _ = layer.backward(tape.tapes[k], flow, window)
        return flow, tuple(reversed(initial)), grads

    def stream(self, batch_size: int = 1) -> SequentialStream:
        """Inference in real time through all layers, as `LSTM.stream`: x [B,.] -> y [B,.], nothing is allocated.

        The state is a tuple with that of each recurrent layer.

        >>> import numpy as np
        >>> from bptt import GRU, Linear
        >>> model = Sequential(GRU(3, 4, seed=0), Linear(4, 2, seed=0))
        >>> stream, x = model.stream(), np.ones((5, 1, 3), np.float32)
        >>> y = [stream(x_t).copy() for x_t in x]
        >>> bool(np.allclose(y, model(x)[0], atol=1e-6))
        True
        """
        if self._one_step:
            raise ValueError("Sequential.stream: the model has cells, expected layers over time: cells take one step")
        steps = [layer.stream(batch_size) for layer in self._layers]
        return SequentialStream(self, [step for step in steps if step is not None])

    def quantize(self, weights: str = "int8") -> Sequential:
        """Return a copy for inference whose recurrent layers have weights in fewer bits, as `LSTM.quantize` makes them.

        The other layers are copied as they are: a Linear takes a small part of the time and of the memory.
        Args: weights, "int8" (default) or "bfloat16".
        Returns: a `Sequential` that is called, streamed, saved and loaded as this one; its `params` are those of the
            other layers. `forward`, `backward` and state dicts raise TypeError.
        Raises: as `LSTM.quantize`, of any recurrent layer; ValueError for a model without one.

        >>> import numpy as np
        >>> from bptt import GRU, Linear
        >>> model = Sequential(GRU(3, 8, seed=0), Linear(8, 2, seed=0))
        >>> quantized, x = model.quantize("bfloat16"), np.ones((5, 1, 3), np.float32)
        >>> bool(np.allclose(quantized(x)[0], model(x)[0], atol=0.01)), list(quantized.params)
        (True, ['1.weight', '1.bias'])
        """
        if not any(isinstance(layer, Recurrent) for layer in self.layers):
            raise ValueError("Sequential.quantize: the model has no recurrent layer in float32, expected at least one")
        return Sequential(
            *(
                layer.quantize(weights) if isinstance(layer, Recurrent) else copy.deepcopy(layer)
                for layer in self.layers
            )
        )

    def _check_floats(self, method: str) -> None:
        for layer in self.layers:
            layer._check_floats(method)

    def _from_torch(self, where: str, state: Mapping[str, ArrayIn]) -> Mapping[str, ArrayIn]:
        ours = {name: value for name, value in state.items() if not name.startswith(self._prefixes)}
        for k, (prefix, layer) in enumerate(zip(self._prefixes, self.layers, strict=True)):
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            ours |= {prefix + name: value for name, value in layer._from_torch(f"{where}, layer {k}", own).items()}
        return ours

    def _to_torch(self, where: str) -> dict[str, Array]:
        return {
            prefix + name: array
            for k, (prefix, layer) in enumerate(zip(self._prefixes, self.layers, strict=True))
            for name, array in layer._to_torch(f"{where}, layer {k}").items()
        }

    def _entering(self, x: Any) -> Any:
        """Packed rows of any kind as ours."""
        if not hasattr(x, "batch_sizes"):
            return x
        data, shown = as_packed(self._where(), x)
        return shown.packed(data)

    def _states(self, method: str, name: str, state: StatesIn) -> tuple[Any, ...]:
        n = self._states_count
        if state is None:
            return (None,) * n
        return check_tuple(self._where(method), name, state, n, f"a tuple of length {n}, one per recurrent layer")

    @property
    def _layers(self) -> tuple[Any, ...]:
        return self.layers

    def __copy__(self) -> Sequential:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    # A deep copy is made of copies of the layers, which are joined: their parameters lie in one buffer again.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.layers

    def __repr__(self) -> str:
        lines = "".join(f"  ({k}): {layer!r}\n" for k, layer in enumerate(self.layers))
        return f"Sequential(\n{lines})"


def _check_time(layers: Sequence[Layer]) -> None:
    """Raise where a layer needs the time axis that one before has taken away."""
    gone = None
    for k, layer in enumerate(layers):
        if gone is not None and isinstance(layer, (OverTime, Last)):
            expected = f"expected it before layer {gone}, {type(layers[gone]).__name__}, whose y has no time axis"
            raise ValueError(f"Sequential: layer {k}, {type(layer).__name__}, works over time, {expected}")
        if layer._reduces_time:
            gone = k


def _check_sizes(layers: Sequence[Layer]) -> None:
    """Raise unless each layer takes as many features as the one before gives; both are known for our layers only."""
    width, source = None, 0
    for k, layer in enumerate(layers):
        sizes = layer._sizes()
        if sizes is None:
            continue
        takes, gives = sizes
        if None not in (width, takes) and takes != width:
            before = f"expected {width}, the output size of layer {source}, {type(layers[source]).__name__}"
            raise ValueError(f"Sequential: layer {k}, {type(layer).__name__}, has input size {takes}, {before}")
        width, source = gives, k
