# SPDX-License-Identifier: Apache-2.0
"""What the cells share: one step of a recurrent layer, without the loop, on the same kernels.

The cells that users make stand beside the layers of their family, in rnn.py, lstm.py, slstm.py, gru.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bptt._engine.options import StateOptions
from bptt._engine.tape import RecurrentTape
from bptt.layers.recurrent_base import RecurrentBase

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt._arrays import Array, ArrayIn
    from bptt._engine.stack import State, StateIn
    from bptt._engine.tape import Tape
    from bptt.init import Init
    from bptt.layers.layout import Cell
    from bptt.params import Params


class CellOptions(NamedTuple):
    """The arguments that all cells share, as they were given."""

    bias: bool
    dtype: DTypeLike
    init: Init
    seed: int | None
    zoneout: float | tuple[float, float]
    clip_state: float | None
    clip_grad_per_step: float | None
    precision: str | None


class RecurrentCell(RecurrentBase):
    """One step. `state = cell(x, state)` runs, `forward` and `backward` train."""

    _has_state = True
    _has_features = True
    _one_step = True

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        options: CellOptions,
        *,
        proj_size: int = 0,
        num_heads: int = 1,
    ) -> None:
        structure = self._set_sizes(
            cell,
            input_size,
            hidden_size,
            proj_size=proj_size,
            bias=options.bias,
            dtype=options.dtype,
            num_heads=num_heads,
            precision=options.precision,
        )
        state_options = StateOptions.check(
            type(self).__name__,
            structure.dtype,
            zoneout=options.zoneout,
            clip_state=options.clip_state,
            clip_grad_per_step=options.clip_grad_per_step,
            seed=options.seed,
        )
        self._set_params(structure, state_options, [""], options.init, options.seed, one_step=True)

    def __call__(self, x: ArrayIn, state: StateIn = None) -> State:
        """Inference: stores no tape.

        Args: as of `forward`.
        Returns: the new state.
        """
        return self._stack.run(self, x, state, None, None, False)[1]

    def forward(self, x: ArrayIn, state: StateIn = None) -> tuple[State, RecurrentTape]:
        """Training: also return the tape for `backward`.

        Args:
            x: [B,I] or [I]. Another real dtype than the cell's, or another memory layout, is converted with one copy.
            state: h [B,H] ([H] without batch axis); of an LSTM the tuple (h, c), of an SLSTM (h, c, n, m). Default
                zeros.

        Returns: the new state (as state), the tape. The tape refers to x and both states, which must stay as they are
            until `backward`. The tape keeps the weights of this call, even if the parameters change.
        Raises: ValueError for a wrong shape, TypeError for a wrong dtype, MemoryError where the tape has no room.
        """
        _, final, tape = self._stack.run(self, x, state, None, None, True)
        assert tape is not None
        return final, tape

    def backward(self, tape: Tape, dstate: StateIn, grads: Params | None = None) -> tuple[Array, State, Params]:
        """The gradients of one step.

        Args:
            tape: of `forward`; used up by this call.
            dstate: the gradient of the new state, shaped like it.
            grads: `params.zeros_like()` to write the gradients into (not to add to them); default a new one.

        Returns: dx (as x), the gradient of the state before (as state), the gradients by parameter name.
        Raises: ValueError for a wrong shape or a tape of another cell, RuntimeError for a tape that was used before.
        """
        tape = self._own(tape, RecurrentTape)
        if dstate is None:
            raise TypeError(f"{self._where('backward')}: dstate is None, expected the gradient of the new state")
        grads = self._gradients(grads)
        dx, dinitial = self._stack.backward(tape, None, dstate, grads.flat)  # h is passed on as a state only
        return dx, dinitial, grads

    def _sizes(self) -> tuple[int, int]:
        return self.input_size, self.output_size

    def _in_sequence(self) -> CellInSequence:
        return CellInSequence(self)


class CellInSequence:
    """A cell as a `Sequential` calls its layers: y is h."""

    _has_state = True

    def __init__(self, cell: RecurrentCell) -> None:
        self._cell = cell

    def __call__(
        self, x: ArrayIn, state: StateIn, lengths: ArrayIn | None, resets: ArrayIn | None
    ) -> tuple[Array, State]:
        """Return y and the new state."""
        self._check(lengths, resets)
        final = self._cell(x, state)
        return _h_of(final), final

    def forward(
        self, x: ArrayIn, state: StateIn, lengths: ArrayIn | None, resets: ArrayIn | None
    ) -> tuple[Array, State, RecurrentTape]:
        """Return y, the new state and the tape."""
        self._check(lengths, resets)
        final, tape = self._cell.forward(x, state)
        return _h_of(final), final, tape

    def _backward(self, tape: Tape, dy: Any, dstate: StateIn, grads: Params) -> tuple[Array, State, Params]:
        """Return dx, the gradient of the state before, and the gradients."""
        cell = self._cell
        dx, dinitial = cell._stack.backward(cell._own(tape, RecurrentTape), dy, dstate, grads.flat)
        return dx, dinitial, grads

    def _check(self, lengths: ArrayIn | None, resets: ArrayIn | None) -> None:
        for name, value in (("lengths", lengths), ("resets", resets)):
            if value is not None:
                expected = "expected None: a cell takes one step"
                raise ValueError(f"{self._cell._where()}: {name} has type {type(value).__name__}, {expected}")


def _h_of(state: State) -> Array:
    return state[0] if isinstance(state, tuple) else state
