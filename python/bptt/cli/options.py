# SPDX-License-Identifier: Apache-2.0
"""The options of the commands: their types, which say in one line what they expect."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

__all__ = ["number", "one_of", "option", "whole"]


def option(
    parser: Any, name: str, kind: Callable[[str], Any], default: Any, text: str, metavar: str | None = None
) -> None:
    """Add an option of one value; its default is shown in the help."""
    shown = "" if default is None else " (default: %(default)s)"
    parser.add_argument(name, type=kind, default=default, help=text + shown, metavar=metavar)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return the type of a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"has {text!r}, expected a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """Return the type of a number from `low` to `high`, or above `low`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            limits = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"has {text!r}, expected a number {limits}")
        return value

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """Return the type of a name out of `names`."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"has {text!r}, expected {' or '.join(names)}")
        return text

    return parse
