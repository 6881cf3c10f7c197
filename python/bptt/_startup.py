# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while the `bptt` command still imports its modules: exit code 130 and no traceback.

bptt/__init__.py imports this first, since the imports after it take most of the time of a start. Other programs that
import bptt keep their own handler.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["set_interrupt_handler"]


def _is_command() -> bool:
    """Whether this process is `bptt ...` or `python -m bptt ...`."""
    # sys.argv, still as Python made it, is the program's name ("-m" for a module) and the end of the command line
    program = sys.orig_argv[-len(sys.argv) :][:1]
    return [os.path.basename(each).removesuffix(".exe").removeprefix("-m") for each in program] == ["bptt"]


_IS_COMMAND = _is_command()


def set_interrupt_handler(handler: Callable[..., object] | int) -> None:
    """Set what Ctrl-C does in the `bptt` command, unless it is ignored; nothing in other programs."""
    if _IS_COMMAND:
        import signal  # imported here, since most programs that import bptt do not need it

        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)


def _exit(*_: object) -> None:
    os._exit(130)


set_interrupt_handler(_exit)  # a module that is being imported could swallow or reword an exception
