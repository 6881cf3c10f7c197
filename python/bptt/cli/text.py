# SPDX-License-Identifier: Apache-2.0
"""The text that a command reads, and whether memory can hold it."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from bptt._memory import memory_limit
from bptt._terminal import watched
from bptt.cli.output import count

if TYPE_CHECKING:
    from bptt.textdata import Ids, Vocabulary

__all__ = ["read_ids", "read_text", "require_memory"]


def read_text(file: str | None) -> tuple[str, str]:
    """Return the name and the characters of a text, for None of the default one; ValueError where it is too long."""
    from bptt import textdata

    name = "the manual of this Python" if file is None else file
    # in memory at once: the file's bytes and the text, which takes 2 bytes for a character of up to 3
    require_memory(0, 0 if file is None else _size(file) * 5 // 3, name)
    try:
        return name, textdata.default_text() if file is None else textdata.read_text(file)
    except MemoryError:
        raise _too_long(name) from None


def read_ids(file: str | None, batch_size: int, seq_len: int) -> tuple[str, Vocabulary, Ids]:
    """Return the name, the characters and the ids [N] of the text; ValueError where it is too short or too long."""
    from bptt.textdata import HELD_OUT, Streams, Vocabulary

    name, text = read_text(file)
    # the text without the held-out part must fill the streams once; 20 leaves two characters for validation
    shortest = max(20, math.ceil((Streams.shortest(batch_size, seq_len) + 0.5) / (1 - HELD_OUT)))
    if len(text) < shortest:
        raise ValueError(
            f"{name} has {count(len(text), 'character')}, expected at least {shortest:,} "
            f"for --batch-size {batch_size} and --seq-len {seq_len}"
        )
    try:
        vocabulary = Vocabulary.of(text, watched("reading the text"))
        return name, vocabulary, vocabulary.encode(text, watch=watched("encoding the text"))
    except MemoryError:
        raise _too_long(name) from None


def _too_long(name: str) -> ValueError:
    return ValueError(f"{name} takes more memory than this process may use, expected a shorter text")


def _size(path: str) -> int:
    """Return the size of a file in bytes; 0 where it is unknown (reading a missing file will report that)."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def require_memory(sizes: int, text: int, name: str) -> None:
    """Raise ValueError unless memory can hold `sizes` bytes for model and batches and `text` bytes for the text."""
    limit = memory_limit()
    if limit is None or sizes + text <= limit:  # where the system gives no limit, an allocation fails instead
        return
    expected = f"expected at most the {limit / 1e9:,.1f} GB that this process may use"
    if text > limit:
        raise ValueError(f"{name} takes at least {text / 1e9:,.1f} GB of memory, {expected}; give a shorter text")
    raise ValueError(
        f"these sizes take at least {sizes / 1e9:,.1f} GB of memory and the text {text / 1e9:,.1f} GB, {expected}; "
        "make --hidden, --layers, --batch-size or --seq-len smaller"
    )
