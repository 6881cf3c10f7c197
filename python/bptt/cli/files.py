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

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}  # the first bytes of pictures
LOG = b'{"event":'


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
    """Raise ValueError or OSError where no picture could or must be written to this file, or matplotlib is missing."""
    if path is None:
        return
    if Path(path).suffix[1:].lower() not in KINDS:
        raise ValueError(f"--plot has {path!r}, expected a name that ends in .{' or .'.join(KINDS)}")
    if not can_draw():
        raise ValueError("--plot needs matplotlib, which is not installed, expected it: pip install 'bptt[plot]'")
    check_replaceable(path)
    signature = SIGNATURES[Path(path).suffix[1:].lower()]
    if _start(path, len(signature), "a picture") not in (b"", signature):
        raise ValueError(f"{path!r} exists and is not a picture, expected another name")


def check_log(path: str | None) -> None:
    """Raise ValueError or OSError where a log cannot be written: a file that is there must be empty or a log."""
    if path is None:
        return
    check_replaceable(path)
    if _start(path, len(LOG), "a log of a run") not in (b"", LOG):
        raise ValueError(f"--log has {path!r}, which exists and is no log of a run, expected another name")


def _start(path: str, size: int, expected: str) -> bytes:
    """The first bytes of a file, none where there is no file."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise type(error)(f"cannot read {path!r} ({error.strerror}), expected {expected}") from error


def written_at(path: str) -> str:
    """When a file was last written, in local time, such as "2026-11-27 12:44"."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(path)))
