# SPDX-License-Identifier: Apache-2.0
"""The recurrent layer: one cell run over time, forward and backward, as users call it.

The layers that users make are in one file for each family: rnn.py, lstm.py, slstm.py, gru.py. This is what they share;
`bptt._engine` runs them.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from bptt._arrays import check_bool, check_size
from bptt._engine.last import LastSteps, as_timed
from bptt._engine.options import StateOptions
from bptt._engine.stream import recurrent_stream
from bptt._engine.tape import RecurrentTape
from bptt.layers.recurrent_base import RecurrentBase

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.packed import Packed
    from bptt._engine.stack import State, StateIn
    from bptt._engine.tape import Tape
    from bptt.layers.layout import Cell
    from bptt.layers.options import LayerOptions
    from bptt.params import Params


class Recurrent(RecurrentBase):
    """The shared part of layers over time. `y, state = layer(x)` runs, `forward` and `backward` train."""

    _has_state = True
    _has_features = True

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        options: LayerOptions,
        *,
        proj_size: int = 0,
        num_heads: int = 1,
    ) -> None:
        where = type(self).__name__
        self.batch_first = check_bool(where, "batch_first", options.batch_first)
        self.bidirectional = check_bool(where, "bidirectional", options.bidirectional)
        self.num_directions = 1 + self.bidirectional
        self.learn_initial_state = check_bool(where, "learn_initial_state", options.learn_initial_state)
        structure = self._set_sizes(
            cell,
            input_size,
            hidden_size,
            proj_size=proj_size,
            bias=options.bias,
            dtype=options.dtype,
            num_layers=options.num_layers,
            num_directions=self.num_directions,
            num_heads=num_heads,
            precision=options.precision,
        )
        self.num_layers = structure.num_layers
        state_options = StateOptions.check(
            where,
            structure.dtype,
            dropout=options.dropout,
            recurrent_dropout=options.recurrent_dropout,
            zoneout=options.zoneout,
            clip_state=options.clip_state,
            clip_grad_per_step=options.clip_grad_per_step,
            checkpoint=options.checkpoint,
            seed=options.seed,
        )
        if state_options.dropout and self.num_layers == 1:
            what = f"dropout has value {state_options.dropout} with num_layers=1, where it drops nothing"
            warnings.warn(f"{where}: {what}: it acts between layers", UserWarning, stacklevel=4)
        ends = ("", "_reverse")[: self.num_directions]
        self._set_params(
            structure,
            state_options,
            [f"_l{k}{end}" for k in range(self.num_layers) for end in ends],
            options.init,
            options.seed,
            learnt=self.learn_initial_state,
            batch_first=self.batch_first,
        )

    def __call__(
        self,
        x: ArrayIn | Packed,
        state: StateIn = None,
        lengths: ArrayIn | None = None,
        resets: ArrayIn | None = None,
        *,
        last: bool = False,
    ) -> tuple[Any, State]:
        """Inference: stores no tape and drops nothing.

        Args: as of `forward`.
        Returns: y and the final state.
        """
        y, final, _ = self._stack.run(self, x, state, lengths, resets, False)
        return (self._last_of(y, lengths, last)[0] if last else y), final

    def forward(
        self,
        x: ArrayIn | Packed,
        state: StateIn = None,
        lengths: ArrayIn | None = None,
        resets: ArrayIn | None = None,
        *,
        last: bool = False,
    ) -> tuple[Any, State, RecurrentTape]:
        """Training: also return the tape for `backward`.

        Args:
            x: [T,B,I] (or [T,I]; [B,T,I] with batch_first), or `Packed`. Another real dtype than the layer's, or
                another memory layout, is converted with one copy.
            state: initial state, h [L*D,B,H] ([L*D,H] without batch axis), L layers, D directions, layer by layer and
                forward before reverse; for an LSTM the tuple (h, c), for an SLSTM (h, c, n, m). Default zeros, or what
                `learn_initial_state` learnt. Of packed rows in the caller's order (`Packed.sorted_indices`).
            lengths: [B] integers from 0 to T: row b has lengths[b] steps; later ones are not read and cost nothing, and
                y is zero there. The final state of a row is that after its last step.
            resets: [T,B] booleans (as x: [B,T], [T], `Packed` or its data): where True, the row starts again before
                that step, from zeros or from the learnt initial state; no gradient passes. The reverse direction starts
                again after that step, so that both directions are cut at the same place.
            last: whether y is only the last step of each row, [B,D*H] ([D*H] without batch axis; of packed rows in the
                caller's order), zero for a row of length 0; dy of `backward` is then shaped like it. Default False.
                Both directions are taken at that step, where the reverse one has read nothing else; state has h of each
                direction after it has read the whole row, and `backward` takes its gradient with dy=None.

        Returns: y [T,B,D*H] (as x), the final state (as state), the tape. The tape refers to x, state and y: y may be
            read-only, and x and state must stay as they are until `backward`. The tape keeps the weights of
            this call, even if the parameters change. With batch_first, y is a view of time-major memory.
        Raises: ValueError for a wrong shape, TypeError for a wrong dtype, MemoryError where the tape has no room.
        """
        y, final, tape = self._stack.run(self, x, state, lengths, resets, True)
        assert tape is not None
        if last:
            y, tape.last = self._last_of(y, lengths, last)
        return y, final, tape

    def backward(
        self, tape: Tape, dy: Any, dstate: Any = None, grads: Params | None = None
    ) -> tuple[Any, State, Params]:
        """Backpropagation through time.

        Args:
            tape: of `forward`; used up by this call.
            dy: the gradient of y, shaped like it (`Packed` or its data for packed rows); None for zeros, where there is
                a dstate.
            dstate: the gradient of the final state, shaped like it; default zeros.
            grads: `params.zeros_like()` to write the gradients into; default a new one.

        Returns: dx (as x), the gradient of the initial state (as state), the gradients by parameter name.
        Raises: ValueError for a wrong shape or a tape of another layer, RuntimeError for a tape that was used before;
            TypeError where dy and dstate are None.
        """
        tape = self._own(tape, RecurrentTape)
        if dy is None and dstate is None:
            raise TypeError(f"{self._where('backward')}: dy and dstate are None, expected at least one of them")
        return self._backward(tape, dy, dstate, self._gradients(grads))

    def _backward(self, tape: Any, dy: Any, dstate: Any, grads: Params) -> tuple[Any, State, Params]:
        """The same without checks of the tape and of grads; dy and dstate may both be None."""
        dx, dinitial = self._stack.backward(tape, dy, dstate, grads.flat)
        return dx, dinitial, grads

    def _last_of(self, y: Any, lengths: ArrayIn | None, last: bool) -> tuple[Array, LastSteps]:
        """The last steps of y, and their places."""
        where = self._where()
        check_bool(where, "last", last)
        rows, shown = as_timed(where, y, self.batch_first)
        steps = LastSteps(where, rows.shape[:-1], shown, lengths)
        found = steps.take(rows)
        return found if shown.batched else found[0], steps

    def _sizes(self) -> tuple[int, int]:
        return self.input_size, self.output_size * self.num_directions

    def estimate_memory(
        self, steps: int, batch_size: int, lengths: ArrayIn | None = None, training: bool = True
    ) -> int:
        """Bytes that a pass will hold at its peak, without x, y, the parameters and the gradients of these three.

        Args: T and B; lengths as of `forward`; training: forward and backward (default), or inference.
        Returns: packed weights, tape, states and working memory, as a trial run of the call counts them. Where layers
            or directions run in parallel, an upper bound.

        >>> from bptt import LSTM
        >>> plain, checkpointed = LSTM(64, 64), LSTM(64, 64, checkpoint="sqrt")
        >>> plain.estimate_memory(100_000, 1) > 100e6 > 10e6 > checkpointed.estimate_memory(100_000, 1)
        True
        """
        where = self._where("estimate_memory")
        T, B = check_size(where, "steps", steps, 0), check_size(where, "batch_size", batch_size, 0)
        return self._stack.estimate_memory(T, B, lengths, training)

    def stream(self, batch_size: int = 1) -> _core.Stream:
        """Inference in real time: an object that takes one time step per call and keeps the state.

        Args: batch_size, the number B of rows.
        Returns: a function of x [B,I] -> y [B,H]. y is the same read-only array each time, overwritten by the next
            call: nothing is allocated; x may be the y of the last call. x [T,B,I], a chunk of steps, gives a new y
            [T,B,H]. `stream.state` is a copy of the state, as `forward` returns it, and can be assigned. It begins as
            zeros or as the learnt state, and `stream.reset(rows=None)` begins again, for all rows or for those that an
            index selects.
            A stream is a snapshot of the weights: `stream.stale` says whether the parameters have changed since, and
            `stream.refresh()` takes the present ones and keeps the state. Copies and pickles of a stream have its
            weights and their own state. Streams share nothing: each may run on another thread.
        Raises: ValueError for batch_size < 1 or a bidirectional layer. The stream raises TypeError for another dtype
            than the layer's and ValueError for another shape or memory layout (it converts nothing), RuntimeError for
            a call during another one.

        >>> import numpy as np
        >>> from bptt import GRU
        >>> gru = GRU(3, 4, seed=0)
        >>> stream, x = gru.stream(), np.ones((5, 1, 3), np.float32)
        >>> y = [stream(x_t).copy() for x_t in x]
        >>> bool((np.array(y) == gru(x)[0]).all())
        True
        """
        where = self._where("stream")
        B = check_size(where, "batch_size", batch_size)
        if self.bidirectional:
            raise ValueError(f"{where}: the layer is bidirectional, expected one direction: the other needs the future")
        return recurrent_stream(self, B)

    def _config(self) -> dict[str, Any]:
        options = self._stack.state_options.arguments()
        return super()._config() | {
            "num_layers": self.num_layers,
            "batch_first": self.batch_first,
            "bidirectional": self.bidirectional,
            "learn_initial_state": self.learn_initial_state,
            **{name: options[name] for name in ("dropout", "recurrent_dropout", "checkpoint")},
        }

    def __repr__(self) -> str:
        flags = ("batch_first", "bidirectional", "learn_initial_state")
        return self._text("".join(f", {name}=True" for name in flags if vars(self)[name]))
