# SPDX-License-Identifier: Apache-2.0
"""Replaces a file completely or not at all, and removes temporary files of killed writers. Knows nothing of contents.

The contents go to a temporary file in the same directory, then to the disk (fsync), then over the old file (rename).
A writer holds a lock (flock) on its temporary file. The system drops the lock when the process dies, so a temporary
file without a lock can be removed.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = ["check_replaceable", "replace_file"]

# The name does not contain the target's: the sum of the two could be too long for the file system.
_HOST = f"{zlib.crc32(platform.node().encode('utf-8', 'surrogateescape')):08x}"
_TEMPORARY = re.compile(r"\.bptt-(\w+)-[0-9a-f]{16}\.tmp")
_DAY_S = 86400


def replace_file(path: str | os.PathLike[str], contents: bytes) -> None:
    """Write `contents` to `path`, completely or not at all; see `checkpoint.save` for the details.

    Raises: OSError where the file cannot be written; ValueError where `path` is not a regular file.
    """
    with _explained(path) as target:
        _remove_abandoned(target.parent)
        with _temporary(target) as (file, temporary):
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "posix":
                file.close()  # Windows cannot rename an open file
            os.replace(temporary, target)
        _sync_directory(target.parent)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Check whether `replace_file` could write `path`; nothing is changed.

    Raises: OSError where the directory is missing or cannot be written, or the file is write-protected; ValueError
    where `path` is not a regular file.
    """
    with _explained(path) as target:
        if target.exists():
            os.close(os.open(target, os.O_WRONLY))  # the rename would also replace a file that is write-protected
        with _temporary(target):
            pass


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the file that `path` names, after following links; errors say what could not be written."""
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise ValueError(
                f"{os.fspath(path)!r} is not a regular file, expected a file name such as 'model.safetensors'"
            )
        yield target
    except OSError as error:
        why = error.strerror or str(error)
        raise type(error)(
            f"cannot write {os.fspath(path)!r} ({why}), expected a writable directory with enough room"
        ) from error


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield an open, locked, empty file next to `target` with its permissions, and its name; remove it at the end."""
    old = target.stat() if target.exists() else None
    # Nobody else may read it before it has the permissions of the old file; a new file gets the umask's default.
    mode = 0o600 if old else 0o666
    with ExitStack() as cleanup:
        while True:
            path = target.parent / f".bptt-{_HOST}-{secrets.token_hex(8)}.tmp"
            cleanup.callback(_remove, path)
            file = cleanup.enter_context(open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)))
            _lock(file.fileno(), wait=True)
            if path.exists():
                break
            # otherwise another writer found the file before it was locked, and removed it
        if old and os.name == "posix":
            _copy_permissions(old, file.fileno())
        yield file, path


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _copy_permissions(old: os.stat_result, handle: int) -> None:
    """Give an open file the permission bits of an old one and, where the system allows it, its owner and group."""
    new = os.fstat(handle)
    mode = old.st_mode & 0o777
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except OSError:
            try:
                os.fchown(handle, -1, old.st_gid)
            except OSError:  # our group gets only the rights of all others: the bits were meant for another group
                mode &= ~0o070 | (mode & 0o007) << 3
    if mode != os.fstat(handle).st_mode & 0o777:
        os.fchmod(handle, mode)


def _remove_abandoned(directory: Path) -> None:
    """Remove the temporary files of dead processes; files that are locked or cannot be locked stay.

    Some file systems do not show the locks of other hosts: files of other hosts stay until they are a day old.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if match := _TEMPORARY.fullmatch(entry.name):
                _remove_if_abandoned(entry.path, own=match[1] == _HOST)


def _remove_if_abandoned(path: str, *, own: bool) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            old = time.time() - os.fstat(handle).st_mtime > _DAY_S
            if (own or old) and _lock(handle, wait=False):
                os.unlink(path)
        finally:
            os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed; return False where that fails or the system has no such locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":  # a directory cannot be opened on Windows
        return
    try:
        handle = os.open(directory, os.O_RDONLY)
    except PermissionError:  # a directory that can be written but not read; the file has already been renamed
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
