# SPDX-License-Identifier: Apache-2.0
"""The processors of this machine in the order in which benchmarks pin threads to them."""

from __future__ import annotations

from bptt._threads import available_processors
from bptt._topology import cache_of, count_cores, groups_by, in_order


def domains() -> list[list[int]]:
    """The processors that this process may use, by last-level cache."""
    return [sorted(group) for group in groups_by(cache_of, available_processors())]


def cores() -> int:
    """How many cores they are."""
    return count_cores(available_processors())


def order(across: bool = False) -> list[int]:
    """These processors, cache by cache, or one of each cache in turn."""
    return in_order(available_processors(), across=across)
