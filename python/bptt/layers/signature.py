# SPDX-License-Identifier: Apache-2.0
"""What users see of a layer's arguments: the shared ones in its docstring, the nearest name where one is unknown."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from bptt._arrays import brief
from bptt.layers.options import LayerOptions

if TYPE_CHECKING:
    _P = ParamSpec("_P")
    _Self = TypeVar("_Self")
    _Class = TypeVar("_Class", bound=type)

    Constructor = Callable[Concatenate[_Self, _P], None]

_PLACE = "        {options}\n"


def described(layer: _Class) -> _Class:
    """Put what LayerOptions says of the shared arguments where the docstring has {options}."""
    if layer.__doc__ and LayerOptions.__doc__:  # neither with python -OO
        text = inspect.cleandoc(LayerOptions.__doc__).split("\n\n", 2)[2]
        layer.__doc__ = layer.__doc__.replace(_PLACE, textwrap.indent(text, " " * 8) + "\n")
    return layer


def checks_names(init: Constructor[_Self, _P]) -> Constructor[_Self, _P]:
    """Let a constructor refuse an unknown keyword with the layer's name and the nearest right one."""
    known = [*inspect.signature(init).parameters][1:]

    @functools.wraps(init)
    def checked(self: Any, /, *args: Any, **options: Any) -> None:
        for name in options.keys() - known:
            import difflib  # needed for this error alone

            layer, near = type(self).__name__, difflib.get_close_matches(name, known, 1, 0.75)
            expected = f"expected {near[0]}" if near else f"help(bptt.{layer}) lists all"
            raise TypeError(f"{layer}: there is no option {brief(name)}, {expected}")
        init(self, *args, **options)

    return checked
