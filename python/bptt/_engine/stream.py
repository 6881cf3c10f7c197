# SPDX-License-Identifier: Apache-2.0
"""Streams: networks step by step, in real time. Each is a native object, and a call goes straight to it.

A stream takes its owner's weights when it is made, and again at `refresh`. The native object knows no owner; its
`Source` does, and answers for it. A copy of a stream is made by the owner too, and then gets the weights
and the state.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bptt._dispatch import core
from bptt._engine.weights import Owner

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array
    from bptt._engine.stack import Stack

_OUT_OF_DATE = object()  # the version of no weights


class StackOwner(Owner, Protocol):
    """The owner of weights on which a `Stack` runs."""

    _stack: Stack


class Source:
    """The source of the weights of one stream: its owner, at one version of the parameters.

    The owner has `params`, whose `version` differs after a change and whose `update` makes one, and `stream`, which
    makes the stream.
    """

    def __init__(self, owner: Any, batch_size: int) -> None:
        self.owner, self.batch_size = owner, batch_size
        self.version = owner.params.version

    def is_stale(self) -> bool:
        """Whether the parameters have changed since."""
        return bool(self.version != self.owner.params.version)

    def refresh(self, stream: Any) -> None:
        """Give the stream the present weights."""
        version = self.owner.params.version  # read first, so that a change in between leaves the stream stale
        self.take(stream)
        self.version = version

    def take(self, stream: Any) -> None:
        """Give the stream the owner's weights."""
        raise NotImplementedError

    def flat(self, stream: Any) -> Array:
        """The weights of the stream, flat like the owner's parameters."""
        raise NotImplementedError

    def reduce(self, stream: Any) -> tuple[Any, ...]:
        """The stream for `copy` and `pickle`; where it is out of date, with an owner that has its weights."""
        past = None
        if self.is_stale():
            past, flat = copy.deepcopy(self.owner), self.flat(stream)
            past.params.update(lambda buffer: np.copyto(buffer, flat))
        return _restored, (self.owner, self.batch_size, past, getattr(stream, "state", None))


def _restored(owner: Any, batch_size: int, past: Any, state: Any) -> Any:
    stream = (past or owner).stream(batch_size)
    if past is not None:
        stream._source.owner, stream._source.version = owner, _OUT_OF_DATE
    if state is not None:
        stream.state = state
    return stream


class _RecurrentSource(Source):
    owner: StackOwner

    def __init__(self, owner: StackOwner, batch_size: int) -> None:
        super().__init__(owner, batch_size)
        self.initial = self._learnt()

    def stack(self) -> _core.Stack:
        """The owner's, with the present weights."""
        return self.owner._stack.kernels.packed(self.owner.params, training=False)

    def take(self, stream: _core.Stream) -> None:
        initial = self._learnt()
        stream._take_weights(self.stack(), initial)
        self.initial = initial  # last, so that a failure leaves both as they were

    def flat(self, stream: _core.Stream) -> Array:
        flat, initial = stream._weights(), self.initial
        if initial is not None:  # [L,B,.] each; in the parameters layer by layer
            parts = initial if isinstance(initial, tuple) else (initial,)
            flat += [part[k, 0] for k in range(len(flat)) for part in parts]
        return np.concatenate(flat)

    def _learnt(self) -> Any:
        return self.owner._stack.states.initial(self.owner.params.plain, self.batch_size)


def recurrent_stream(owner: StackOwner, batch_size: int) -> _core.Stream:
    """The stream of a network of one direction."""
    source, options = _RecurrentSource(owner, batch_size), owner._stack.state_options
    native = core.CallOptions(zoneout=options.zoneout, clip=options.clip_state)
    stream = core.Stream(source.stack(), batch_size, native, source.initial)
    stream._source = source
    return stream
