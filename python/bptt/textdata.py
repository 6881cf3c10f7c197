# SPDX-License-Identifier: Apache-2.0
"""Text for character models: reading it, numbering its characters, cutting it into continuous streams.

No model and no terminal here. A text becomes ids [N] (the smallest unsigned dtype that holds them), and its tail is
held out. `Streams` yields the rest as x, y [T,B] int64 in the order that truncated BPTT needs: row t+1 of a column
follows row t, and each batch continues the one before, so that the state can be carried over.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["HELD_OUT", "Streams", "Vocabulary", "default_text", "read_text", "split_tail"]

HELD_OUT = 0.1  # the share of a text, at its end, that only validation sees
CHUNK = 2**20  # characters numbered at a time: the arrays for this stay small compared with the text

Ids = NDArray[np.unsignedinteger[Any]]
Watch: TypeAlias = Callable[[Any], Iterator[Any]]


def default_text() -> str:
    """Return the help topics of the Python manual, shipped with CPython (about 465,000 characters).

    The topics of `pydoc_data.topics`, in alphabetical order, joined by newlines: the same text on every machine with
    the same Python version.

    Raises: ValueError where this Python has no such module.

    >>> default_text().startswith('The "assert" statement')
    True
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("default_text: this Python has no pydoc_data.topics, expected a FILE instead") from None
    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Return the text of a UTF-8 file; line ends become `\n`, a byte order mark is dropped.

    Raises: OSError where the file cannot be read; ValueError where it is not UTF-8.

    >>> read_text("no such file")
    Traceback (most recent call last):
    FileNotFoundError: cannot read 'no such file' (No such file or directory), expected a UTF-8 text file
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        name, byte = os.fspath(path), error.object[error.start]
        raise ValueError(
            f"{name!r} has the byte 0x{byte:02x} at position {error.start}, expected UTF-8; perhaps: "
            f"iconv {_iconv_options(error.object, error.start)} -t utf-8 {shlex.quote(str(name))} > as-utf8.txt"
        ) from None
    except OSError as error:
        raise type(error)(f"cannot read {os.fspath(path)!r} ({error.strerror}), expected a UTF-8 text file") from error


def _iconv_options(data: bytes, start: int) -> str:
    """Guess the options by which iconv reads a text whose first byte that is not UTF-8 is at `start`."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # first: it begins with UTF-16's mark
        return "-f utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "-f utf-16"
    if not data[:start].isascii():  # UTF-8 up to here: drop the damaged bytes
        return "-c -f utf-8"
    first = max(0, start - 2**15) // 2 * 2
    sample = data[first : start + 2**15]
    zeros = sample[::2].count(0), sample[1::2].count(0)
    if max(zeros) > len(sample) / 4 and min(zeros) < len(sample) / 20:  # in Western UTF-16 every second byte is zero
        return "-f utf-16be" if zeros[0] > zeros[1] else "-f utf-16le"
    is_latin = not any(zeros) and len(re.findall(rb"[\x80-\xff]", sample)) <= len(sample) / 3
    if is_latin and not re.search(rb"[\x80-\x9f]", sample):
        return "-f latin1"
    # cp1252 has letters where Latin-1 has control characters, and leaves five bytes unused.
    if is_latin and not re.search(rb"[\x81\x8d\x8f\x90\x9d]", sample):
        return "-f cp1252"
    return "-f ITS_ENCODING"


class Vocabulary:
    """The distinct characters of a text, numbered 0 to V-1 in the order given.

    - `characters`: str, V distinct characters.

    Raises: TypeError where it is no str; ValueError where it is empty or has a character twice.

    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.characters, vocabulary.encode("nab").tolist(), vocabulary.decode([1, 0, 2])
    ('abn', [2, 0, 1], 'ban')
    """

    def __init__(self, characters: str) -> None:
        """Number `characters` in their order."""
        if not isinstance(characters, str):
            raise TypeError(f"Vocabulary: characters has type {type(characters).__name__}, expected str")
        if not characters or len(set(characters)) != len(characters):
            raise ValueError(f"Vocabulary: characters has {len(characters)} characters, expected distinct ones, >= 1")
        self.characters = characters
        codes = _code_points(characters)
        self._table = np.full(int(codes.max()) + 1, -1, np.int32)  # code point -> id, -1 where absent
        self._table[codes] = np.arange(len(codes))
        self._dtype = np.min_scalar_type(len(codes) - 1)

    @classmethod
    def of(cls, text: str, watch: Watch = iter) -> Vocabulary:
        """Return the characters that occur in `text`, sorted by code point; `watch` as of `encode`."""
        seen = np.zeros(sys.maxunicode + 1, bool)
        for _, codes in _chunks(text, watch):
            seen[codes] = True
        return cls("".join(map(chr, np.flatnonzero(seen).tolist())))

    def __len__(self) -> int:
        """Return V."""
        return len(self.characters)

    def encode(self, text: str, name: str = "text", watch: Watch = iter) -> Ids:
        """Return the ids [N] of N characters; ValueError (about `name`) lists those that are not in the vocabulary.

        - `watch`: what goes through the pieces of the text, and may show how far it is; such as `tqdm.tqdm`.
        """
        ids = np.empty(len(text), self._dtype)
        for start, codes in _chunks(text, watch):
            found = np.where(codes < len(self._table), self._table[np.minimum(codes, len(self._table) - 1)], -1)
            if (found < 0).any():
                unknown = " ".join(map(repr, sorted({chr(code) for code in codes[found < 0].tolist()})[:10]))
                raise ValueError(f"{name} has {unknown}, expected only the {len(self)} characters of the vocabulary")
            ids[start : start + len(codes)] = found
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids in [0, V)."""
        return "".join(self.characters[i] for i in ids)


