# SPDX-License-Identifier: Apache-2.0
"""Which processors of this machine are threads of one core, and which share a last-level cache (Linux's sysfs)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bptt._cgroups import read

__all__ = ["cache_of", "core_of", "count_cores", "groups_by", "in_order", "largest_cache"]

CACHES = 5  # more levels than any processor has


def core_of(cpu: int, root: str = "") -> set[int]:
    """The processors that share a core with one; none where nothing says so. Args: root, the directory of sys."""
    return _listed(read(f"{root}/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))


def cache_of(cpu: int, root: str = "") -> set[int]:
    """The processors that share a last-level cache with one; none where nothing says so."""
    folder = f"{root}/sys/devices/system/cpu/cpu{cpu}/cache"
    texts = (read(f"{folder}/index{i}/shared_cpu_list") for i in reversed(range(CACHES)))
    return _listed(next(filter(None, texts), ""))


def groups_by(sharing: Callable[[int], set[int]], processors: Iterable[int]) -> list[set[int]]:
    """The processors in groups that share something; asks once for each group."""
    left, groups = sorted(processors), []
    while left:
        group = {left[0], *sharing(left[0])} & set(left)
        groups.append(group)
        left = [cpu for cpu in left if cpu not in group]
    return groups


def count_cores(processors: Iterable[int], root: str = "") -> int:
    """How many cores those processors are: two threads of a core count once. Where nothing says so, each is a core."""
    return len(groups_by(lambda cpu: core_of(cpu, root), processors))


def largest_cache(processors: Iterable[int], root: str = "") -> int:
    """The most cores, of those processors, that one last-level cache serves; 0 where nothing says so."""
    processors = list(processors)
    if not any(cache_of(cpu, root) for cpu in processors[:1]):
        return 0
    return max(count_cores(group, root) for group in groups_by(lambda cpu: cache_of(cpu, root), processors))


def in_order(processors: Iterable[int], root: str = "", *, across: bool = False) -> list[int]:
    """Those processors, cache by cache (or one of each cache in turn); second threads of cores come last.

    Args: root, the directory of sys.
    """
    processors = list(processors)
    second = {cpu for core in groups_by(lambda cpu: core_of(cpu, root), processors) for cpu in sorted(core)[1:]}
    places = []
    for number, cache in enumerate(groups_by(lambda cpu: cache_of(cpu, root), processors)):
        for again in (False, True):
            for i, cpu in enumerate(sorted(cpu for cpu in cache if (cpu in second) == again)):
                places.append((again, i if across else number, number if across else i, cpu))
    return [cpu for *_, cpu in sorted(places)]


def _listed(text: str) -> set[int]:
    """The numbers of a list such as "0-3,8"; none where it is no list."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            return set()
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
