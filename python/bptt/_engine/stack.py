# SPDX-License-Identifier: Apache-2.0
"""Runs a network forward and backward, on the weights of whoever owns them.

One layer in one direction without options goes the plain way, straight to the kernel on the caller's own arrays; all
else goes through `core.forward`, which orders rows, joins directions and applies options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from bptt._arrays import as_array, as_floats, check_shape, shape_error
from bptt._dispatch import core
from bptt._engine.call_options import NativeOptions
from bptt._engine.kernels import Kernels
from bptt._engine.memory import estimate
from bptt._engine.packed import Shape, as_packed, returned_like, rows_like
from bptt._engine.states import States
from bptt._engine.tape import RecurrentTape

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.options import StateOptions
    from bptt._engine.structure import Structure
    from bptt._engine.weights import Owner, Span

    State: TypeAlias = Array | tuple[Array, ...]
    StateIn: TypeAlias = ArrayIn | tuple[ArrayIn, ...] | None


class Stack:
    """A network that runs on flat parameters.

    name: of the layer, for errors.
    spans: where the flat parameters of each kernel lie; learnt: where the learnt initial states do, if there are any.
    batch_first, one_step: how callers' arrays look (`packed.Shape`).
    """

    def __init__(
        self,
        name: str,
        structure: Structure,
        state_options: StateOptions,
        spans: list[Span],
        learnt: Span | None = None,
        *,
        batch_first: bool = False,
        one_step: bool = False,
    ) -> None:
        self.name, self.structure, self.state_options = name, structure, state_options
        self._axes = ("B",) if one_step else ("B", "T") if batch_first else ("T", "B")  # of x, before its features
        self._batched, self._single = (Shape(batched, batch_first, one_step) for batched in (True, False))
        self.kernels = Kernels(structure, spans)
        self.states = States(structure, learnt)
        self._call_options = NativeOptions(structure, state_options, self.states)
        self._plain = structure.kernels == 1 and state_options.plain and learnt is None
        self._direct = self._plain and not (batch_first or one_step)  # the kernel may take arrays as they are

    def run(
        self,
        owner: Owner,
        x: Any,
        state: Any,
        lengths: ArrayIn | None,
        resets: ArrayIn | None,
        training: bool,
    ) -> tuple[Any, State, RecurrentTape | None]:
        """Return y, the final state and, in training, the tape. The tape's `layer` is the owner."""
        kernels = self.kernels.packed(owner.params, training)
        plain = lengths is None and resets is None
        if plain and self._direct:
            try:
                y, final, native = kernels[0].forward(x, state, training)
                tape = None if native is None else RecurrentTape(owner, self.structure, kernels, native, y.shape)
                return y, final, tape
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        where, given = f"{self.name}.forward", x
        x, shown = self._taken(where, x)
        B = shown.batch(x)
        native_state = self.states.native(where, "state", state, B, shown)
        plain = plain and self._plain and shown.sizes is None
        learnt = state is None and self.states.learns
        if plain:
            y, final, native = kernels[0].forward(x, native_state, training)
        else:
            if learnt:
                native_state = self.states.initial(owner.params.plain, B)
            seed = self.state_options.next_call() if training and self.state_options.random else 0
            options = self._call_options.make(where, owner.params, x, shown, lengths, resets, seed)
            y, final, native = core.forward(kernels, self.structure.num_directions, x, native_state, training, options)
        y = shown.given(y)
        tape = None
        if native is not None:
            tape = RecurrentTape(
                owner, self.structure, kernels, native, y.shape, plain=plain, shown=shown, learnt=learnt
            )
        y = y if shown.sizes is None else returned_like(given, shown.packed(y))
        return y, self.states.given(final, shown), tape

    def backward(self, tape: RecurrentTape, dy: Any, dstate: Any, grads: Array) -> tuple[Any, State]:
        """Return dx and the gradient of the initial state; those of the parameters are written into `grads`, flat."""
        if tape.plain and self._direct:
            try:
                return tape.kernels[0].backward(tape.native, dy, dstate, grads)
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        where, shown = f"{self.name}.backward", tape.shown
        dy = as_array(where, "dy", rows_like(where, "dy", dy, shown))
        check_shape(where, "dy", dy, tape.shape)
        dy = as_floats(where, "dy", shown.taken(dy), self.structure.dtype)
        dstate = self.states.native(where, "dstate", dstate, shown.batch(dy), shown)
        if tape.plain:
            dx, dinitial = tape.kernels[0].backward(tape.native, dy, dstate, grads)
        else:
            dx, dinitial = self._backward(tape, dy, dstate, grads)
        dx = shown.given(dx)
        return dx if shown.sizes is None else shown.packed(dx), self.states.given(dinitial, shown)

    def estimate_memory(
        self, owner: Owner, steps: int, batch_size: int, lengths: ArrayIn | None, training: bool
    ) -> int:
        """Bytes that a pass will hold at its peak beside x, y, the parameters and the gradients of these three."""
        call = self._call_options.planned(f"{self.name}.estimate_memory", steps, batch_size, lengths)
        kernels = self.kernels.packed(owner.params, training)
        dropped = training and bool(self.state_options.dropout)
        return estimate(kernels, self.structure, call, training=training, dropped=dropped)

    def _backward(self, tape: RecurrentTape, dy: Array, dstate: Any, grads: Array) -> tuple[Array, Any]:
        windows = [grads[start:stop] for start, stop in self.kernels.spans]
        dreset_state = [self.states.new_reset_states() for _ in windows] if self.states.learns else []
        dx, dinitial = core.backward(
            tape.kernels, self.structure.num_directions, tape.native, dy, dstate, windows, dreset_state
        )
        if self.states.learns:
            self.states.add_learnt(grads, dreset_state, dinitial if tape.learnt else None)
        return dx, dinitial

    def _taken(self, where: str, x: Any) -> tuple[Array, Shape]:
        """The caller's x as the kernels take it, and how it looked."""
        features, axes = self.structure.input_size, self._axes
        if hasattr(x, "batch_sizes") and "T" in axes:
            axes = ("sum",)
            x, shown = as_packed(where, x)
            fits = x.ndim == 2
        else:
            x = as_array(where, "x", x)
            shown = self._batched if x.ndim > len(axes) else self._single
            fits = x.ndim in (len(axes), len(axes) + 1)
        if not fits or x.shape[-1] != features:
            raise shape_error(where, "x", x, f"({', '.join(axes)}, {features})")
        return as_floats(where, "x", shown.taken(x), self.structure.dtype), shown
