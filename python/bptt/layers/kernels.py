# SPDX-License-Identifier: Apache-2.0
"""The native recurrences of a layer, one per layer of its stack and direction, and when they were packed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._dispatch import core
from bptt._locks import ForkSafeLock

if TYPE_CHECKING:
    from bptt import _core
    from bptt.params import Params

    Span = tuple[int, int]


class Kernels:
    """Native objects with the present weights. `spans` are their places in the flat parameters.

    Copied and pickled by its sizes alone: a copy packs for itself, when it is first used.
    """

    def __init__(self, sizes: list[tuple[Any, ...]], spans: list[Span]) -> None:
        self._sizes, self.spans = sizes, spans
        self._lock = ForkSafeLock()
        self._native = [core.Recurrence(*each) for each in sizes]  # cell, dtype, I, H, bias, R, N
        self._packed = (-1, False)  # version, whether with the backward layout

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernels, (self._sizes, self.spans)

    def packed(self, params: Params, training: bool) -> list[_core.Recurrence]:
        """Return the native objects, packed. What they had before stays with the tapes that use it."""
        version, trainable = self._packed
        if version == params.version and trainable >= training:
            return self._native
        with self._lock.held:
            version = params.version
            # Once for training, always: another thread may be about to train with what is packed here.
            training = training or self._packed[1]
            if self._packed != (version, training):
                flat = params.plain
                for native, (start, stop) in zip(self._native, self.spans, strict=True):
                    native.pack(flat[start:stop], training)
                self._packed = version, training
            return self._native
