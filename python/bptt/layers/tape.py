# SPDX-License-Identifier: Apache-2.0
"""What goes into a recurrent layer beside arrays, `Packed` rows, and what stays of a forward pass, its tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, as_integers, check_shape, check_size, shape_error
from bptt.layers.base import Tape

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array, ArrayIn


class Packed(NamedTuple):
    """Sequences of different lengths without padding: all rows of step 0, then all rows of step 1, and so on.

    Within a step the rows are sorted by the length of their sequences, longest first; row b belongs to the same
    sequence at every step. Where the caller's sequences have another order, sorted_indices says which: states and their
    gradients [L*D,B,H] are in the caller's order, and what a layer returns carries the same indices.

    Args:
        data: [sum, I].
        batch_sizes: [T] integers, the number of rows at each step, never more than at the step before.
        sorted_indices: [B] integers, the caller's sequence that row b belongs to; default None, the caller's sequences
            are sorted.
        unsorted_indices: [B] integers, the row that the caller's sequence b has; default None. Each of the two follows
            from the other.

    PyTorch's PackedSequence has the same fields and is taken as it is. y is a PackedSequence then, too, of a tensor
    without a graph, for `pad_packed_sequence`; states and gradients are NumPy arrays.

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
    """How a caller's arrays look: whether there is a batch axis; batch sizes and order of packed rows."""

    batched: bool
    sizes: Array | None = None
    sorted_indices: Array | None = None
    unsorted_indices: Array | None = None

    def packed(self, data: Array) -> Packed:
        """Rows like these."""
        assert self.sizes is not None
        return Packed(data, self.sizes, self.sorted_indices, self.unsorted_indices)


def as_packed(where: str, x: Any, name: str = "x") -> tuple[Array, Shape]:
    """The data, any array [sum,.], and the shape of packed rows, checked; also of PyTorch's PackedSequence."""
    sizes = as_integers(where, "batch_sizes", x.batch_sizes)
    if sizes.ndim != 1:
        raise shape_error(where, "batch_sizes", sizes, "(T,)")
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"{where}: batch_sizes has the value {sizes.min()}, expected 1 or more")
    if (np.diff(sizes) > 0).any():
        raise ValueError(f"{where}: batch_sizes grow, expected them to fall: longest row first")
    data = as_array(where, name, x.data)
    if data.ndim in (1, 2) and len(data) != sizes.sum():
        raise shape_error(where, name, data, (int(sizes.sum()), *data.shape[1:]))
    return data, Shape(True, sizes, *_order(where, x, int(sizes[:1].sum())))


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
            raise ValueError(f"{where}: {name} is no permutation, expected each of 0 to {B - 1} once")
        found.append(indices if name == "sorted_indices" else inverse)
    if not found:
        return None, None
    if not np.array_equal(found[0], found[-1]):
        raise ValueError(f"{where}: unsorted_indices is not the inverse of sorted_indices, expected one of them alone")
    return found[0], np.argsort(found[0])


def returned_like(x: Any, y: Packed) -> Any:
    """y as a caller gets it: PyTorch's PackedSequence where x is one."""
    if isinstance(x, Packed) or not hasattr(x.data, "new_tensor"):
        return y
    return x._replace(data=x.data.new_tensor(y.data))


def rows_like(where: str, name: str, value: Any, shown: Shape) -> Any:
    """The data of packed rows that belong to x, whose shape is `shown`; anything else stays what it is."""
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


class RecurrentTape(Tape):
    """What one forward pass keeps, of all layers and directions; used up by one backward."""

    __slots__ = ("learnt", "native", "plain", "recurrences", "shape", "shown")

    def __init__(
        self,
        layer: Any,
        recurrences: list[_core.Recurrence],
        native: _core.Tape,
        shape: tuple[int, ...],
        *,
        plain: bool = True,
        shown: Shape | None = None,
        learnt: bool = False,
    ) -> None:
        self.layer = layer
        self.recurrences, self.native, self.shape, self.plain = recurrences, native, shape, plain
        self.shown, self.learnt = shown, learnt

    @property
    def nbytes(self) -> int:
        """The memory that the tape holds, in bytes."""
        return self.native.nbytes

    def gates(self, layer: int = 0, direction: int = 0) -> dict[str, Array]:
        """All gates of one layer and direction at all steps, each [T,B,H] (of packed rows [sum,H]), by name.

        LSTM: i, f, g, o and the cell state c; GRU: r, z, n and m, what r multiplies; SLSTM: i, f, z, o, times the
        stabiliser where they are exponential, and its states c, n, m; a simple RNN has none. After activation; states
        as they leave the cell, before `zoneout` and `clip_state` change them.
        Raises: RuntimeError once `backward` has used the tape, or where the layer has checkpoints.

        >>> import numpy as np
        >>> from bptt import LSTM
        >>> y, (h, c), tape = LSTM(2, 3, seed=0).forward(np.ones((5, 1, 2)))
        >>> gates = tape.gates()
        >>> gates["f"].shape, bool((gates["c"][-1] == c[0]).all())
        ((5, 1, 3), True)
        """
        owner: Any = self.layer
        at = check_size("gates", "layer", layer, 0) * owner.num_directions + check_size(
            "gates", "direction", direction, 0
        )
        if direction >= owner.num_directions or at >= len(self.recurrences):
            has = f"{owner.num_layers} layers and {owner.num_directions} directions"
            raise ValueError(f"gates: there is no layer {layer}, direction {direction}, expected one of {has}")
        places = {name: i for i, name in enumerate(owner._kept)}
        places |= {name: -i for i, name in enumerate(owner._states) if i > 0}
        named = dict(zip(places, self.native.kept(list(places.values()), at), strict=True))
        batched = self.shown is None or self.shown.batched
        return {name: owner._as_given(array, batched) for name, array in named.items()}
