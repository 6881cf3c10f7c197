# SPDX-License-Identifier: Apache-2.0
"""The batches of a run in order, and the place in them, which a continued run finds again.

A list is entered at that place. A source with `state()` and `restore(state)`, such as `bptt.data.Batches`, is put
there. All others are gone through again, so that sources which draw from a seed of their own are at that place, too.
Checksums of the first batch of the run and of the one in which it goes on tell whether these are the same data.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from bptt._arrays import as_array
from bptt.train.batch import as_batch, is_sequences

__all__ = ["Source"]


class Source:
    """The batches of a run.

    Args: batches, as `fit` takes them; most, the number of batches taken of each epoch, None for all; kept, whether the
        run has a file that keeps its place.
    """

    def __init__(self, batches: Any, most: int | None = None, *, kept: bool = False) -> None:
        self._batches, self._most, self._kept = batches, most, kept
        both = (getattr(batches, name, None) for name in ("state", "restore"))
        self._has_place = kept and all(map(callable, both))
        self._present: Any = None  # the last batch
        self._first = 0  # the checksum of the run's first batch, 0 before it
        # States of the source: before the first batch of the run, and before the present one.
        self._begin: Any = None
        self._place: Any = None
        self._expected: tuple[int, int] | None = None  # number and checksum of the batch in which a run goes on
        self._skipped = 0  # batches of the next epoch that a source at its place does not give

    def epoch(self, epoch: int) -> Iterator[tuple[int, Any]]:
        """The numbers and batches of this epoch of the run, or the rest of it that a continued run needs."""
        batches = iter(self._batches)
        number, self._skipped = self._skipped, 0
        while self._most is None or number < self._most:
            if self._has_place:
                self._place = self._batches.state()
            try:
                given = next(batches)
            except StopIteration:
                return
            self._present = given
            if self._kept and (number, epoch) == (0, 0):
                self._check_first(given)
            if self._expected is not None and self._expected[0] == number:
                _compare(given, self._expected[1], number, epoch)
                self._expected = None
            yield number, given
            number += 1

    def saved(self, *, inside: bool) -> dict[str, Any]:
        """What a file keeps, for a run that is inside a batch, or between two."""
        place = {"begin": self._begin, "place": self._place} if self._has_place else None
        present = 0
        if inside:  # a run that has not come to its batch yet keeps what it expects there
            present = _checksum(self._present) if self._expected is None else self._expected[1]
        return {"first": self._first, "present": present, "source": place}

    def load(self, saved: dict[str, Any], batch: int, *, inside: bool) -> None:
        """Take what `saved` returned, for a run that goes on with batch `batch`, or inside it.

        Raises: ValueError where the first batch is another one, as far as it is at hand; what `restore` raises.
        """
        self._first = saved["first"]
        if inside:
            self._expected = batch, saved["present"]
        if self._has_place and saved["source"] is not None:
            self._begin, self._place = saved["source"]["begin"], saved["source"]["place"]
        else:
            self._has_place = False
        if isinstance(self._batches, (list, tuple)):
            for given in self._batches[:1]:
                self._check_first(given)
        elif self._has_place:
            self._batches.restore(self._begin)
            for given in self._batches:
                self._check_first(given)
                break
            self._batches.restore(self._place)
            self._skipped = batch

    def replay(self, epochs: int) -> None:
        """Go through past epochs of a source that has no place."""
        if isinstance(self._batches, (list, tuple)) or self._has_place:
            return
        for epoch in range(epochs):
            for number, given in enumerate(islice(self._batches, self._most)):
                if (number, epoch) == (0, 0):
                    self._check_first(given)

    def _check_first(self, given: Any) -> None:
        """Remember the first batch of a run; in a continued one compare it."""
        if not self._first:
            self._first, self._begin = _checksum(given), self._place
        else:
            _compare(given, self._first, 0, 0)


def _compare(given: Any, checksum: int, number: int, epoch: int) -> None:
    if _checksum(given) != checksum:
        what = f"batch {number} of epoch {epoch} differs from that of the run that is continued"
        raise ValueError(f"fit: {what}, expected the same batches in the same order")


def _checksum(given: Any) -> int:
    """The CRC-32 of a batch; what is no array, as a target may be, is left out."""
    crc = 0
    for name, part in as_batch(given)._asdict().items():
        crc = zlib.crc32(name.encode(), crc)
        for each in part if is_sequences(part) else [part]:
            rows = (each.data, each.batch_sizes) if hasattr(each, "batch_sizes") else (each,)
            for row in rows:
                with contextlib.suppress(BufferError, RuntimeError, TypeError, ValueError):
                    array = as_array("fit", name, row)
                    crc = zlib.crc32(f"{array.dtype.str} {array.shape}".encode(), crc)
                    crc = zlib.crc32(b"" if array.dtype.hasobject else array.tobytes(), crc)
    return crc
