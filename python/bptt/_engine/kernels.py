# SPDX-License-Identifier: Apache-2.0
"""The native stack of a network, and when it was packed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._dispatch import core
from bptt._locks import ForkSafeLock
from bptt._precision import narrow_products, products_of

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array
    from bptt._engine.structure import Structure
    from bptt._engine.weights import Span, Weights

_NEVER = object()  # the version of kernels that are not packed yet


def new_stack(structure: Structure) -> _core.Stack:
    """A native stack without weights."""
    return core.Stack(
        structure.cell,
        structure.dtype.name,
        structure.input_size,
        structure.hidden_size,
        structure.bias,
        structure.proj_size,
        structure.num_layers,
        structure.num_directions,
        structure.num_heads,
        narrow_products(structure.weights) if structure.weights else products_of(structure.precision),
    )


class Kernels:
    """A native stack with the present weights. `spans` are the places of its kernels in the flat parameters.

    Copied and pickled by its structure alone: a copy packs for itself, when it is first used.
    """

    def __init__(self, structure: Structure, spans: list[Span]) -> None:
        self.structure, self.spans = structure, spans
        self._lock = ForkSafeLock()
        self._native = new_stack(structure)
        self._packed: tuple[object, bool] = (_NEVER, False)  # version, whether with the backward layout
        self._met: object = _NEVER  # the version of the last short call

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernels, (self.structure, self.spans)

    @property
    def native(self) -> _core.Stack:
        """The native stack, with whatever weights it has."""
        return self._native

    def forward_if_exact(self, weights: Weights, x: Any, state: Any, training: bool, keep_weights: bool = True) -> Any:
        """As of the native stack, with the present weights. keep_weights: False where backward gets them again.

        A short call on weights that are met for the first time packs nothing: in training they change before the next.
        """
        version, trainable = self._packed
        now = weights.version
        if version != now or trainable < training:
            if self._met != now and not self.structure.weights:
                found = self._native.forward_short(x, state, training, weights.plain, keep_weights)
                if found is False:
                    return None
                if found is not None:
                    self._met = now
                    return found
            self.packed(weights, training)
        return self._native.forward_if_exact(x, state, training)

    @property
    def is_narrow(self) -> bool:
        """Whether the weights are stored in fewer bits: not every cell can have them so."""
        return self._native.products in core.narrow_products

    def packed(self, weights: Weights, training: bool) -> _core.Stack:
        """Return the native stack, packed. What it had before stays with the tapes that use it."""
        version, trainable = self._packed
        if version == weights.version and trainable >= training:
            return self._native
        with self._lock.held:
            version = weights.version
            # Once packed for training, always: another thread may be about to train with these weights.
            training = training or self._packed[1]
            if self._packed != (version, training):
                self._native.pack(self.parts(weights.plain), training)
                self._packed = version, training
            return self._native

    def parts(self, flat: Array) -> list[Array]:
        """The parameters of each kernel, or their gradients: views of a flat array."""
        return [flat[start:stop] for start, stop in self.spans]
