# SPDX-License-Identifier: Apache-2.0
"""The tape: the values that a forward pass keeps until its backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._arrays import check_size
from bptt._engine.packed import Shape

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array
    from bptt._engine.last import LastSteps
    from bptt._engine.structure import Structure

TIME_MAJOR = Shape(True)


class Tape:
    """The values that a forward pass of `layer` keeps for its backward pass."""

    __slots__ = ("layer",)
    layer: Any


class RecurrentTape(Tape):
    """The values that one forward pass keeps, of all layers and directions; used up by one backward."""

    __slots__ = ("last", "learnt", "native", "shape", "shown", "stack", "structure")

    def __init__(
        self,
        layer: Any,
        structure: Structure,
        stack: _core.Stack,
        native: _core.Tape,
        shape: tuple[int, ...],
        *,
        shown: Shape = TIME_MAJOR,
        learnt: bool = False,
    ) -> None:
        self.layer, self.structure = layer, structure
        self.stack, self.native, self.shape = stack, native, shape
        self.shown, self.learnt = shown, learnt
        self.last: LastSteps | None = None  # the steps of y that the caller has, None for all

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
        of = self.structure
        at = check_size("gates", "layer", layer, 0) * of.num_directions + check_size("gates", "direction", direction, 0)
        if direction >= of.num_directions or at >= of.kernels:
            has = f"{of.num_layers} layers and {of.num_directions} directions"
            raise ValueError(f"gates: there is no layer {layer}, direction {direction}, expected one of {has}")
        places = {name: i for i, name in enumerate(of.info.kept)}
        places |= {name: -i for i, name in enumerate(of.info.states) if i > 0}
        named = dict(zip(places, self.native.kept(list(places.values()), at), strict=True))
        return {name: self.shown.given(array) for name, array in named.items()}
