# SPDX-License-Identifier: Apache-2.0
"""Constructors that refuse a misspelt option by name, with the nearest right one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from bptt._arrays import brief

if TYPE_CHECKING:
    _P = ParamSpec("_P")
    _Self = TypeVar("_Self")

    Constructor = Callable[Concatenate[_Self, _P], None]


def checks_names(init: Constructor[_Self, _P]) -> Constructor[_Self, _P]:
    """Let a constructor, `__init__`, refuse an unknown option. Its signature does not change."""
    known = [*inspect.signature(init).parameters][1:]

    @functools.wraps(init)
    def checked(self: Any, /, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in known:
                raise _unknown(type(self).__name__, name, known)
        init(self, *args, **options)

    checked.names = known  # type: ignore[attr-defined]  # of the options, for whoever checks later assignments
    return checked


def _unknown(where: str, name: str, known: list[str]) -> TypeError:
    import difflib  # imported here, since only this error needs it

    near = difflib.get_close_matches(name, known, 1, 0.7)
    expected = f"did you mean {near[0]!r}?" if near else f"help({where}) lists all"
    return TypeError(f"{where}: there is no option {brief(name)}, {expected}")
