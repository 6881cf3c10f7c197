# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may use: that of the machine, or less where a limit is set. For the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

from bptt._cgroups import group_folders, read

if sys.platform != "win32":
    import resource

__all__ = ["memory_limit"]


def memory_limit() -> int | None:
    """Return the bytes that this process may use at most; None where the system does not say.

    The least of: the machine's memory, the process's limits (`ulimit -v`, `ulimit -d`), the limits of its cgroups
    (containers).
    """
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    if sys.platform == "win32":
        return
    with suppress(ValueError, OSError):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY:
            yield soft
    yield from _cgroup_limits()


def _cgroup_limits(root: str = "") -> Iterator[int]:
    """Yield the limits of this process's cgroup and of those above it; root is the directory of proc and sys."""
    for version, folder in group_folders("memory", root):
        with suppress(ValueError):  # no such file, or no number: "max"
            yield int(read(f"{folder}/{'memory.max' if version == 2 else 'memory.limit_in_bytes'}"))
