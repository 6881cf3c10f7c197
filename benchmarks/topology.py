# SPDX-License-Identifier: Apache-2.0
"""The processors of this machine in the order in which benchmarks pin threads to them."""

from __future__ import annotations

from bptt._threads import available_processors
from bptt._topology import cache_of, core_of, count_cores, groups_by


def domains() -> list[list[int]]:
    """The processors that this process may use, by last-level cache."""
    return [sorted(group) for group in groups_by(cache_of, available_processors())]


def cores() -> int:
    """How many cores they are."""
    return count_cores(available_processors())


def order(across: bool = False) -> list[int]:
    """These processors, cache by cache (or one of each cache in turn); second threads of cores come last."""
    second = {cpu for core in groups_by(core_of, available_processors()) for cpu in sorted(core)[1:]}
    places = []
    for number, domain in enumerate(domains()):
        for again in (False, True):
            members = [cpu for cpu in domain if (cpu in second) == again]
            for i, cpu in enumerate(members):
                places.append((again, i if across else number, number if across else i, cpu))
    return [cpu for *_, cpu in sorted(places)]
