# SPDX-License-Identifier: Apache-2.0
"""What layers over time do without a tape: inference, streams and the estimate of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._arrays import check_bool, check_size
from bptt._engine.last import LastSteps, as_timed
from bptt._engine.stream import recurrent_stream
from bptt.layers.recurrent_base import RecurrentBase

if TYPE_CHECKING:
    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.packed import Packed
    from bptt._engine.stack import State, StateIn


class OverTime(RecurrentBase):
    """A layer over time. `y, state = layer(x)` runs it."""

    batch_first: bool
    num_directions: int
    _has_state = True
    _has_features = True

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
