# SPDX-License-Identifier: Apache-2.0
"""The recurrent layer: one cell run over time, forward and backward. The loop is the native module's.

The layers that users make are in cells.py; here is what they share, whatever the cell.
x [T,B,I], y [T,B,H], each state [1,B,H]. Also x [T,I] without a batch axis (y [T,H], states [1,H]), and [B,T,.] with
batch_first; both only change how the same memory is seen. Weights are packed once for each version of the parameters.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from bptt._arrays import as_array, as_floats, check_dtype, check_shape, check_size, check_tuple, shape_error
from bptt._dispatch import core
from bptt.init import fill
from bptt.layers.base import Layer, Tape
from bptt.params import Params

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt.init import Init

    State: TypeAlias = Array | tuple[Array, ...]
    StateIn: TypeAlias = ArrayIn | tuple[ArrayIn, ...] | None


class RecurrentTape(Tape):
    """Wraps the native tape of one forward pass; `shape` is y's, as the caller saw it."""

    __slots__ = ("native", "recurrence", "shape")

    def __init__(
        self, layer: Recurrent, recurrence: _core.Recurrence, native: _core.Tape, shape: tuple[int, ...]
    ) -> None:
        self.layer = layer
        self.recurrence, self.native, self.shape = recurrence, native, shape

    @property
    def nbytes(self) -> int:
        """The memory that the tape holds, in bytes."""
        return self.native.nbytes


class _Kernel:
    """The native recurrence of one layer, and which version of the parameters is packed in it.

    Copied and pickled by its sizes alone: a copy packs for itself, when it is first used.
    """

    def __init__(self, *sizes: Any) -> None:
        self._sizes = sizes  # cell, dtype, I, H, bias
        self._lock = threading.Lock()
        self._native = core.Recurrence(*sizes)
        self._packed = (-1, False)  # version, whether with the backward layout

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kernel, self._sizes

    def packed(self, params: Params, training: bool) -> _core.Recurrence:
        """Return the native object, with the present weights. What it had before stays with the tapes that use it."""
        version, trainable = self._packed
        if version == params.version and trainable >= training:
            return self._native
        with self._lock:
            version = params.version
            # Once for training, always: another thread may be about to train with what is packed here.
            training = training or self._packed[1]
            if self._packed != (version, training):
                self._native.pack(params.flat, training)
                self._packed = version, training
            return self._native


