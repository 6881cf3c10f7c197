# SPDX-License-Identifier: Apache-2.0
"""The streams of layers without a state, and of layers one after the other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from bptt._arrays import check_tuple
from bptt._dispatch import core
from bptt._engine.stream import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt import _core
    from bptt._arrays import Array
    from bptt.layers.base import Layer, Stateless


class _LinearSource(Source):
    def take(self, stream: _core.LinearStream) -> None:
        stream._take_weights(self.owner.params["weight"], self.owner.params.get("bias"))

    def flat(self, stream: _core.LinearStream) -> Array:
        return stream._weights()


class _EmbeddingSource(Source):
    def take(self, stream: _core.EmbeddingStream) -> None:
        stream._take_weights(self.owner.params["weight"].copy())

    def flat(self, stream: _core.EmbeddingStream) -> Array:
        return stream._weights().reshape(-1)


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
        """Copies of the states; an assignment sets them, None (for all or for one) sets the initial state."""
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
