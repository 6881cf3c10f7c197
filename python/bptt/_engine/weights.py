# SPDX-License-Identifier: Apache-2.0
"""What the engine asks of weights: to be flat, and to tell when they change. Whose they are is no matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bptt._arrays import Array

Span = tuple[int, int]  # where a part of the flat weights starts, and stops


class Weights(Protocol):
    """Flat parameters of any owner, and a tag by which a change of them is seen."""

    @property
    def plain(self) -> Array:
        """All parameters, [n], an array of NumPy's own class."""

    @property
    def version(self) -> object:
        """What is equal to the version of earlier if nothing has changed since."""


class Owner(Protocol):
    """Whoever has weights that a network runs on."""

    @property
    def params(self) -> Weights:
        """The weights, in the layout of the kernels."""
