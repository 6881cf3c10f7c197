# SPDX-License-Identifier: Apache-2.0
"""The files that a command writes beside a model, pictures and logs, which are checked before the work; their times."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from bptt._atomic_file import check_replaceable
from bptt._pictures import KINDS

__all__ = ["can_draw", "check_different", "check_log", "check_picture", "written_at"]


def check_different(paths: Mapping[str, str | None]) -> None:
    """Raise ValueError where two options, given by name, name the same file; None names none."""
    seen: dict[str, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise ValueError(f"{other} and {name} both name {path!r}, expected different files")


def can_draw() -> bool:
    """Whether matplotlib is installed; it is not imported."""
    return find_spec("matplotlib") is not None


def check_picture(path: str | None) -> None:
    """Raise ValueError or OSError where no picture could be written to this file, or matplotlib is missing."""
    if path is None:
        return
    if Path(path).suffix[1:].lower() not in KINDS:
        raise ValueError(f"--plot has {path!r}, expected a name that ends in .{' or .'.join(KINDS)}")
    if not can_draw():
        raise ValueError("--plot needs matplotlib, which is not installed, expected it: pip install 'bptt[plot]'")
    check_replaceable(path)


def check_log(path: str | None) -> None:
    """Raise ValueError or OSError where a log cannot be written: a file that is there must be empty or a log."""
    if path is None:
        return
    check_replaceable(path)
    if os.path.exists(path):
        try:
            with open(path, "rb") as file:
                start = file.read(10)
        except OSError as error:
            raise type(error)(f"cannot read {path!r} ({error.strerror}), expected a log of a run") from error
        if start and not start.startswith(b'{"event":'):
            raise ValueError(f"--log has {path!r}, which exists and is no log of a run, expected another name")


def written_at(path: str) -> str:
    """When a file was last written, in local time, such as "2026-11-27 12:44"."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(path)))
