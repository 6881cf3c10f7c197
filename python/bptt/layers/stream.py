# SPDX-License-Identifier: Apache-2.0
"""Streams: layers step by step, in real time. Each is a native object, and a call goes straight to it.

A stream takes its layer's weights when it is made, and again when it is asked to (`refresh`). The native object knows
no layer: its `Source` does, and answers for it. A copy of a stream is made by the layer too, and then gets the weights
and the state.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import check_tuple
from bptt._dispatch import core

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt import _core
    from bptt._arrays import Array
    from bptt.layers.base import Layer, Stateless
    from bptt.layers.recurrent import Recurrent

_OUT_OF_DATE = -1  # the version of no parameters


class Source:
    """Where the weights of one stream are from: a layer, at one version of its parameters."""

    def __init__(self, layer: Any, batch_size: int) -> None:
        self.layer, self.batch_size = layer, batch_size
        self.version = layer.params.version

    def is_stale(self) -> bool:
        """Whether the parameters have changed since."""
        return bool(self.version != self.layer.params.version)

    def refresh(self, stream: Any) -> None:
        """Give the stream the present weights."""
        version = self.layer.params.version  # read first: a change in between then leaves the stream stale
        self.take(stream)
        self.version = version

    def take(self, stream: Any) -> None:
        """Give the stream the weights that the layer has."""
        raise NotImplementedError

    def flat(self, stream: Any) -> Array:
        """The weights that the stream has, as `params.flat` of the layer that they are from."""
        raise NotImplementedError

    def reduce(self, stream: Any) -> tuple[Any, ...]:
        """The stream for `copy` and `pickle`; where it is out of date, with a layer that has its weights."""
        past = None
        if self.is_stale():
            past, flat = copy.deepcopy(self.layer), self.flat(stream)
            past.params.update(lambda buffer: np.copyto(buffer, flat))
        return _restored, (self.layer, self.batch_size, past, getattr(stream, "state", None))


def _restored(layer: Any, batch_size: int, past: Any, state: Any) -> Any:
    stream = (past or layer).stream(batch_size)
    if past is not None:
        stream._source.layer, stream._source.version = layer, _OUT_OF_DATE
    if state is not None:
        stream.state = state
    return stream


class _RecurrentSource(Source):
    def __init__(self, layer: Recurrent, batch_size: int) -> None:
        super().__init__(layer, batch_size)
        self.initial = layer._learnt_state(batch_size)

    def stack(self) -> _core.Stack:
        """The layer's, with the present weights."""
        stack: _core.Stack = self.layer._kernels.packed(self.layer.params, training=False)
        return stack

    def take(self, stream: _core.Stream) -> None:
        self.initial = self.layer._learnt_state(self.batch_size)
        stream._take_weights(self.stack(), self.initial)

    def flat(self, stream: _core.Stream) -> Array:
        flat, initial = stream._weights(), self.initial
        if initial is not None:  # [L,B,.] each; in the parameters layer by layer
            parts = initial if isinstance(initial, tuple) else (initial,)
            flat += [part[k, 0] for k in range(len(flat)) for part in parts]
        return np.concatenate(flat)


class _LinearSource(Source):
    def take(self, stream: _core.LinearStream) -> None:
        stream._take_weights(self.layer.params["weight"], self.layer.params.get("bias"))

    def flat(self, stream: _core.LinearStream) -> Array:
        return stream._weights()


class _EmbeddingSource(Source):
    def take(self, stream: _core.EmbeddingStream) -> None:
        stream._take_weights(self.layer.params["weight"].copy())

    def flat(self, stream: _core.EmbeddingStream) -> Array:
        return stream._weights().reshape(-1)


def recurrent_stream(layer: Recurrent, batch_size: int) -> _core.Stream:
    """The stream of a recurrent layer of one direction."""
    source = _RecurrentSource(layer, batch_size)
    options = core.CallOptions(zoneout=layer._state_options.zoneout, clip=layer._state_options.clip_state)
    stream = core.Stream(source.stack(), batch_size, options, source.initial)
    stream._source = source
    return stream


def linear_stream(layer: Stateless, batch_size: int) -> _core.LinearStream:
    """The stream of a Linear."""
    source = _LinearSource(layer, batch_size)
    stream = core.LinearStream(layer.params["weight"], layer.params.get("bias"), batch_size)
    stream._source = source
    return stream


def embedding_stream(layer: Stateless, batch_size: int) -> _core.EmbeddingStream:
    """The stream of an Embedding."""
    source = _EmbeddingSource(layer, batch_size)
    stream = core.EmbeddingStream(layer.params["weight"].copy(), batch_size)
    stream._source = source
    return stream


class SequentialStream:
    """The layers of a `Sequential` in real time: x [B,.] -> y [B,.], as the stream of one layer.

    `state` is a tuple with that of each recurrent layer, in order.
    """

    def __init__(self, model: Layer, steps: Sequence[Any]) -> None:
        self._model = model  # copied with the streams of its layers, so that their copies lie in one buffer again
        self._steps = steps
        self._streams = [step for step in steps if hasattr(step, "refresh")]
        self._recurrent = [step for step in steps if isinstance(step, core.Stream)]
        self._step_ndim = 1 if steps and isinstance(steps[0], core.EmbeddingStream) else 2  # of x for one step

    def __call__(self, x: Array) -> Array:
        """One step, x [B,.], or a chunk of steps, x [T,B,.]. An interrupted chunk leaves the state as it was."""
        if x.ndim <= self._step_ndim:
            for step in self._steps:
                x = step(x)
            return x
        before = self.state
        try:
            for step in self._steps:
                x = step(x)
        except BaseException:
            self._restore(before)
            raise
        return x

    def _restore(self, state: tuple[Any, ...]) -> None:
        for stream, each in zip(self._recurrent, state, strict=True):
            stream.state = each

    @property
    def state(self) -> tuple[Any, ...]:
        """Copies of the states; assigning sets them, None as a whole or in one place to what it began with."""
        return tuple(stream.state for stream in self._recurrent)

    @state.setter
    def state(self, state: tuple[Any, ...] | None) -> None:
        n = len(self._recurrent)
        expected = f"a tuple of length {n}, one for each recurrent layer"
        states = (None,) * n if state is None else check_tuple("Stream", "state", state, n, expected)
        before = self.state
        try:
            for stream, each in zip(self._recurrent, states, strict=True):
                stream.state = each
        except BaseException:
            self._restore(before)
            raise

    def reset(self, rows: Any = None) -> None:
        """Begin again from the initial state: all rows, or those that an index selects."""
        for stream in self._recurrent:
            stream.reset(rows)

    @property
    def stale(self) -> bool:
        """Whether the parameters have changed since the stream took them, when it was made or by `refresh`."""
        return any(stream.stale for stream in self._streams)

    def refresh(self) -> None:
        """Take the present weights of all layers; the states stay."""
        for stream in self._streams:
            stream.refresh()

    def __copy__(self) -> SequentialStream:
        return SequentialStream(self._model, [copy.copy(step) for step in self._steps])

    def __reduce__(self) -> tuple[Any, ...]:
        return SequentialStream, (self._model, self._steps)