def split_tail(ids: Ids, fraction: float = HELD_OUT) -> tuple[Ids, Ids]:
    """Return (ids to learn from, the last `fraction` of them, held out for validation), both views.

    >>> [part.tolist() for part in split_tail(np.arange(10, dtype=np.uint8), 0.2)]
    [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]
    """
    cut = len(ids) - round(len(ids) * fraction)
    return ids[:cut], ids[cut:]


class Streams:
    """One pass over a text as B parallel streams: batches (x, y), both [T,B] int64, y one character ahead of x.

    Column b of the first batch starts at character b*L, L = (N-1) // B; each batch continues the columns of the one
    before it, so a recurrent state stays valid from batch to batch. The last batch of a pass may be shorter than T;
    the N-1 - L*B < B characters at the very end are left out.

    - `ids`: [N] integers. `batch_size`: B. `seq_len`: T.

    Raises: ValueError where L < T, the text being too short for B streams of T characters.

    >>> streams = Streams(np.arange(9), batch_size=2, seq_len=3)
    >>> len(streams), [x.T.tolist() for x, y in streams]
    (2, [[[0, 1, 2], [4, 5, 6]], [[3], [7]]])
    """

    def __init__(self, ids: NDArray[np.integer[Any]], batch_size: int, seq_len: int) -> None:
        """Cut `ids` into streams; nothing is copied."""
        if batch_size < 1 or seq_len < 1:
            raise ValueError(f"Streams: batch_size, seq_len has {batch_size}, {seq_len}, expected at least 1")
        if len(ids) < self.shortest(batch_size, seq_len):
            raise ValueError(
                f"Streams: ids has {len(ids)} characters, expected at least {self.shortest(batch_size, seq_len)} "
                f"(batch_size {batch_size} x seq_len {seq_len} + 1)"
            )
        self.batch_size, self.seq_len = batch_size, seq_len
        self.length = (len(ids) - 1) // batch_size
        used = batch_size * self.length
        self._x = ids[:used].reshape(batch_size, self.length)
        self._y = ids[1 : used + 1].reshape(batch_size, self.length)

    @staticmethod
    def shortest(batch_size: int, seq_len: int) -> int:
        """Return the number of characters that the shortest usable text has."""
        return batch_size * seq_len + 1

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return -(-self.length // self.seq_len)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield one pass of batches (x, y), each [T,B]."""
        for t in range(0, self.length, self.seq_len):
            chunk = slice(t, t + self.seq_len)
            yield _time_major(self._x[:, chunk]), _time_major(self._y[:, chunk])


def _time_major(rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    return np.ascontiguousarray(rows.T, dtype=np.int64)


def _chunks(text: str, watch: Watch = iter) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    for start in watch(range(0, len(text), CHUNK)):
        yield start, _code_points(text[start : start + CHUNK])


def _code_points(text: str) -> NDArray[np.uint32]:
    # surrogatepass: an undecodable byte of the command line is a lone surrogate; it is reported instead of a crash
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
