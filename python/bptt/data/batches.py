# SPDX-License-Identifier: Apache-2.0
"""Batches for `fit`: rows of arrays, or sequences that are padded batch by batch; shuffled, and resumable.

Each epoch has an order of its own, a function of the seed and the number of the epoch. So a position, epoch and batch,
is all that a resumed run needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bptt._arrays import as_array, check_bool, check_seed, check_size, is_number, shape_error
from bptt._engine.lengths import padded
from bptt.data.sequences import as_sequences
from bptt.data.series import has_missing
from bptt.train import Batch

if TYPE_CHECKING:
    from bptt._arrays import Array

POOL = 16  # batches whose sequences are sorted together: fewer mean more padding, more mean less variety of batches


class _Source(Protocol):
    """All rows: how many, their lengths if they have different ones, and some of them as a batch."""

    count: int
    lengths: Array | None

    def take(self, rows: Array) -> Batch: ...


class Batches:
    """Batches of one data set, as `batches` makes them. Each `for` loop over it is one epoch."""

    def __init__(
        self, source: _Source, batch_size: int, seed: int, *, shuffle: bool, bucket_by_length: bool, drop_last: bool
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.shuffle, self.bucket_by_length, self.drop_last = shuffle, bucket_by_length, drop_last
        self._source = source
        self._next_epoch = (0, 0)  # where the next loop begins: its epoch, and its first batch
        self._position = (0, 0)  # epoch and batch that come next

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(self._source.count, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch, or the rest of the one that `restore` is in."""
        epoch, first = self._next_epoch
        self._next_epoch, self._position = (epoch + 1, 0), (epoch, first)  # now, so that `state` is right at once
        return self._rest(epoch, first)

    def _rest(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch, from batch `first` on."""
        for k, rows in enumerate(self._order(epoch)):
            if k >= first:
                batch = self._source.take(rows)
                self._position = (epoch, k + 1) if k + 1 < len(self) else (epoch + 1, 0)
                yield batch

    def state(self) -> dict[str, Any]:
        """Return the position: the next loop over batches with this state yields what has not been yielded yet.

        It can be asked for inside a loop, such as by `on_step` of `fit`, and stored in `extra` of `bptt.save`.

        >>> x = np.arange(6.0).reshape(1, 6, 1)
        >>> first, second = (batches(x, x, 2, shuffle=True, seed=seed) for seed in (3, 4))
        >>> for batch in first:
        ...     break
        >>> second.restore(first.state())
        >>> sum(len(batch.x[0]) for batch in second)  # the other two batches of the epoch
        4
        """
        epoch, batch = self._position
        return {"seed": self.seed, "epoch": epoch, "batch": batch, **self._facts()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a position that `state` gave, also that of another process.

        The seed is taken over. Raises: ValueError for a state of batches of other sizes or options, TypeError for
            anything but a state.
        """
        facts = self._facts()
        names = ("seed", "epoch", "batch", *facts)
        if not isinstance(state, Mapping) or any(name not in state for name in names):
            raise TypeError(
                f"Batches.restore: state lacks an entry, expected {', '.join(names)}, as state() gives them"
            )
        for name, value in facts.items():
            if state[name] != value:
                raise ValueError(f"Batches.restore: state has {name} {state[name]!r}, expected {value!r}, as these")
        epoch = check_size("Batches.restore", "epoch", state["epoch"], least=0)
        batch = check_size("Batches.restore", "batch", state["batch"], least=0, most=len(self) - 1)
        self.seed = check_seed("Batches.restore", state["seed"])
        self._next_epoch = self._position = (epoch, batch)

    def _facts(self) -> dict[str, Any]:
        """What must be equal for a position to mean the same batches."""
        names = ("batch_size", "shuffle", "bucket_by_length", "drop_last")
        return {"rows": self._source.count, **{name: getattr(self, name) for name in names}}

    def _order(self, epoch: int) -> list[Array]:
        """The rows of each batch of an epoch."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(epoch,))))
        N, B = self._source.count, self.batch_size
        rows = rng.permutation(N) if self.shuffle else np.arange(N)
        if self.drop_last:
            rows = rows[: N - N % B]
        if self.bucket_by_length:
            assert self._source.lengths is not None
            pool = POOL * B if self.shuffle else N
            pools = [rows[k : k + pool] for k in range(0, len(rows), pool)]
            rows = np.concatenate([each[np.argsort(self._source.lengths[each], kind="stable")] for each in pools])
        parts = [rows[k : k + B] for k in range(0, len(rows), B)]
        if self.bucket_by_length and self.shuffle:
            return [parts[k] for k in rng.permutation(len(parts))]
        return parts

    def __repr__(self) -> str:
        epoch, batch = self._position
        has = f"{self._source.count} rows, {len(self)} of {self.batch_size}"
        return f"Batches({has}; next: epoch {epoch}, batch {batch})"


def batches(
    x: Any,
    target: Any,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int | None = None,
    bucket_by_length: bool = False,
    drop_last: bool = False,
    batch_first: bool = False,
    target_axis: int | None = None,
) -> Batches:
    """Return an object whose loops are the epochs of a data set: each yields `bptt.Batch`, `len()` is their number.

    Args:
        x: an array [T,N,...] of N rows ([N,T,...] with batch_first), such as the windows of `windows`; or a list of N
            sequences [T_n,...], which are padded with zeros to the longest of their batch and get `lengths`.
        target: of an array x an array of the same layout, or with one entry for each row, [N,...]. Of a list of
            sequences a list of arrays [T_n,...], for each step; or an array [N,...] or a list of N numbers, for each
            sequence.
        batch_size: B, rows of a batch; the last one of an epoch may have fewer.
        shuffle: whether each epoch has another random order, default False.
        seed: of the orders, integer >= 0; default None: one from the operating system, which `state` says. The same
            seed gives the same orders, with the same version of NumPy.
        bucket_by_length: of a list: whether batches have sequences of similar lengths, which saves padding; default
            False. With shuffle, rows are shuffled, then sorted within every 16 batches, and batches are shuffled.
        drop_last: whether to leave out a last batch of fewer rows, default False.
        batch_first: the layout of array x and of the batches, as of the model, default False.
        target_axis: the axis of rows of an array target, needed only where both of its first two could be that.

    Raises: ValueError for shapes that do not fit and for missing values (NaN), TypeError for wrong types.

    >>> sequences = [np.ones((length, 2)) for length in (3, 9, 4, 8)]
    >>> for batch in batches(sequences, np.arange(4), 2, bucket_by_length=True):
    ...     print(batch.x.shape, batch.lengths.tolist(), batch.target.tolist())
    (4, 2, 2) [3, 4] [0, 2]
    (9, 2, 2) [8, 9] [3, 1]
    """
    batch_size = check_size("batches", "batch_size", batch_size)
    shuffle = check_bool("batches", "shuffle", shuffle)
    bucket_by_length = check_bool("batches", "bucket_by_length", bucket_by_length)
    drop_last = check_bool("batches", "drop_last", drop_last)
    batch_first = check_bool("batches", "batch_first", batch_first)
    source: _Source
    if isinstance(x, (list, tuple)):
        if target_axis is not None:
            raise ValueError("batches: target_axis is given with a list of sequences, expected None")
        source = _Sequences(x, target, batch_first)
    else:
        if bucket_by_length:
            raise ValueError("batches: bucket_by_length is given with an array, expected a list of sequences")
        source = _Rows(x, target, batch_first, target_axis)
    made = Batches(
        source,
        batch_size,
        check_seed("batches", seed),
        shuffle=shuffle,
        bucket_by_length=bucket_by_length,
        drop_last=drop_last,
    )
    if not len(made):
        has = f"x has {source.count} rows, which drop_last leaves out"
        raise ValueError(f"batches: {has}, expected at least batch_size, {batch_size}" if source.count else
                         "batches: x has 0 rows, expected at least one")  # fmt: skip
    return made


class _Rows:
    """Rows of arrays, of one length."""

    def __init__(self, x: Any, target: Any, batch_first: bool, target_axis: int | None) -> None:
        self.lengths: Array | None = None
        self._x, self._target = (_complete(name, value) for name, value in (("x", x), ("target", target)))
        self._axis = 0 if batch_first else 1
        if self._x.ndim < 2:
            raise shape_error("batches", "x", self._x, "(N, T, ...)" if batch_first else "(T, N, ...)")
        self.count = self._x.shape[self._axis]
        self._target_axis = _axis_of(self._target, self.count, target_axis, batch_first)

    def take(self, rows: Array) -> Batch:
        # not np.take, which copies all windows first where they overlap
        x = self._x[rows] if self._axis == 0 else self._x[:, rows]
        target = self._target[rows] if self._target_axis == 0 else self._target[:, rows]
        return Batch(np.ascontiguousarray(x), np.ascontiguousarray(target))


def _axis_of(target: Array, count: int, asked: int | None, batch_first: bool) -> int:
    """The axis of a target's rows."""
    axes = [axis for axis in (0, 1) if axis < target.ndim and target.shape[axis] == count]
    if batch_first and axes:
        axes = axes[:1] if axes[0] == 0 else []  # all layouts have rows first
    if asked is not None:
        asked = check_size("batches", "target_axis", asked, least=0, most=1)
        axes = [asked] if asked < target.ndim and target.shape[asked] == count else []
    if len(axes) > 1 and count > 1:  # of one row, both are the same
        both = f"target has shape {target.shape} and x {count} rows: either axis could be theirs"
        raise ValueError(f"batches: {both}, expected target_axis=0 or 1")
    if not axes:
        expected = f"({count}, ...)" if batch_first else f"({count}, ...) or (T, {count}, ...)"
        raise shape_error("batches", "target", target, expected)
    return axes[0]


class _Sequences:
    """Sequences of different lengths, with a target for each step or for each sequence."""

    def __init__(self, x: Any, target: Any, batch_first: bool) -> None:
        self._x = as_sequences("batches", "x", x)
        self.count, self._batch_first = len(self._x), batch_first
        self.lengths: Array | None = np.array([len(each) for each in self._x])
        self._steps: list[Array] | None = None
        self._target: Array | None = None
        if isinstance(target, (list, tuple)) and not all(map(is_number, target)):
            self._steps = as_sequences("batches", "target", target)
            lengths = [len(each) for each in self._steps]
            if len(lengths) != self.count:
                raise ValueError(f"batches: target has length {len(lengths)}, expected {self.count}, as x has")
            for n, (has, expected) in enumerate(zip(lengths, self.lengths.tolist(), strict=True)):
                if has != expected:
                    what = f"target[{n}] has {has} steps, expected {expected}, as x[{n}] has"
                    raise ValueError(f"batches: {what}; targets of whole sequences are one array")
        else:
            self._target = _complete("target", target)
            if not self._target.ndim or len(self._target) != self.count:
                raise shape_error("batches", "target", self._target, f"({self.count}, ...)")

    def take(self, rows: Array) -> Batch:
        x, lengths = padded([self._x[n] for n in rows], self._batch_first)
        if self._target is not None:
            target = self._target[rows]
        else:
            assert self._steps is not None
            target, _ = padded([self._steps[n] for n in rows], self._batch_first)
        return Batch(x, target, None if (lengths == lengths[0]).all() else lengths)


def _complete(name: str, value: Any) -> Array:
    """An array without missing values."""
    array = as_array("batches", name, value)
    if has_missing(array):
        raise ValueError(
            f"batches: {name} has missing values (NaN), expected none: windows(missing=...) drops or fills"
        )
    return array
