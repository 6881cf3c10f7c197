# SPDX-License-Identifier: Apache-2.0
"""The batches of `fit`: their forms, checked once, and their cuts along time. No loop and no update is here.

Shapes: x [T,B,...], target and masks [T,B,...] alike ([B,T,...] with batch_first, [T,...] without a batch axis).
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, as_mask, check_shape, is_number, shape_error
from bptt._engine.lengths import as_lengths, padded, within
from bptt._engine.packed import Shape, as_packed, rows_like
from bptt.losses.rows import ONE_FOR_EACH_ROW

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt.layers.recurrent import Recurrent
    from bptt.layers.sequential import Sequential
    from bptt.params import Params

__all__ = ["Batch", "Steps", "as_batch", "as_batches", "is_sequences"]

FORMS = "(x, target), (x, target, mask) or bptt.Batch"


def as_batches(name: str, given: Any) -> Any:
    """An iterable of batches: a `Batch` and a tuple (x, target) or (x, target, mask) are one batch."""
    if isinstance(given, Batch):
        return [given]
    # A tuple of batches has tuples, lists or `Batch`, whose x is an array or a list of sequences.
    if isinstance(given, tuple) and len(given) in (2, 3) and not isinstance(given[0], (Batch, tuple)):
        if _is_array(given[0]):
            return [given]
        if is_sequences(given[0]):
            what = f"{name} has lists, which may be sequences of one batch or batches"
            raise ValueError(f"fit: {what}, expected bptt.data.batches, Batch(x, target) or a list of batches")
    if isinstance(given, list) and len(given) in (2, 3) and any(_is_array(each) for each in given):
        expected = "a tuple (x, target), Batch(x, target) or a list of batches"
        raise ValueError(f"fit: {name} is a list with arrays, each of which would be a batch, expected {expected}")
    return given


class Batch(NamedTuple):
    """One batch for `fit`: inputs, targets, the lengths of rows, and which steps count.

    Args:
        x: [T,B,...] ([B,T,...] with batch_first), or `Packed` rows, or a list of arrays [T_b,...], one sequence for
            each row, which are padded with zeros and give the lengths.
        target: the second argument of the loss, with the same time axis; for packed rows `Packed` or its data; for a
            list of sequences a list too. A model with `Last`, which has one output for each row, takes targets and a
            mask of rows, [B,...] and [B].
        lengths: [B] integers from 0 to T: row b ends after lengths[b] steps, for every recurrent layer and for the
            loss. Default None: all rows have T steps.
        resets: [T,B] booleans: where True, the row starts again before that step, as in `forward` of the layers.
            Default None: nowhere.
        mask: [T,B] booleans: where False, a step does not count in the loss, but is still an input. Default None:
            every step of a row counts. With a list of sequences, resets and mask are lists of arrays [T_b].

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.GRU(2, 4, bidirectional=True, seed=0), bptt.Linear(8, 1, seed=1))
    >>> x, target = np.ones((5, 2, 2)), np.ones((5, 2, 1))
    >>> losses = []
    >>> for padding in (0, 100):
    ...     x[3:, 1] = padding  # row 1 has 3 steps
    ...     batch = Batch(x, target, lengths=[5, 3])
    ...     losses += bptt.fit(model, [batch], loss=bptt.losses.mse, optimizer=bptt.optim.SGD(0.0)).loss
    >>> losses[0] == losses[1]
    True
    """

    x: Any
    target: Any
    lengths: ArrayIn | None = None
    resets: ArrayIn | None = None
    mask: ArrayIn | None = None


class Steps:
    """One batch, checked: it has `count` steps of `rows` rows, and `cut` returns some of them as a `Batch`.

    The mask of a part is None where all its steps count.
    Args: given, in one of FORMS; model; cut, whether it will be cut along time, which needs a time axis in all arrays.
    """

    def __init__(self, given: Any, model: Sequential | Recurrent, *, cut: bool) -> None:
        batch = as_batch(given)
        self.axis = 0  # of time
        self._batched = True
        self._timed = not model._reduces_time  # whether y and target have a time axis
        if cut and not self._timed:
            what = "model has one output for each row (Last), which tbptt cannot cut"
            raise ValueError(f"fit: {what}, expected tbptt=None")
        if is_sequences(batch.x):
            batch = _padded(batch, batch_first=model.batch_first, timed=self._timed)
        if hasattr(batch.x, "batch_sizes"):
            if cut:
                raise ValueError("fit: x has packed rows, which tbptt cannot cut, expected arrays and lengths")
            self._take_packed(batch)
            return
        self._take_arrays(batch, model)
        if cut:
            self._give_time_axes()

    def _take_packed(self, batch: Batch) -> None:
        x, shown = as_packed("fit", batch.x)
        _check_not_empty(x)
        if batch.lengths is not None:
            raise ValueError("fit: lengths is given with packed rows, expected one of them")
        target, mask = batch.target, batch.mask
        if self._timed:
            target, mask = (rows_like("fit", name, part, shown) for name, part in (("target", target), ("mask", mask)))
        mask = None if mask is None else as_mask("fit", "mask", mask)
        rows: Any = shown.packed(x)
        self.count, self.rows = len(rows.batch_sizes), int(rows.batch_sizes[0])
        self._whole: Any = batch._replace(x=rows, target=target, mask=mask)

    def _take_arrays(self, batch: Batch, model: Sequential | Recurrent) -> None:
        x = as_array("fit", "x", batch.x)
        _check_not_empty(x)
        layers = model._layers
        features = bool(layers[0]._has_features)  # others take ids
        self._batched = x.ndim > 1 + features
        self.axis = int(model.batch_first and self._batched)
        self.count, self.rows = x.shape[self.axis], x.shape[1 - self.axis] if self._batched else 1
        lead = x.shape[: 1 + self._batched]
        for name, part in (("target", batch.target), ("mask", batch.mask)):
            if hasattr(part, "batch_sizes"):
                rows_like("fit", name, part, Shape(self._batched))  # raises
        mask = None if batch.mask is None else as_mask("fit", "mask", batch.mask)
        lengths = None
        if batch.lengths is not None:
            if not self._batched and np.size(as_array("fit", "lengths", batch.lengths)) > 1:
                raise shape_error("fit", "x", x, "(T, B, features), since there are lengths of several rows")
            lengths = as_lengths("fit", batch.lengths, self.rows, self.count)
            if self._timed:
                if mask is not None:
                    check_shape("fit", "mask", mask, lead)
                inside = self._inside(lengths, self.count)
                mask = inside if mask is None else inside & mask
        elif self._timed and mask is not None and mask.shape == lead and any(layer.bidirectional for layer in layers):
            lengths = self._lengths_of(mask)
        self._whole = Batch(x, batch.target, lengths, batch.resets, mask)

    def _lengths_of(self, mask: Array) -> Array | None:
        """The lengths of rows whose padding is masked, since the reverse direction must not read it; None without."""
        last = mask[:, -1] if self.axis else mask[-1]
        if last.all():
            return None
        counts: Array = mask.sum(self.axis, dtype=np.int64).reshape(-1)
        if not np.array_equal(self._inside(counts, self.count), mask):
            what = "mask is False inside rows and at their ends, expected lengths too"
            raise ValueError(f"fit: {what}: a bidirectional model must know which of these steps are padding")
        return counts

    def _give_time_axes(self) -> None:
        if self._whole.target is None:
            raise TypeError("fit: target has type NoneType, expected an array")
        parts = ((name, getattr(self._whole, name)) for name in ("x", "target", "resets", "mask"))
        arrays = {name: as_array("fit", name, part) for name, part in parts if part is not None}
        if any(array.ndim <= self.axis or array.shape[self.axis] != self.count for array in arrays.values()):
            shapes = ", ".join(str(array.shape) for array in arrays.values())
            raise ValueError(f"fit: batch has shapes {shapes}, expected one length along the time axis {self.axis}")
        self._whole = self._whole._replace(**arrays)

    def _inside(self, lengths: Array, count: int) -> Array:
        """True within the lengths of rows of `count` steps: [T,B], or as x has it."""
        inside = within(lengths, count)
        if not self._batched:
            return inside[:, 0]
        return inside.T if self.axis else inside

    def cut(self, start: int, stop: int) -> Any:
        """The steps [start, stop) as a `Batch`."""
        if stop - start == self.count:
            return self._whole
        at = (slice(None),) * self.axis + (slice(start, stop),)
        x, target, lengths, resets, mask = self._whole
        if lengths is not None:
            lengths = np.clip(lengths - start, 0, stop - start)
        return Batch(x[at], target[at], lengths, *(None if part is None else part[at] for part in (resets, mask)))

    def targets(self, part: Batch) -> int:
        """The number of steps of rows of `part`, some steps of this batch, that count in the loss.

        Of a model whose output has no time axis, the number of rows.
        """
        if part.mask is not None:
            return int(np.count_nonzero(np.asarray(part.mask)))
        if hasattr(part.x, "batch_sizes"):
            return len(part.x.data) if self._timed else self.rows
        if not self._timed:
            return self.rows
        return math.prod(part.x.shape[: 1 + self._batched])

    def inside(self, part: Batch) -> Array:
        """x of some steps of this batch, [N,...], without what is beyond the ends of rows."""
        x = as_array("fit", "x", part.x.data if hasattr(part.x, "batch_sizes") else part.x)
        if hasattr(part.x, "batch_sizes"):
            return x
        if part.lengths is not None:
            return x[self._inside(np.asarray(part.lengths), x.shape[self.axis])]
        return x.reshape(-1, *x.shape[1 + self._batched :])

    def not_finite(self, seen: Any, new: Any, params: Params) -> str:
        """Name the first value that is not finite in x of `seen`, target of `new` or the parameters; "" if none."""
        x, target = _floats(seen.x.data if hasattr(seen.x, "batch_sizes") else seen.x), _floats(new.target)
        inside = x
        if x is not None and seen.lengths is not None:
            inside = x[self._inside(seen.lengths, x.shape[self.axis])]
        if target is not None and new.mask is not None and target.shape[: new.mask.ndim] == new.mask.shape:
            target = target[new.mask]
        weights = ((f"parameter {name}", array) for name, array in params.items())
        for name, array in (("x", inside), ("target", target), *weights, ("x beyond its lengths", x)):
            if array is None:
                continue
            with np.errstate(over="ignore"):
                bad = array[~np.isfinite(array.astype(params.dtype))]
            if bad.size:
                return f"{name} has the value {bad[0]}"
        return ""


def as_batch(given: Any) -> Batch:
    """A batch in one of FORMS as a `Batch`."""
    if isinstance(given, Batch):
        return given
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"fit: batch has type {type(given).__name__}, expected {FORMS}")
    if len(given) not in (2, 3):
        raise ValueError(f"fit: batch has length {len(given)}, expected {FORMS}")
    return Batch(given[0], given[1], mask=given[2] if len(given) == 3 else None)


def _is_array(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("__array__", "__dlpack__", "batch_sizes"))


def is_sequences(value: Any) -> bool:
    """Whether x is a list of arrays, one for each row; nested lists of numbers are one array."""
    if not isinstance(value, (list, tuple)) or hasattr(value, "batch_sizes") or not value:
        return False
    return all(_is_array(each) and getattr(each, "ndim", 1) > 0 for each in value)


def _padded(batch: Batch, *, batch_first: bool, timed: bool) -> Batch:
    """A batch of lists of sequences as one of arrays and lengths."""
    if batch.lengths is not None:
        raise ValueError("fit: lengths is given with a list of sequences, expected one of them")
    x = [as_array("fit", f"x {b}", each) for b, each in enumerate(batch.x)]
    lengths = [len(each) for each in x]
    names = ("target", "resets", "mask") if timed else ("resets",)
    parts = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    arrays = {"x": _pad("x", x, lengths, batch_first)}
    for name, part in parts.items():
        listed = isinstance(part, (list, tuple))
        if not listed or len(part) != len(x) or all(map(is_number, part)):
            has = f"length {len(part)}" if listed else f"type {type(part).__name__}"
            has = "numbers" if listed and len(part) == len(x) else has
            hint = f", or one y for each row: {ONE_FOR_EACH_ROW}" if name == "target" else ""
            raise ValueError(f"fit: {name} has {has}, expected a list of {len(x)} sequences, as x is one{hint}")
        sequences = [as_array("fit", f"{name} {b}", each) for b, each in enumerate(part)]
        arrays[name] = _pad(name, sequences, lengths, batch_first)
    return batch._replace(lengths=lengths, **arrays)


def _pad(name: str, sequences: list[Array], lengths: list[int], batch_first: bool) -> Array:
    """Sequences [T_b,...] of these lengths as one array, zeros behind their ends."""
    features = sequences[0].shape[1:]
    for b, (each, length) in enumerate(zip(sequences, lengths, strict=True)):
        if each.shape != (length, *features):
            raise shape_error("fit", f"{name} {b}", each, (length, *features))
    return padded(sequences, batch_first)[0]


def _check_not_empty(x: Array) -> None:
    if not x.ndim or not x.size:
        raise shape_error("fit", "x", x, "at least one step of at least one row")


def _floats(value: Any) -> Array | None:
    """An array of floating point numbers; None for anything else."""
    with contextlib.suppress(BufferError, RuntimeError, TypeError, ValueError):
        array = as_array("fit", "value", value)
        return array if array.dtype.kind == "f" else None
    return None
