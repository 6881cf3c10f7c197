# SPDX-License-Identifier: Apache-2.0
"""What goes into a recurrent layer beside arrays, `Packed` rows, and what stays of a forward pass, its tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, as_integers, check_size, shape_error
from bptt.layers.base import Tape

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array, ArrayIn


class Packed(NamedTuple):
    """Sequences of different lengths without padding: all rows of step 0, then of step 1, and so on.

    data [sum, I]; batch_sizes [T], the number of rows at each step, none more than at the step before: row b of step t
    is sequence b, which are sorted by length, longest first, and so are their states. PyTorch's PackedSequence is laid
    out like this, and taken as it is.

    >>> import numpy as np
    >>> from bptt import GRU
    >>> y, h = GRU(2, 3, seed=0)(Packed(np.ones((5, 2), np.float32), np.array([2, 2, 1])))
    >>> y.data.shape, h.shape
    ((5, 3), (1, 2, 3))
    """

    data: ArrayIn
    batch_sizes: ArrayIn


def as_packed(where: str, x: Any) -> tuple[Array, Array]:
    """The data, any array [sum,.], and the batch sizes of packed rows, checked; also of PyTorch's PackedSequence."""
    sizes = as_integers(where, "batch_sizes", x.batch_sizes)
    if sizes.ndim != 1:
        raise shape_error(where, "batch_sizes", sizes, "(T,)")
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"{where}: batch_sizes has the value {sizes.min()}, expected 1 or more")
    if (np.diff(sizes) > 0).any():
        raise ValueError(f"{where}: batch_sizes grow, expected them to fall: longest row first")
    data = as_array(where, "x", x.data)
    if data.ndim in (1, 2) and len(data) != sizes.sum():
        raise shape_error(where, "x", data, (int(sizes.sum()), *data.shape[1:]))
    return data, sizes


class Shape(NamedTuple):
    """How a caller's arrays look: whether there is a batch axis, and the batch sizes of packed ones."""

    batched: bool
    sizes: Array | None


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

        LSTM: i, f, g, o and the cell state c; GRU: r, z, n and m, what r multiplies; a simple RNN has none. After
        activation; c as it leaves the cell, before `zoneout` and `clip_state` change it.
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
        places = {name: i for i, name in enumerate(owner._kept)} | ({"c": -1} if "c" in owner._states else {})
        named = dict(zip(places, self.native.kept(list(places.values()), at), strict=True))
        batched = self.shown is None or self.shown.batched
        return {name: owner._as_given(array, batched) for name, array in named.items()}
