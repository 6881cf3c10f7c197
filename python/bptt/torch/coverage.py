# SPDX-License-Identifier: Apache-2.0
"""Which calls the stand-ins may take: all of the process, or those of chosen modules."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class Coverage:
    """Whether all calls are covered, and else the modules whose calls are.

    A call is known to be of a module by its weights, which are the module's own objects: nothing is stored in the
    module, so that its copies, pickles and state are as before.
    """

    def __init__(self) -> None:
        self.everything = False
        self._modules: tuple[weakref.ref[Any], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no call is covered."""
        return not (self.everything or self._modules)

    def add(self, modules: Iterable[Any]) -> None:
        """Cover the calls of these modules, too."""
        alive = {id(module): ref for ref in self._modules if (module := ref()) is not None}
        self._modules = tuple({**alive, **{id(each): weakref.ref(each) for each in modules}}.values())

    def clear(self) -> None:
        """Cover no module's calls."""
        self._modules = ()

    def has_list(self, weights: Any) -> bool:
        """Whether a list of weights is that of a covered layer over time."""
        if self.everything:
            return True
        return any(getattr(ref(), "_flat_weights", None) is weights for ref in self._modules)

    def has_cell(self, weight_ih: Any) -> bool:
        """Whether this is the weight of a covered cell."""
        if self.everything:
            return True
        return any(getattr(ref(), "weight_ih", None) is weight_ih for ref in self._modules)


covered = Coverage()
