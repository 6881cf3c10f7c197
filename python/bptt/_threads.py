# SPDX-License-Identifier: Apache-2.0
"""How many threads calls use until a program sets the number, and how `threadpoolctl` sets it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from bptt._arrays import brief
from bptt._cgroups import group_folders, read
from bptt._dispatch import core
from bptt._topology import count_cores

if TYPE_CHECKING:
    from collections.abc import Mapping


def default_threads(environ: Mapping[str, str]) -> int:
    """BPTT_NUM_THREADS, or else the first number of OMP_NUM_THREADS, or else the available cores.

    Two threads of one core share its multipliers, which products keep busy, and would only wait for each other.

    Raises: ImportError for a BPTT_NUM_THREADS that is no integer from 1 to `core.max_threads`. A wrong OMP_NUM_THREADS
        is ignored, as OpenMP ignores it.
    """
    wanted = environ.get("BPTT_NUM_THREADS", "").strip()
    if wanted:
        threads = _positive(wanted)
        if threads is None or threads > core.max_threads:
            has = f"bptt: BPTT_NUM_THREADS has value {brief(wanted)}"
            raise ImportError(f"{has}, expected an integer from 1 to {core.max_threads}")
        return threads
    threads = _positive(environ.get("OMP_NUM_THREADS", "").split(",")[0].strip())  # "4,2": 2 is for nested regions
    return min(threads or available_cores(), core.max_threads)


def _positive(text: str) -> int | None:
    """The integer >= 1 that `text` is, or None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and int(text) else None


def available_processors() -> list[int]:
    """The processors that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def available_cores() -> int:
    """Cores this process may use: those of its affinity mask, at most its quota, rounded up."""
    return max(1, math.ceil(min(count_cores(available_processors()), cpu_quota())))


def cpu_quota(root: str = "") -> float:
    """The least quota, in cores, of this process's cgroup and the groups that contain it; infinity without one.

    Args: root, the directory of proc and sys.
    """
    least = math.inf
    for version, folder in group_folders("cpu", root):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with suppress(ValueError, ZeroDivisionError):  # "max", no such file, or nothing that we know
            quota, period = map(int, " ".join(read(f"{folder}/{name}") for name in names).split())
            least = min(least, quota / period if quota > 0 else math.inf)
    return least


def register_with_threadpoolctl() -> None:
    """Let `threadpoolctl.threadpool_limits` limit our pool with those of other libraries."""
    try:
        import threadpoolctl
    except ImportError:
        return
    if not hasattr(threadpoolctl, "register"):  # before 3.2
        return

    class BpttController(threadpoolctl.LibController):
        """Finds the native module among the libraries that the process has loaded."""

        user_api = internal_api = "bptt"
        filename_prefixes = (f"_core_{core.level}.",)
        check_symbols = (f"PyInit__core_{core.level}",)

        def get_num_threads(self) -> int:
            return core.get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            core.set_num_threads(min(num_threads, core.max_threads))

        def get_version(self) -> str:
            return core.version

    threadpoolctl.register(BpttController)
