# SPDX-License-Identifier: Apache-2.0
"""Process-wide settings: threads, memory, and the facts of this build and this machine."""

from __future__ import annotations

import os
import sys

import numpy as np

from bptt._arrays import check_size
from bptt._dispatch import core
from bptt._precision import get_matmul_precision, products_of
from bptt._threads import available_processors, default_threads, register_with_threadpoolctl
from bptt._topology import in_order, largest_cache

__all__ = ["config", "get_num_threads", "release_memory", "set_num_threads", "show_config"]

MAX_THREADS: int = core.max_threads  # the most that set_num_threads accepts


def set_num_threads(n: int) -> None:
    """Use `n` threads in all calls from now on; results have the same bits for every number.

    The default is the environment variable BPTT_NUM_THREADS, from 1 to 256; else the first number of OMP_NUM_THREADS;
    else the cores that the process may use (affinity mask, cgroup quotas; two hardware threads of a core count once).
    Small calls use fewer. `threadpoolctl.threadpool_limits` also sets the number.
    Raises: ValueError for n < 1 or n > 256, TypeError for what is not an integer.

    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    global _chosen
    core.set_num_threads(check_size("set_num_threads", "n", n))
    _chosen = True


def threads_chosen() -> bool:
    """Whether the program or BPTT_NUM_THREADS has set the number of threads for this library alone."""
    return _chosen


def get_num_threads() -> int:
    """Return the number of threads that calls use.

    >>> get_num_threads() >= 1
    True
    """
    return core.get_num_threads()


def release_memory() -> int:
    """Return free memory of the library to the system; what tapes and layers use stays.

    The library keeps the working memory of calls for the next ones, at most 5/4 of the peak in use plus 16 MiB. This
    function frees it, for example after the last call of a large model.
    Returns: the number of bytes.

    >>> release_memory() >= 0
    True
    """
    return core.release_memory()


def config() -> dict[str, str | int]:
    """Return the build and the settings in use: versions, compiler, instruction-set level, threads, precision.

    >>> config()["threads"] == get_num_threads()
    True
    """
    return {
        **core.config(),
        "matmul_precision": get_matmul_precision(),
        "high_products": products_of("high"),
        "medium_products": products_of("medium"),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def show_config() -> None:
    """Print `config`, one line for each entry."""
    for key, value in config().items():
        print(f"{key}: {value}")


_chosen = bool(os.environ.get("BPTT_NUM_THREADS", "").strip())
core.set_num_threads(default_threads(os.environ))
core.set_processors(in_order(available_processors()), largest_cache(available_processors()) or 8)
register_with_threadpoolctl()
