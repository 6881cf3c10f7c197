# SPDX-License-Identifier: Apache-2.0
"""Locks that do not outlive the threads that hold them: a forked child has only the thread that forked."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet


class ForkSafeLock:
    """A lock, used as `with lock.held:`; in a forked child it is a new one, which nobody holds.

    The thread that holds it may take it again: a signal handler that runs during native work may use the same object.

    If another thread was working under the lock at the fork, that work stays half done in the child: users of these
    locks must allow for that.
    """

    def __init__(self) -> None:
        self.held = threading.RLock()
        _all.add(self)


_all: WeakSet[ForkSafeLock] = WeakSet()


def _renew() -> None:
    for lock in _all:
        lock.held = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
