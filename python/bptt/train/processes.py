# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one model, each on its own batches: what they tell each other, as sums of arrays.

There is no networking here: the caller's `all_reduce` adds the arrays of all processes. Everything that decides about
the run is in these sums, so that all processes decide alike:

- `begin`, at the start: whether parameters, optimizer and place are the same, and whether `agree` is needed at all.
- `update`, in each update: gradients, loss, metrics and the number of targets. `end_epoch` takes the place of an update
  where a process has no more batches: an array of the same size, so that processes whose batches are not as many find
  it out instead of waiting for each other.
- `agree`, after the callbacks: who wants to stop. `add`: sums of validation. `end`: are the parameters still the same?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.params import Params

__all__ = ["Processes", "Shared"]

# A digest is sent as numbers of 6 bits and their squares. n numbers are equal where n times the sum of their squares is
# the square of their sum. Sums up to 2^24 are exact in float32: enough for 4227 processes.
_BITS = 6
_SPLIT = 4096  # targets are sent as quotient and rest, for the same reason
_HEAD = 5  # processes, those without a batch, those with a loss that is not finite, targets (quotient and rest)


class Shared(NamedTuple):
    """The loss and metrics of the joined batch of all processes, and its number of targets."""

    loss: float
    metrics: dict[str, float]
    targets: int


class Processes:
    """What one process knows of all. all_reduce: adds the arrays of all processes, in place."""

    def __init__(self, all_reduce: Callable[[Any], object], params: Params) -> None:
        self._all_reduce, self._params = all_reduce, params
        self._buffer: Array | None = None
        self._agrees = False

    def begin(self, state: Mapping[str, Any], agrees: bool) -> None:
        """Compare the processes at their start. state: what must be the same, by name; agrees: may this one stop?"""
        parts = {"parameters": self._digest(), **{name: _bytes(each) for name, each in state.items()}}
        pieces = np.concatenate([_pieces(each, 8) for each in parts.values()])
        sums = self._sum(np.array([1.0, float(agrees), *pieces]))
        self._agrees = bool(sums[1] > 0)
        for name, part in zip(parts, np.split(sums[2:], len(parts)), strict=True):
            self._check_same(part, sums[0], name, "as the run begins")

    def update(
        self, grads: Params, loss: float, metrics: Mapping[str, float], targets: int, place: tuple[int, float]
    ) -> Shared:
        """Turn the gradients of this process's batch into those of the joined batch.

        Each process counts with its number of targets. place: number and learning rate of the update.
        Raises: FloatingPointError where the loss of any process is not finite; ValueError where processes are not at
            the same place.
        """
        finite, size = bool(np.isfinite(loss)), grads.size
        buffer = self._room(_HEAD + 1 + len(metrics) + 8)
        if finite and targets:
            np.multiply(grads.flat, targets, out=buffer[:size])
        else:
            buffer[:size] = 0
        weighted = [each * targets if finite else 0.0 for each in (loss, *metrics.values())]
        head = [1.0, 0.0, float(not finite), targets // _SPLIT, targets % _SPLIT]
        buffer[size:] = [*head, *weighted, *_pieces(_bytes(place), 4)]
        total = self._sum(buffer)
        n, ended, infinite, high, low = total[size : size + _HEAD].tolist()
        if ended:
            self._raise_uneven(n, ended)
        self._check_same(total[-8:], n, f"the learning rate of update {place[0]}", "(schedules and callbacks set it)")
        if infinite:
            has = f"the value {loss}" if not finite else "a value that is not finite in another process"
            raise FloatingPointError(f"loss has {has}, expected a finite one; nothing changed")
        if high != round(high) or low != round(low):
            has = f"a sum of targets that is not whole, {high * _SPLIT + low}"
            raise ValueError(f"fit: all_reduce left {has}, expected the sum over all processes, not their mean")
        count = round(high) * _SPLIT + round(low)
        if not count:
            return Shared(0.0, dict.fromkeys(metrics, 0.0), 0)
        np.divide(total[:size], count, out=grads.flat)
        means = (total[size + _HEAD : -8].astype(np.float64) / count).tolist()
        return Shared(means[0], dict(zip(metrics, means[1:], strict=True)), count)

    def end_epoch(self, metrics: int) -> None:
        """Say that this process has no more batches in this epoch, and check that no other has."""
        buffer = self._room(_HEAD + 1 + metrics + 8)
        buffer[:] = 0
        head = len(buffer) - (_HEAD + 1 + metrics + 8)
        buffer[head : head + 2] = 1
        buffer[-8:] = _pieces(self._digest(), 4)
        total = self._sum(buffer)
        n, ended = total[head : head + 2].tolist()
        if ended < n:
            self._raise_uneven(n, ended)
        self._check_same(total[-8:], n, "parameters", _SAME_BITS)

    def agree(self, *wishes: bool) -> list[bool]:
        """For each wish, whether any process has it."""
        if not self._agrees:
            return [*wishes]
        return [bool(each > 0) for each in self._sum(np.array(wishes, np.float64))]

    def add(self, values: list[float]) -> list[float]:
        """The sums of these values over all processes."""
        sums: list[float] = self._sum(np.array(values, np.float64)).tolist()
        return sums

    def end(self) -> None:
        """Check that all processes have the same parameters."""
        sums = self._sum(np.array([1.0, *_pieces(self._digest(), 8)]))
        self._check_same(sums[1:], sums[0], "parameters", _SAME_BITS)

    def _room(self, more: int) -> Array:
        """Room for the gradients and `more` numbers, the same in all updates."""
        if self._buffer is None:
            self._buffer = np.zeros(self._params.size + more, self._params.dtype)
        return self._buffer

    def _sum(self, values: Array) -> Array:
        returned = self._all_reduce(values)
        if returned is not None and returned is not values:
            what = f"fit: all_reduce returned {type(returned).__name__}"
            raise TypeError(f"{what}, expected None, and the sum over all processes in the array that it is given")
        return values

    def _digest(self) -> bytes:
        return _bytes(self._params.flat.data, {name: list(shape) for name, shape in self._params.shapes.items()})

    def _check_same(self, sums: Array, n: float, what: str, why: str) -> None:
        first, second = np.split(sums.astype(np.float64), 2)
        if (n * second - first * first > 0.25).any():
            raise ValueError(f"fit: the processes differ in {what}, expected the same in all of them {why}")

    def _raise_uneven(self, n: float, ended: float) -> None:
        what = f"{round(ended)} of {round(n)} processes have no more batches in this epoch, and the others have"
        raise ValueError(
            f"fit: {what}, expected as many updates in each: leave out a rest, or pad it with lengths of 0"
        )


_SAME_BITS = (
    "(all_reduce must leave the same bits everywhere, and callbacks that change a model belong to all processes)"
)


def _bytes(*values: Any) -> bytes:
    """A digest of memory, or of values as JSON or, where they are none, as text."""
    import hashlib  # imported here and below, since most runs are of one process
    import json

    found = hashlib.blake2b(digest_size=8)
    for value in values:
        found.update(value if isinstance(value, (bytes, memoryview)) else json.dumps(value, default=_plain).encode())
    return found.digest()


def _plain(value: Any) -> str:
    import hashlib

    return hashlib.blake2b(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else repr(value)


def _pieces(digest: bytes, count: int) -> Array:
    """The first `count` numbers of 6 bits of a digest, and their squares."""
    whole = int.from_bytes(digest, "little")
    numbers = np.array([(whole >> (_BITS * k)) & (2**_BITS - 1) for k in range(count)], np.float64)
    return np.concatenate([numbers, numbers**2])
