# SPDX-License-Identifier: Apache-2.0
"""The forms of a caller's arrays: time-major or batch-first, with or without a batch axis, or `Packed` rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, as_integers, check_shape, shape_error

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn


class Packed(NamedTuple):
    """Sequences of different lengths without padding: all rows of step 0, then all rows of step 1, and so on.

    Within a step the rows are sorted by the length of their sequences, longest first; row b belongs to the same
    sequence at every step. If the caller's sequences have another order, sorted_indices gives it: states and their
    gradients [L*D,B,H] are in the caller's order, and the packed results of a layer have the same indices.

    Args:
        data: [sum, I].
        batch_sizes: [T] integers, the number of rows at each step, never more than at the step before.
        sorted_indices: [B] integers, the caller's sequence that row b belongs to; default None, the caller's sequences
            are sorted.
        unsorted_indices: [B] integers, the row that the caller's sequence b has; default None. Each of the two follows
            from the other.

    PyTorch's PackedSequence has the same fields and is accepted. y is then a PackedSequence too, of a tensor without
    a graph, for `pad_packed_sequence`; states and gradients are NumPy arrays.

    >>> import numpy as np
    >>> from bptt import GRU
    >>> x = Packed(np.ones((5, 2), np.float32), np.array([2, 2, 1]), sorted_indices=np.array([1, 0]))
    >>> y, h = GRU(2, 3, seed=0)(x)
    >>> y.data.shape, h.shape, y.unsorted_indices.tolist()
    ((5, 3), (1, 2, 3), [1, 0])
    >>> bool((h[0, 0] == y.data[3]).all()), bool((h[0, 1] == y.data[4]).all())  # the caller's second sequence is longer
    (True, True)
    """

    data: ArrayIn
    batch_sizes: ArrayIn
    sorted_indices: ArrayIn | None = None
    unsorted_indices: ArrayIn | None = None


class Shape(NamedTuple):
    """The form of a caller's arrays: their axes and the order of these; batch sizes and order of packed rows.

    one_step: x and y have no time axis, and states have no axis of layers.
    """

    batched: bool
    batch_first: bool = False
    one_step: bool = False
    sizes: Array | None = None
    sorted_indices: Array | None = None
    unsorted_indices: Array | None = None

    @property
    def turned(self) -> bool:
        """Whether the batch axis is before that of time."""
        return self.batch_first and self.batched and self.sizes is None

    def packed(self, data: Array) -> Packed:
        """Rows like these."""
        assert self.sizes is not None
        return Packed(data, self.sizes, self.sorted_indices, self.unsorted_indices)

    def taken(self, x: Array) -> Array:
        """A caller's array as a view [T,B,.]; packed rows [sum,.] are returned as they are."""
        if self.sizes is not None:
            return x
        if self.one_step:
            x = x[np.newaxis]
        if not self.batched:
            return x[:, np.newaxis]
        return x.swapaxes(0, 1) if self.batch_first else x

    def given(self, y: Array) -> Array:
        """The inverse."""
        if self.sizes is not None:
            return y
        if not self.batched:
            y = y[:, 0]
        elif self.batch_first:
            return y.swapaxes(0, 1)
        return y[0] if self.one_step else y

    def native(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what `taken` returns for an array of this shape."""
        if self.sizes is not None:
            return shape
        if self.one_step:
            shape = (1, *shape)
        if not self.batched:
            return shape[0], 1, shape[1]
        return (shape[1], shape[0], shape[2]) if self.batch_first else shape

    def batch(self, native: tuple[int, ...]) -> int:
        """B, the number of rows of an array that `taken` returned, by its shape."""
        return int(native[1] if self.sizes is None else self.sizes[:1].sum())

    def of_state(self, kernels: int, B: int, width: int) -> tuple[int, ...]:
        """The shape of one state."""
        if self.batched:
            return (B, width) if self.one_step else (kernels, B, width)
        return (width,) if self.one_step else (kernels, width)


def as_packed(where: str, x: Any, name: str = "x") -> tuple[Array, Shape]:
    """The data, any array [sum,.], and the shape of packed rows, checked; also of PyTorch's PackedSequence."""
    sizes = as_integers(where, "batch_sizes", x.batch_sizes)
    if sizes.ndim != 1:
        raise shape_error(where, "batch_sizes", sizes, "(T,)")
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"{where}: batch_sizes has the value {sizes.min()}, expected 1 or more")
    if (np.diff(sizes) > 0).any():
        raise ValueError(f"{where}: batch_sizes grow, expected them to fall, since the longest row is first")
    data = as_array(where, name, x.data)
    if data.ndim in (1, 2) and len(data) != sizes.sum():
        raise shape_error(where, name, data, (int(sizes.sum()), *data.shape[1:]))
    order, inverse = _order(where, x, int(sizes[:1].sum()))
    return data, Shape(True, sizes=sizes, sorted_indices=order, unsorted_indices=inverse)


def _order(where: str, x: Any, B: int) -> tuple[Array, Array] | tuple[None, None]:
    """sorted_indices and unsorted_indices of packed rows, checked; each follows from the other."""
    found: list[Array] = []  # each as sorted_indices
    for name in ("sorted_indices", "unsorted_indices"):
        value = getattr(x, name, None)
        if value is None:
            continue
        indices = as_integers(where, name, value)
        check_shape(where, name, indices, (B,))
        inverse = np.argsort(indices)
        if not np.array_equal(indices[inverse], np.arange(B)):
            raise ValueError(f"{where}: {name} is not a permutation, expected each of 0 to {B - 1} once")
        found.append(indices if name == "sorted_indices" else inverse)
    if not found:
        return None, None
    if not np.array_equal(found[0], found[-1]):
        raise ValueError(f"{where}: unsorted_indices is not the inverse of sorted_indices, expected one of them alone")
    return found[0], np.argsort(found[0])


def returned_like(x: Any, y: Packed) -> Any:
    """y for the caller: PyTorch's PackedSequence where x is one."""
    if isinstance(x, Packed) or not hasattr(x.data, "new_tensor"):
        return y
    return x._replace(data=x.data.new_tensor(y.data))


def rows_like(where: str, name: str, value: Any, shown: Shape) -> Any:
    """The data of packed rows that belong to x, whose shape is `shown`; other values are returned as they are."""
    if not hasattr(value, "batch_sizes"):
        return value
    if shown.sizes is None:
        raise ValueError(f"{where}: {name} has packed rows, expected an array, as x is one")
    data, own = as_packed(where, value, name)
    assert own.sizes is not None
    if not np.array_equal(own.sizes, shown.sizes):
        raise ValueError(f"{where}: {name} has other batch_sizes than x, expected the same rows")
    if own.sorted_indices is not None:  # without them, rows in the order of those of x
        order = np.arange(len(own.sorted_indices)) if shown.sorted_indices is None else shown.sorted_indices
        if not np.array_equal(own.sorted_indices, order):
            raise ValueError(f"{where}: {name} has other sorted_indices than x, expected the same rows")
    return data
