# SPDX-License-Identifier: Apache-2.0
"""Streams of more than one layer: native streams one after the other, each with its own memory and state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import check_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt import _core
    from bptt._arrays import Array


def check_like(where: str, state: Any, present: Any) -> None:
    """Raise unless a state has the form, the dtype and the shapes of the present one: a stream converts nothing."""
    parts, expected = (s if isinstance(s, tuple) else (s,) for s in (state, present))
    if isinstance(state, tuple) is not isinstance(present, tuple) or len(parts) != len(expected):
        form = f"a tuple of {len(expected)} arrays" if isinstance(present, tuple) else "an array"
        raise ValueError(f"{where}: state has type {type(state).__name__}, expected {form}")
    for part, like in zip(parts, expected, strict=True):
        if not isinstance(part, np.ndarray) or part.dtype != like.dtype:
            has = getattr(part, "dtype", type(part).__name__)
            raise TypeError(f"{where}: state has dtype {has}, expected {like.dtype}")
        check_shape(where, "state", part, like.shape)
        if not part.flags.c_contiguous:
            raise ValueError(f"{where}: state is strided, expected C-contiguous")


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
        if state is not None:
            check_like("Stream.state", state, self.state)
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
            if each is not None:
                check_like("Stream.state", each, stream.state)
        for stream, each in zip(self._recurrent, states, strict=True):
            stream.state = each

    def reset(self, rows: Any = None) -> None:
        """Begin anew: all rows, or those that an index selects."""
        for stream in self._recurrent:
            stream.reset(rows)
