# SPDX-License-Identifier: Apache-2.0
"""The recurrent layer: one cell run over time, forward and backward. The loop is the native module's.

The layers that users make are in cells.py; here is what they share, whatever the cell: the stack of layers and
directions, and the ways in. One layer in one direction without options goes the plain way, straight to the kernel on
the caller's own arrays; all else goes through `core.forward`, which orders rows, joins directions and applies options.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from bptt._arrays import as_array, as_floats, check_bool, check_dtype, check_shape, check_size, shape_error
from bptt._dispatch import core
from bptt.init import fill
from bptt.layers.base import Layer
from bptt.layers.call_options import NativeOptions
from bptt.layers.kernels import Kernels
from bptt.layers.layout import lay_out
from bptt.layers.memory import estimate
from bptt.layers.options import LayerOptions, StateOptions
from bptt.layers.states import States
from bptt.layers.stream import recurrent_stream
from bptt.layers.tape import Packed, RecurrentTape, Shape, as_packed, returned_like, rows_like
from bptt.layers.torch_names import from_torch, to_torch
from bptt.params import Params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt.layers.base import Tape
    from bptt.layers.layout import Vectors

    State: TypeAlias = Array | tuple[Array, ...]
    StateIn: TypeAlias = ArrayIn | tuple[ArrayIn, ...] | None

_MOST_LAYERS = 2**16  # each has names and objects of its own, whatever its sizes


class Recurrent(Layer):
    """What the layers of cells.py share. `y, state = layer(x)` runs, `forward` and `backward` train.

    `cell` is the kernels' name of it; `vectors` are its parameters for each unit beside a bias.
    """

    _gates: int  # G
    _states: ClassVar[tuple[str, ...]] = ("h",)
    _bias: ClassVar[str] = "zeros"  # how it begins
    _kept: tuple[str, ...] = ()  # the gates' names, as the cell keeps them
    variant: str = ""  # what makes the cell another one than PyTorch's

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        options: LayerOptions,
        *,
        vectors: Vectors = (),
        proj_size: int = 0,
        num_heads: int = 1,
    ) -> None:
        where = type(self).__name__
        self.input_size = check_size(where, "input_size", input_size)
        self.hidden_size = check_size(where, "hidden_size", hidden_size)
        self.num_layers = check_size(where, "num_layers", options.num_layers, most=_MOST_LAYERS)
        self.proj_size = check_size(where, "proj_size", proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            what = f"proj_size has value {proj_size}, expected less than hidden_size, {hidden_size}"
            raise ValueError(f"{where}: {what}")
        self.num_heads = check_size(where, "num_heads", num_heads)
        if self.hidden_size % self.num_heads:
            what = f"num_heads has value {num_heads}, expected a divisor of hidden_size, {hidden_size}"
            raise ValueError(f"{where}: {what}")
        bias = check_bool(where, "bias", options.bias)
        self.batch_first = check_bool(where, "batch_first", options.batch_first)
        self.bidirectional = check_bool(where, "bidirectional", options.bidirectional)
        self.num_directions = 1 + self.bidirectional
        self.learn_initial_state = check_bool(where, "learn_initial_state", options.learn_initial_state)
        dtype = check_dtype(where, options.dtype)
        self._state_options = StateOptions.check(where, options, dtype)
        if self._state_options.dropout and self.num_layers == 1:
            what = f"dropout has value {self._state_options.dropout} with num_layers=1, where it drops nothing"
            warnings.warn(f"{where}: {what}: it acts between layers", UserWarning, stacklevel=4)
        shapes, default, blocks = lay_out(
            self._gates, self._states, [self._input_of(k) for k in range(self.num_layers)], self.hidden_size,
            self.proj_size, self.num_directions, vectors, heads=self.num_heads,
            bias=self._bias if bias else None, learnt=self.learn_initial_state,
        )  # fmt: skip
        self.params = Params(shapes, dtype)
        fill(
            where, self.params, options.init, options.seed, default, gates=self._gates, size=self.hidden_size,
            heads=self.num_heads,
        )  # fmt: skip
        sizes = [
            (
                cell, dtype.name, self._input_of(k // self.num_directions), self.hidden_size, bias, self.proj_size,
                self.num_heads,
            )
            for k in range(len(blocks))
        ]  # fmt: skip
        self._kernels = Kernels(sizes, [self.params.span(names[0], names[-1]) for names in blocks])
        widths = [self.output_size] + [self.hidden_size] * (len(self._states) - 1)
        self._states_of = States(self, dict(zip(self._states, widths, strict=True)), len(blocks))
        self._native_options = NativeOptions(
            self._state_options, self._states_of, self.num_layers, self.num_directions, self.batch_first
        )
        self._plain = len(blocks) == 1 and self._state_options.plain and not self.learn_initial_state

    @property
    def output_size(self) -> int:
        """The width of h, and of y in one direction: H, or proj_size."""
        return self.proj_size or self.hidden_size

    def _input_of(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.output_size * self.num_directions

    def __call__(
        self, x: ArrayIn | Packed, state: StateIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, State]:
        """Inference: nothing is kept, and nothing dropped.

        Args: as of `forward`.
        Returns: y and the final state.
        """
        y, final, _ = self._run(x, state, lengths, resets, training=False)
        return y, final

    def forward(
        self, x: ArrayIn | Packed, state: StateIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, State, RecurrentTape]:
        """Training: also return the tape for `backward`.

        Args:
            x: [T,B,I] (or [T,I]; [B,T,I] with batch_first), or `Packed`. Another real dtype than the layer's, or
                another memory layout, is converted with one copy.
            state: initial state, h [L*D,B,H] ([L*D,H] without batch axis), L layers, D directions, layer by layer and
                forward before reverse; for an LSTM the tuple (h, c), for an SLSTM (h, c, n, m). Default zeros, or what
                `learn_initial_state` learnt. Of packed rows in the caller's order (`Packed.sorted_indices`).
            lengths: [B] integers from 0 to T: row b has its first lengths[b] steps; the others are not looked at, cost
                nothing, and y is zero there. The final state is that after each row's own last step.
            resets: [T,B] booleans (as x: [B,T], [T], `Packed` or its data): where True, the row starts again before
                that step, from zeros or from the learnt initial state; no gradient passes. The reverse direction starts
                again after that step, so that both directions are cut at the same place.

        Returns: y [T,B,D*H] (as x), the final state (as state), the tape. The tape refers to x, state and y: y may be
            read-only, and x and state must stay as they are until `backward`. The weights of this call it keeps,
            whatever becomes of the parameters. With batch_first, y is a view of time-major memory.
        Raises: ValueError for a wrong shape, TypeError for a wrong dtype, MemoryError where the tape has no room.
        """
        y, final, tape = self._run(x, state, lengths, resets, training=True)
        assert tape is not None
        return y, final, tape

    def backward(
        self, tape: Tape, dy: Any, dstate: Any = None, grads: Params | None = None
    ) -> tuple[Any, State, Params]:
        """Backpropagation through time.

        Args:
            tape: of `forward`; used up by this call.
            dy: the gradient of y, shaped like it (`Packed` or its data for packed rows).
            dstate: the gradient of the final state, shaped like it; default zeros.
            grads: `params.zeros_like()` to write the gradients into; default a new one.

        Returns: dx (as x), the gradient of the initial state (as state), the gradients by parameter name.
        Raises: ValueError for a wrong shape or a tape of another layer, RuntimeError for a tape that was used before.
        """
        where = self._where("backward")
        tape = self._own(tape, RecurrentTape)
        grads = self._gradients(grads)
        if tape.plain and not self.batch_first:
            try:
                return (*tape.recurrences[0].backward(tape.native, dy, dstate, grads.flat), grads)
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        shown = tape.shown or Shape(len(tape.shape) == 3)
        sizes = shown.sizes
        dy = as_array(where, "dy", rows_like(where, "dy", dy, shown))
        check_shape(where, "dy", dy, tape.shape)
        dy = as_floats(where, "dy", dy if sizes is not None else self._time_major(dy), self.params.dtype)
        B = dy.shape[1] if sizes is None else int(sizes[:1].sum())
        dstate = self._states_of.native(where, "dstate", dstate, B, shown)
        if tape.plain:
            dx, dinitial = tape.recurrences[0].backward(tape.native, dy, dstate, grads.flat)
        else:
            dx, dinitial = self._backward(tape, dy, dstate, grads)
        given = self._as_given(dx, shown.batched) if sizes is None else shown.packed(dx)
        return given, self._states_of.given(dinitial, shown), grads

    def estimate_memory(
        self, steps: int, batch_size: int, lengths: ArrayIn | None = None, training: bool = True
    ) -> int:
        """Bytes that a pass will hold at its peak, beside x, y, the parameters and the gradients of these three.

        Args: T and B; lengths as of `forward`; training: forward and backward (default), or inference.
        Returns: packed weights, tape and working memory, in the blocks in which they are taken.

        >>> from bptt import LSTM
        >>> plain, checkpointed = LSTM(64, 64), LSTM(64, 64, checkpoint="sqrt")
        >>> plain.estimate_memory(100_000, 1) > 100e6 > 10e6 > checkpointed.estimate_memory(100_000, 1)
        True
        """
        where = self._where("estimate_memory")
        T, B = check_size(where, "steps", steps, 0), check_size(where, "batch_size", batch_size, 0)
        call_options, rows = self._native_options.planned(where, T, B, lengths)
        natives = self._kernels.packed(self.params, training)
        return estimate(natives, call_options, self, T, B, rows, lengths is not None, training)

    def _from_torch(self, where: str, state: Mapping[str, ArrayIn]) -> Mapping[str, ArrayIn]:
        if not any(name.startswith("bias_ih_l") for name in state):
            return state
        if self.variant == "reset_after=False":  # the same names and shapes, but another function
            what = f"state is of PyTorch's {type(self).__name__}, which has no {self.variant}"
            raise ValueError(f"{where}: {what}, expected one of the same cell")
        return from_torch(where, state, self.params, self.hidden_size)

    def _to_torch(self, where: str) -> dict[str, Array]:
        return to_torch(where, self.params, self.hidden_size, self.variant)

    def stream(self, batch_size: int = 1) -> _core.Stream:
        """Inference in real time: an object that takes one time step per call and keeps the state.

        Args: batch_size, the number B of rows.
        Returns: a function of x [B,I] -> y [B,H]. y is the same read-only array each time, overwritten by the next
            call: nothing is allocated; x may be the y of the last call. x [T,B,I], a chunk of steps, gives a new y
            [T,B,H]. `stream.state` is a copy of the state, as `forward` returns it, and can be assigned; it begins as
            zeros, or as what `learn_initial_state` learnt, and `stream.reset(rows=None)` begins again, for all rows or
            those that an index selects.
            A stream is a snapshot of the weights: `stream.stale` tells whether the parameters have changed since, and
            `stream.refresh()` takes the present ones and keeps the state. Copies and pickles of a stream have its
            weights and a state of their own. Streams share nothing: each may run on a thread of its own.
        Raises: ValueError for batch_size < 1 or a bidirectional layer. The stream raises TypeError for another dtype
            than the layer's and ValueError for another shape or memory layout (it converts nothing), RuntimeError for
            a call while another thread is in one.

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

    def _learnt_state(self, B: int) -> Any:
        """The state that was learnt, for B rows, or None."""
        return self._states_of.learnt(B) if self.learn_initial_state else None

    def _run(
        self, x: Any, state: Any, lengths: ArrayIn | None, resets: ArrayIn | None, *, training: bool
    ) -> tuple[Any, State, RecurrentTape | None]:
        recurrences = self._kernels.packed(self.params, training)
        plain = self._plain and lengths is None and resets is None
        if plain and not self.batch_first:
            try:
                y, final, native = recurrences[0].forward(x, state, training)
                return y, final, None if native is None else RecurrentTape(self, recurrences, native, y.shape)
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        where, given, shown = self._where(), x, None
        if hasattr(x, "batch_sizes"):
            plain = False
            x, shown = as_packed(where, x)
        x = as_array(where, "x", x)
        if x.ndim not in ((2, 3) if shown is None else (2,)) or x.shape[-1] != self.input_size:
            raise shape_error(where, "x", x, self._expected_x(shown))
        shown = shown or Shape(x.ndim == 3)
        sizes = shown.sizes
        x = as_floats(where, "x", x if sizes is not None else self._time_major(x), self.params.dtype)
        B = x.shape[1] if sizes is None else int(sizes[:1].sum())
        native_state = self._states_of.native(where, "state", state, B, shown)
        if plain:
            y, final, native = recurrences[0].forward(x, native_state, training)
        else:
            y, final, native = self._forward(where, recurrences, x, native_state, lengths, resets, shown, training)
        y = y if sizes is not None else self._as_given(y, shown.batched)
        tape = None
        if native is not None:
            learnt = state is None and self.learn_initial_state
            tape = RecurrentTape(self, recurrences, native, y.shape, plain=plain, shown=shown, learnt=learnt)
        y = y if sizes is None else returned_like(given, shown.packed(y))
        return y, self._states_of.given(final, shown), tape

    def _expected_x(self, packed: Shape | None) -> str:
        if packed is not None:
            return f"(sum, {self.input_size})"
        return f"({'B, T' if self.batch_first else 'T, B'}, {self.input_size})"

    def _forward(
        self,
        where: str,
        recurrences: list[_core.Recurrence],
        x: Array,
        state: Any,
        lengths: ArrayIn | None,
        resets: ArrayIn | None,
        shown: Shape,
        training: bool,
    ) -> tuple[Array, Any, _core.Tape | None]:
        """All layers and directions, in the native module."""
        if state is None and self.learn_initial_state:
            state = self._states_of.learnt(x.shape[1] if shown.sizes is None else int(shown.sizes[:1].sum()))
        seed = self._state_options.next_call() if training and self._state_options.random else 0
        call_options = self._native_options.make(where, x, shown, lengths, resets, seed)
        return core.forward(recurrences, self.num_directions, x, state, training, call_options)

    def _backward(self, tape: RecurrentTape, dy: Array, dstate: Any, grads: Params) -> tuple[Array, Any]:
        states, flat = self._states_of, grads.flat
        windows = [flat[start:stop] for start, stop in self._kernels.spans]
        dreset_state = [states.new_reset_states(grads.dtype) for _ in windows] if self.learn_initial_state else []
        dx, dinitial = core.backward(
            tape.recurrences, self.num_directions, tape.native, dy, dstate, windows, dreset_state
        )
        if self.learn_initial_state:
            states.add_learnt(grads, dreset_state, dinitial if tape.learnt else None)
        return dx, dinitial

    def _time_major(self, x: Array) -> Array:
        if x.ndim == 2:
            return x[:, np.newaxis]
        return x.swapaxes(0, 1) if self.batch_first else x

    def _as_given(self, y: Array, batched: bool) -> Array:
        if not batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first and y.ndim == 3 else y

    def _options(self) -> str:
        """The cell's own arguments, for `repr`."""
        return ""

    def __repr__(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f", num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += [self._options(), "" if "bias_l0" in self.params else ", bias=False"]
        parts += [
            f", {name}=True" for name in ("batch_first", "bidirectional", "learn_initial_state") if vars(self)[name]
        ]
        return f"{type(self).__name__}({''.join(parts)}{self._state_options}, dtype={self.params.dtype})"
