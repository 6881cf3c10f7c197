# SPDX-License-Identifier: Apache-2.0
"""The files that a command writes beside a model: pictures and logs. Checked before the work, written after it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["check_different", "check_log", "check_picture", "write_picture"]

PICTURES = (".png", ".pdf", ".svg")


def check_different(paths: Mapping[str, str | None]) -> None:
    """Raise ValueError where two options, given by name, name the same file; None names none."""
    seen: dict[str, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise ValueError(f"{other} and {name} both name {path!r}, expected different files")


def check_picture(path: str | None) -> None:
    """Raise ValueError or OSError where `write_picture` could not write this file, or matplotlib is missing."""
    from bptt._atomic_file import check_replaceable

    if path is None:
        return
    if Path(path).suffix.lower() not in PICTURES:
        raise ValueError(f"--plot has {path!r}, expected a name that ends in {' or '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib, which is not installed, expected it: pip install 'bptt[plot]'")
    check_replaceable(path)


def write_picture(path: str, figure: Any) -> None:
    """Write a figure of matplotlib, completely or not at all."""
    from bptt._atomic_file import replace_file

    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=120)
    replace_file(path, buffer.getvalue())


def check_log(path: str | None) -> None:
    """Raise ValueError or OSError where a log cannot be written: a file that is there must be empty or a log."""
    from bptt._atomic_file import check_replaceable

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
