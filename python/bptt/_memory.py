# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may use: that of the machine, or less where a limit is set. For the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            yield from _cgroup_limits(line)


def _cgroup_limits(line: str, root: str = "/sys/fs/cgroup") -> Iterator[int]:
    """Yield the limits of the group in a line of /proc/self/cgroup (0::PATH, or N:memory:PATH) and of those above."""
    _, controllers, path = line.split(":", 2)
    if controllers not in ("", "memory"):
        return
    base, name = (f"{root}/memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
    group = Path(base + path)
    for each in (group, *group.parents):
        with suppress(OSError, ValueError):  # no such file, or no number: "max"
            yield int((each / name).read_text(errors="surrogateescape"))
