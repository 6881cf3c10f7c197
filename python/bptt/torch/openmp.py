# SPDX-License-Identifier: Apache-2.0
"""PyTorch's OpenMP threads as the threads of our calls.

After each of its operations they spin for milliseconds, and would take the cores from threads of ours.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from bptt._dispatch import core

_NAMES = ("GOMP_parallel", "omp_get_num_threads", "omp_get_thread_num")
_FORKED = 0x40  # PF_FORKNOEXEC of Linux


def use_threads() -> bool:
    """Let calls of `bptt.torch` run on these threads, where that can be. Returns whether they do from now on."""
    addresses = _addresses()
    if addresses:
        core.set_host(*addresses)
    return bool(addresses)


def _addresses() -> list[int]:
    """The functions that PyTorch itself calls, which are the first ones of their names in the process; or none."""
    if not sys.platform.startswith("linux") or is_forked() or "OpenMP" not in torch.__config__.parallel_info():
        return []
    library = ctypes.CDLL(None)
    try:
        found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in _NAMES]
    except AttributeError:
        return []
    return found if all(found) else []


def is_forked() -> bool:
    """Whether this process began as a fork, where libgomp hangs if its parent used it; True where nobody says."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return bool(int(fields[6]) & _FORKED)
    except (OSError, ValueError, IndexError):
        return True
