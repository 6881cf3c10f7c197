# SPDX-License-Identifier: Apache-2.0
"""The interface of weights: flat, with a version that shows changes. Their owner does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bptt._arrays import Array

Span = tuple[int, int]  # start and stop of a part of the flat weights


class Weights(Protocol):
    """Flat parameters of any owner, and a tag that shows a change."""

    @property
    def plain(self) -> Array:
        """All parameters as an array [n] of NumPy's own class."""

    @property
    def version(self) -> object:
        """A value that equals an earlier version if nothing has changed since."""


class Owner(Protocol):
    """An owner of weights that a network runs on."""

    @property
    def params(self) -> Weights:
        """The weights, in the layout of the kernels."""
