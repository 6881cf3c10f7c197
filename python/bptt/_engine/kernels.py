# SPDX-License-Identifier: Apache-2.0
"""The native kernels of a network, one for each layer and direction, and when they were packed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._dispatch import core
from bptt._locks import ForkSafeLock

if TYPE_CHECKING:
    from bptt import _core
    from bptt._engine.structure import Structure
    from bptt._engine.weights import Span, Weights

_NEVER = object()  # the version of kernels that are not packed yet


class Kernels:
    """Native objects with the present weights. `spans` are their places in the flat parameters.

    Copied and pickled by its sizes alone: a copy packs for itself, when it is first used.
    """

    def __init__(self, structure: Structure, spans: list[Span]) -> None:
        self.structure, self.spans = structure, spans
        self._lock = ForkSafeLock()
        cell, dtype, H = structure.cell, structure.dtype.name, structure.hidden_size
        self._native = [
            core.Recurrence(cell, dtype, inputs, H, structure.bias, structure.proj_size)
            for inputs in structure.inputs
            for _ in range(structure.num_directions)
        ]
        self._packed: tuple[object, bool] = (_NEVER, False)  # version, whether with the backward layout

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernels, (self.structure, self.spans)

    def packed(self, weights: Weights, training: bool) -> list[_core.Recurrence]:
        """Return the native objects, packed. What they had before stays with the tapes that use it."""
        version, trainable = self._packed
        if version == weights.version and trainable >= training:
            return self._native
        with self._lock.held:
            version = weights.version
            # Once for training, always: another thread may be about to train with what is packed here.
            training = training or self._packed[1]
            if self._packed != (version, training):
                flat = weights.plain
                for native, (start, stop) in zip(self._native, self.spans, strict=True):
                    native.pack(flat[start:stop], training)
                self._packed = version, training
            return self._native
