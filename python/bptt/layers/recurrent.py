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

    def __init__(
        self, layer: Recurrent, recurrence: _core.Recurrence, native: _core.Tape, shape: tuple[int, ...]
    ) -> None:
        super().__init__(layer)
        self.recurrence, self.native, self.shape = recurrence, native, shape

    @property
    def nbytes(self) -> int:
        """The memory that the tape holds, in bytes."""
        return self.native.nbytes


def _weights(params: Params, vectors: str) -> tuple[Array, Array, Array | None, Array | None]:
    """Weights, or their gradients, as the native module takes them: [G*H,I], [G*H,H], [G*H] and [P,H]."""
    p = params.get(vectors)
    weight_hh = params["weight_hh_l0"]
    p = None if p is None else p.reshape(-1, weight_hh.shape[1])
    return params["weight_ih_l0"], weight_hh, params.get("bias_l0"), p


class _Kernel:
    """The native recurrence of one layer, and which version of the parameters is packed in it.

    Copied and pickled by its sizes alone: a copy packs for itself, when it is first used.
    """

    def __init__(self, *sizes: Any) -> None:
        self._sizes = sizes  # cell, dtype, I, H
        self._lock = threading.Lock()
        self._native: _core.Recurrence | None = None
        self._packed: tuple[int, bool] | None = None  # version, whether with the backward layout

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kernel, self._sizes

    def packed(self, params: Params, vectors: str, training: bool) -> _core.Recurrence:
        """Return the native object, with the present weights. What it had before stays with the tapes that use it."""
        with self._lock:
            version = params.version
            if self._native is None:
                self._native = core.Recurrence(*self._sizes)
            # Once for training, always: another thread may be about to train with what is packed here.
            training = training or (self._packed is not None and self._packed[1])
            if self._packed != (version, training):
                weight_ih, weight_hh, bias, p = _weights(params, vectors)
                if p is None and self._native.vectors:  # a GRU without bias
                    p = np.zeros((self._native.vectors, weight_hh.shape[1]), params.dtype)
                self._native.pack(weight_ih, weight_hh, bias, p, training)
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
        self._vectors = vectors[0] if vectors else ""
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
        self._kernel = _Kernel(cell, self.params.dtype.name, self.input_size, H)

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
        dy = as_array(where, "dy", dy)
        check_shape(where, "dy", dy, tape.shape)
        batched = dy.ndim == 3
        dy = as_floats(where, "dy", self._time_major(dy), self.params.dtype)
        dstates = self._native_states(where, "dstate", dstate, dy.shape[1], batched)
        grads = self._gradients(grads)
        dx, dstates = tape.recurrence.backward(tape.native, dy, dstates, *_weights(grads, self._vectors))
        return self._as_given(dx, batched), self._user_state(dstates, batched), grads

    def _run(
        self, x: ArrayIn, state: StateIn, lengths: None, *, training: bool
    ) -> tuple[Array, State, RecurrentTape | None]:
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
        states = self._native_states(where, "state", state, x.shape[1], batched)
        recurrence = self._kernel.packed(self.params, self._vectors, training)
        y, final, native = recurrence.forward(x, states, training)
        y = self._as_given(y, batched)
        tape = None if native is None else RecurrentTape(self, recurrence, native, y.shape)
        return y, self._user_state(final, batched), tape

    def _native_states(self, where: str, name: str, state: StateIn, B: int, batched: bool) -> tuple[Array, ...]:
        """Each state as [B,H]; an absent state is zeros, made here and nowhere else."""
        if state is None:
            return tuple(np.zeros((B, self.hidden_size), self.params.dtype) for _ in self._states)
        S, names = len(self._states), ", ".join(self._states)
        values = (state,) if S == 1 else check_tuple(where, name, state, S, f"the tuple ({names})")
        shape = (1, B, self.hidden_size) if batched else (1, self.hidden_size)
        arrays = []
        for part, value in zip(self._states, values, strict=True):
            array = as_floats(where, f"{name} {part}", value, self.params.dtype)
            check_shape(where, f"{name} {part}", array, shape)
            arrays.append(array.reshape(B, self.hidden_size))
        return tuple(arrays)

    def _user_state(self, states: tuple[Array, ...], batched: bool) -> State:
        full = tuple(s[np.newaxis] if batched else s for s in states)
        return full if len(full) > 1 else full[0]

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
