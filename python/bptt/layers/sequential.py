# SPDX-License-Identifier: Apache-2.0
"""Sequential: layers one after the other, with one state per recurrent layer and all parameters in one buffer.

Adds no equation of its own. Its tape is the layers' tapes, so that it is as re-entrant as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from bptt._arrays import check_tuple
from bptt.layers.base import Layer, Stateless, Tape
from bptt.layers.dense import Embedding
from bptt.layers.recurrent import Recurrent
from bptt.layers.stream import SequentialStream
from bptt.layers.tape import Packed, as_packed
from bptt.params import Params

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt._arrays import ArrayIn
    from bptt.layers.recurrent import State, StateIn

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

    Args: layers, each recurrent or stateless. Their parameters move into one buffer, and each layer stays usable as a
        view of it; an Embedding can only come first. All layers with parameters have one dtype.
    Parameters: those of layer k, named "k.name".
    Call: `y, state = model(x, state=None)`, `y, state, tape = model.forward(x, state=None)`,
        `dx, dstate, grads = model.backward(tape, dy, dstate=None)`; lengths and resets go to each recurrent layer, as
        in `LSTM.forward` (y of a stateless layer is not zero beyond a row's end: mask the loss); `Packed` rows
        pass through all layers. state is a tuple with the state of each recurrent
        layer, in order; None stands for zeros, as a whole or for one of them. dx is None where an Embedding is first.
    Raises: ValueError for a layer that belongs to a Sequential already (copy.deepcopy makes one that does not),
        TypeError for what is not a layer or has another dtype.

    >>> import numpy as np
    >>> from bptt import Embedding, GRU, Linear
    >>> model = Sequential(Embedding(10, 3), GRU(3, 4), Linear(4, 10))
    >>> y, (h,) = model(np.zeros((5, 2), int))
    >>> y.shape, h.shape, list(model.params)[:2]
    ((5, 2, 10), (1, 2, 4), ['0.weight', '1.weight_ih_l0'])
    """

    def __init__(self, *layers: Recurrent | Stateless) -> None:
        if not layers:
            raise ValueError("Sequential: layers has length 0, expected at least one")
        for k, layer in enumerate(layers):
            if not isinstance(layer, (Recurrent, Stateless)):
                raise TypeError(f"Sequential: layer {k} has type {type(layer).__name__}, expected a layer")
            if layer.params.joined or layer in layers[:k]:
                raise ValueError(
                    f"Sequential: layer {k}, {layer!r}, belongs to a Sequential already, expected one of its own; "
                    "copy.deepcopy(layer) makes it"
                )
            if k and isinstance(layer, Embedding):
                raise ValueError(f"Sequential: layer {k} has type Embedding, expected it at the front only")
        if len({layer.batch_first for layer in layers if isinstance(layer, Recurrent)}) > 1:
            raise ValueError("Sequential: layers differ in batch_first, expected one value")
        self.layers = layers
        self._prefixes = tuple(f"{k}." for k in range(len(layers)))
        self._states_count = sum(isinstance(layer, Recurrent) for layer in layers)
        self.params = Params.join({str(k): layer.params for k, layer in enumerate(layers)})

    @property
    def batch_first(self) -> bool:
        """Whether x and y are [B,T,.]."""
        return any(layer.batch_first for layer in self.layers if isinstance(layer, Recurrent))

    def __call__(
        self, x: Any, state: StatesIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, States]:
        """Inference: nothing is kept, and dropout does nothing."""
        states = self._states("forward", "state", state)
        final: list[State] = []
        flow: Any = self._entering(x)
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                flow, after = layer(flow, states[len(final)], lengths, resets)
                final.append(after)
            elif isinstance(flow, Packed):
                flow = Packed(layer(flow.data), flow.batch_sizes)
            else:
                flow = layer(flow)
        return flow, tuple(final)

    def forward(
        self, x: Any, state: StatesIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, States, SequentialTape]:
        """Training: also return the tape for `backward`."""
        states = self._states("forward", "state", state)
        final: list[State] = []
        tapes: list[Tape] = []
        flow: Any = self._entering(x)
        for layer in self.layers:
            tape: Tape
            if isinstance(layer, Recurrent):
                flow, after, tape = layer.forward(flow, states[len(final)], lengths, resets)
                final.append(after)
            elif isinstance(flow, Packed):
                data, tape = layer.forward(flow.data)
                flow = Packed(data, flow.batch_sizes)
            else:
                flow, tape = layer.forward(flow)
            tapes.append(tape)
        return flow, tuple(final), SequentialTape(self, tapes)

    def backward(
        self, tape: Tape, dy: Any, dstate: StatesIn = None, grads: Params | None = None
    ) -> tuple[Any, States, Params]:
        """Backpropagation through all layers, last to first.

        Args: tape of `forward`, used up by this call; dy, shaped like y; dstate, like the final state; grads,
            `params.zeros_like()` to write into, default a new one.
        Returns: dx (None where an Embedding is first), the gradient of the initial state, the gradients by name.
        """
        tape = self._own(tape, SequentialTape)
        dstates = list(self._states("backward", "dstate", dstate))
        initial: list[State] = []
        grads = self._gradients(grads)
        flow: Any = self._entering(dy)
        for k in reversed(range(len(self.layers))):
            layer, window = self.layers[k], grads.window(self._prefixes[k])
            if isinstance(layer, Recurrent):
                flow, before, _ = layer.backward(tape.tapes[k], flow, dstates.pop(), window)
                initial.append(before)
            elif isinstance(flow, Packed):
                data, _ = layer.backward(tape.tapes[k], flow.data, window)
                flow = None if data is None else Packed(data, flow.batch_sizes)
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
        steps = [layer.stream(batch_size) for layer in self.layers]
        return SequentialStream(self, [step for step in steps if step is not None])

    def _entering(self, x: Any) -> Any:
        """Packed rows of any kind as ours."""
        return Packed(*as_packed(self._where(), x)) if hasattr(x, "batch_sizes") else x

    def _states(self, method: str, name: str, state: StatesIn) -> tuple[Any, ...]:
        n = self._states_count
        if state is None:
            return (None,) * n
        return check_tuple(self._where(method), name, state, n, f"a tuple of length {n}, one per recurrent layer")

    # A copy is made of copies of the layers, which are joined anew: their parameters lie in one buffer again.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.layers

    def __repr__(self) -> str:
        lines = "".join(f"  ({k}): {layer!r}\n" for k, layer in enumerate(self.layers))
        return f"Sequential(\n{lines})"
