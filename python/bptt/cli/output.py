# SPDX-License-Identifier: Apache-2.0
"""What the commands print, and the exit codes they return."""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["CLOSED", "INTERRUPTED", "OK", "WRONG", "complain", "count", "say"]

OK, WRONG, INTERRUPTED, CLOSED = 0, 2, 130, 141


def say(line: str) -> None:
    """Print a line of results."""
    print(line, flush=True)  # in order with the progress on stderr


def complain(program: str, message: str) -> None:
    """Print what is wrong in one line on stderr."""
    with suppress(OSError):  # nobody reads stderr
        print(f"{program}: {message}", file=sys.stderr, flush=True)


def count(n: int, noun: str) -> str:
    """Return a number of things, such as "1 step" or "1,200 steps"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