class Recurrent(Layer):
    """What the layers of cells.py share: one cell, run over time. Not made by itself."""

    _gates: ClassVar[int]  # G
    _states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        bias: bool,
        batch_first: bool,
        dtype: DTypeLike,
        init: Init,
        seed: int | None,
        vectors: tuple[str, tuple[int, ...]] | None = None,  # the cell's per-unit vectors: name, shape before H
    ) -> None:
        where = type(self).__name__
        self.input_size = check_size(where, "input_size", input_size)
        self.hidden_size = H = check_size(where, "hidden_size", hidden_size)
        self.batch_first = bool(batch_first)
        rows = self._gates * H
        shapes: dict[str, tuple[int, ...]] = {"weight_ih_l0": (rows, self.input_size), "weight_hh_l0": (rows, H)}
        if bias:
            shapes["bias_l0"] = (rows,)
        if vectors:
            shapes[vectors[0]] = (*vectors[1], H)
        self.params = Params(shapes, check_dtype(where, dtype))
        default = dict.fromkeys(shapes, "zeros") | {"weight_ih_l0": "xavier_uniform", "weight_hh_l0": "orthogonal"}
        if bias and "c" in self._states:
            default["bias_l0"] = "forget_bias"
        fill(where, self.params, init, seed, default, gates=self._gates, size=H)
        self._kernel = _Kernel(cell, self.params.dtype.name, self.input_size, H, bias)

    def _refuse(self, **options: Any) -> None:
        """PyTorch's arguments that so far are here in name only: each has the one value that is possible."""
        possible = {"num_layers": 1, "dropout": 0, "bidirectional": False, "proj_size": 0, "reset_after": True}
        for name, value in options.items():
            if value != possible[name]:
                what = f"{name} has value {value!r}, expected {possible[name]!r} in this version"
                raise NotImplementedError(f"{type(self).__name__}: {what}")

    def __call__(self, x: ArrayIn, state: StateIn = None, lengths: None = None) -> tuple[Array, State]:
        """Inference: nothing is kept.

        Args: as of `forward`.
        Returns: y and the final state.
        """
        y, final, _ = self._run(x, state, lengths, training=False)
        return y, final

    def forward(self, x: ArrayIn, state: StateIn = None, lengths: None = None) -> tuple[Array, State, RecurrentTape]:
        """Training: also return the tape for `backward`.

        Args:
            x: [T,B,I] (or [T,I]; [B,T,I] with batch_first). Another real dtype than the layer's, or another memory
                layout, is converted with one copy.
            state: initial state, h [1,B,H] ([1,H] without batch axis); for an LSTM the tuple (h, c). Default zeros.
            lengths: not in this version.

        Returns: y [T,B,H] (as x), the final state (as state), the tape. The tape refers to x, state and y: y is
            read-only, and x and state must stay as they are until `backward`. The weights of this call it keeps,
            whatever becomes of the parameters. With batch_first, y is a view of time-major memory.
        Raises: ValueError for a wrong shape, TypeError for a wrong dtype, MemoryError where the tape has no room.
        """
        y, final, tape = self._run(x, state, lengths, training=True)
        assert tape is not None
        return y, final, tape

    def backward(
        self, tape: Tape, dy: ArrayIn, dstate: StateIn = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        """Backpropagation through time.

        Args:
            tape: of `forward`; used up by this call.
            dy: the gradient of y, shaped like it.
            dstate: the gradient of the final state, shaped like it; default zeros.
            grads: `params.zeros_like()` to write the gradients into; default a new one.

        Returns: dx (as x), the gradient of the initial state (as state), the gradients by parameter name.
        Raises: ValueError for a wrong shape or a tape of another layer, RuntimeError for a tape that was used before.
        """
        where = self._where("backward")
        tape = self._own(tape, RecurrentTape)
        grads = self._gradients(grads)
        recurrence, native = tape.recurrence, tape.native
        if not self.batch_first:
            try:
                return (*recurrence.backward(native, dy, dstate, grads.flat), grads)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        dy = as_array(where, "dy", dy)
        check_shape(where, "dy", dy, tape.shape)
        batched = dy.ndim == 3
        dy = as_floats(where, "dy", self._time_major(dy), self.params.dtype)
        dstate = self._native_state(where, "dstate", dstate, dy.shape[1], batched)
        dx, dinitial = recurrence.backward(native, dy, dstate, grads.flat)
        return self._as_given(dx, batched), self._user_state(dinitial, batched), grads

    def stream(self, batch_size: int = 1) -> _core.Stream:
        """Inference in real time: an object that takes one time step per call and keeps the state.

        Args: batch_size, the number B of rows.
        Returns: a function of x [B,I] -> y [B,H]. y is the same read-only array each time, overwritten by the next
            call: nothing is allocated. x [T,B,I], a chunk of steps, gives a new y [T,B,H]. `stream.state` is a copy of
            the state, as `forward` returns it, zeros at first, and can be assigned; `stream.reset(rows=None)` sets rows
            to zeros. The weights are those of now: after a change of the parameters make a new stream.
        Raises: ValueError for batch_size < 1. The stream raises TypeError for another dtype than the layer's and
            ValueError for another shape or memory layout: it converts nothing.

        >>> from bptt import GRU
        >>> gru = GRU(3, 4, seed=0)
        >>> stream, x = gru.stream(), np.ones((5, 1, 3), np.float32)
        >>> y = [stream(x_t).copy() for x_t in x]
        >>> bool((np.array(y) == gru(x)[0]).all())
        True
        """
        B = check_size(self._where("stream"), "batch_size", batch_size)
        return self._kernel.packed(self.params, training=False).stream(B)

    def _run(
        self, x: ArrayIn, state: StateIn, lengths: None, *, training: bool
    ) -> tuple[Array, State, RecurrentTape | None]:
        recurrence = self._kernel.packed(self.params, training)
        if lengths is None and not self.batch_first:
            try:
                y, final, native = recurrence.forward(x, state, training)  # type: ignore[arg-type]
                return y, final, None if native is None else RecurrentTape(self, recurrence, native, y.shape)
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        where = self._where()
        if lengths is not None:
            what = f"lengths has type {type(lengths).__name__}, expected None in this version"
            raise NotImplementedError(f"{where}: {what}")
        x = as_array(where, "x", x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            expected = f"({'B, T' if self.batch_first else 'T, B'}, {self.input_size})"
            raise shape_error(where, "x", x, expected)
        batched = x.ndim == 3
        x = as_floats(where, "x", self._time_major(x), self.params.dtype)
        state = self._native_state(where, "state", state, x.shape[1], batched)
        y, final, native = recurrence.forward(x, state, training)
        y = self._as_given(y, batched)
        tape = None if native is None else RecurrentTape(self, recurrence, native, y.shape)
        return y, self._user_state(final, batched), tape

    def _native_state(self, where: str, name: str, state: StateIn, B: int, batched: bool) -> State | None:
        """The state as the native module takes it, [1,B,H]; an absent one is zeros, made there."""
        if state is None:
            return None
        S, names = len(self._states), ", ".join(self._states)
        values = (state,) if S == 1 else check_tuple(where, name, state, S, f"the tuple ({names})")
        shape = (1, B, self.hidden_size) if batched else (1, self.hidden_size)
        arrays = []
        for part, value in zip(self._states, values, strict=True):
            array = as_floats(where, f"{name} {part}", value, self.params.dtype)
            check_shape(where, f"{name} {part}", array, shape)
            arrays.append(array.reshape(1, B, self.hidden_size))
        return tuple(arrays) if S > 1 else arrays[0]

    def _user_state(self, state: State, batched: bool) -> State:
        if batched:
            return state
        return tuple(s[0] for s in state) if isinstance(state, tuple) else state[0]

    def _time_major(self, x: Array) -> Array:
        if x.ndim == 2:
            return x[:, np.newaxis]
        return x.swapaxes(0, 1) if self.batch_first else x

    def _as_given(self, y: Array, batched: bool) -> Array:
        if not batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first else y

    def _options(self) -> str:
        """The cell's own arguments, for `repr`."""
        return ""

    def __repr__(self) -> str:
        bias = "" if "bias_l0" in self.params else ", bias=False"
        first = ", batch_first=True" if self.batch_first else ""
        sizes = f"{self.input_size}, {self.hidden_size}"
        return f"{type(self).__name__}({sizes}{self._options()}{bias}{first}, dtype={self.params.dtype})"
