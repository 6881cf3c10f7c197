# SPDX-License-Identifier: Apache-2.0
"""Streams of more than one layer: native streams one after the other, each with its own memory and state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt import _core
    from bptt._arrays import Array


class StackStream:
    """The layers of one recurrent stack. Called and used as a native stream: x [B,I] -> y [B,H], `state`, `reset`.

    The state is h [L,B,H], or the tuple (h, c); `initial` is what it begins with, None for zeros.
    """

    def __init__(self, streams: list[_core.Stream], initial: Any = None) -> None:
        self._streams, self._initial = streams, initial
        if initial is not None:
            self.state = initial

    def __call__(self, x: Array) -> Array:
        """One step, x [B,I], or a chunk of steps, x [T,B,I]."""
        for stream in self._streams:
            x = stream(x)
        return x

    @property
    def state(self) -> Any:
        """A copy of the state of all layers; assigning sets it, None to what it began with."""
        parts = [stream.state for stream in self._streams]
        if isinstance(parts[0], tuple):
            return tuple(np.concatenate(each) for each in zip(*parts, strict=True))
        return np.concatenate(parts)

    @state.setter
    def state(self, state: Any) -> None:
        state = self._initial if state is None else state
        for k, stream in enumerate(self._streams):
            if state is None:
                stream.state = None
            elif isinstance(state, tuple):
                stream.state = tuple(part[k : k + 1] for part in state)
            else:
                stream.state = state[k : k + 1]

    def reset(self, rows: Any = None) -> None:
        """Begin anew: all rows, or those that an index selects."""
        if rows is None:
            self.state = None
            return
        before, start = self.state, self._initial
        if isinstance(before, tuple):
            for i, part in enumerate(before):
                part[:, rows] = 0 if start is None else start[i][:, rows]
        else:
            before[:, rows] = 0 if start is None else start[:, rows]
        self.state = before


class SequentialStream:
    """The layers of a `Sequential`. `state` is a tuple with that of each recurrent layer, in order."""

    def __init__(self, steps: list[Callable[[Array], Array]], recurrent: list[Any]) -> None:
        self._steps, self._recurrent = steps, recurrent

    def __call__(self, x: Array) -> Array:
        """One step, x [B,.], or a chunk of steps, x [T,B,.]."""
        for step in self._steps:
            x = step(x)
        return x

    @property
    def state(self) -> tuple[Any, ...]:
        """Copies of the states; assigning sets them, None as a whole or in one place to what it began with."""
        return tuple(stream.state for stream in self._recurrent)

    @state.setter
    def state(self, state: tuple[Any, ...] | None) -> None:
        states = (None,) * len(self._recurrent) if state is None else state
        if len(states) != len(self._recurrent):
            raise ValueError(f"Stream: state has length {len(states)}, expected {len(self._recurrent)}")
        for stream, each in zip(self._recurrent, states, strict=True):
            stream.state = each

    def reset(self, rows: Any = None) -> None:
        """Begin anew: all rows, or those that an index selects."""
        for stream in self._recurrent:
            stream.reset(rows)
