# SPDX-License-Identifier: Apache-2.0
"""Runs a network forward and backward on the weights of their owner.

A call that asks for no options, on arrays that are exact, goes straight to the native stack; others are checked and
converted here first, and get a native CallOptions for each kernel where they need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bptt._arrays import as_array, as_floats, check_shape, shape_error
from bptt._engine.call_options import NativeOptions
from bptt._engine.kernels import Kernels
from bptt._engine.packed import Shape, as_packed, returned_like, rows_like
from bptt._engine.states import States
from bptt._engine.tape import TIME_MAJOR, RecurrentTape

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
    spans: the places of each kernel's flat parameters; learnt: the places of the learnt initial states, if any.
    batch_first, one_step: the form of callers' arrays (`packed.Shape`).
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
        self._spans, self._learnt, self._batch_first, self._one_step = spans, learnt, batch_first, one_step
        self._axes = ("B",) if one_step else ("B", "T") if batch_first else ("T", "B")  # of x, before its features
        self._batched, self._single = (Shape(batched, batch_first, one_step) for batched in (True, False))
        self.kernels = Kernels(structure, spans)
        self.states = States(structure, learnt)
        self._call_options = NativeOptions(structure, state_options, self.states)
        # Whether a call without lengths and resets asks for nothing that CallOptions say.
        self._plain = structure.num_directions == 1 and state_options.plain and learnt is None
        self._time_major = not (batch_first or one_step)  # the stack may take arrays as they are

    @property
    def direct(self) -> bool:
        """Whether a call without lengths and resets may go straight to the native stack."""
        return self._plain and self._time_major

    def narrow(self, weights: str) -> Stack:
        """The same network with weights stored in fewer bits, for inference: "int8" or "bfloat16"."""
        structure, learnt = self.structure._replace(weights=weights), self._learnt
        form = {"batch_first": self._batch_first, "one_step": self._one_step}
        return Stack(self.name, structure, self.state_options, self._spans, learnt, **form)

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
        plain = self._plain and lengths is None and resets is None
        if plain and self._time_major:
            found = self.kernels.forward_if_exact(owner.params, x, state, training)
            if found is not None:
                y, final, kept = found
                if kept is None:
                    return y, final, None
                return y, final, RecurrentTape(owner, self.structure, self.kernels.native, kept, y.shape)
        where, given = f"{self.name}.forward", x
        x, shown = self._taken(where, x)
        B = shown.batch(x.shape)
        first = self.states.native(where, "state", state, B, shown)
        learnt = state is None and self.states.learns
        options = None
        if not plain or shown.sizes is not None:
            if learnt:
                first = self.states.initial(owner.params.plain, B)
            seed = self.state_options.next_call() if training and self.state_options.random else 0
            options = self._call_options.make(where, owner.params, x, shown, lengths, resets, seed)
        found = None
        if plain and shown.sizes is None:
            found = self.kernels.forward_if_exact(owner.params, x, first, training)
        native = self.kernels.native
        if found is None:
            native = self.kernels.packed(owner.params, training)
            found = native.forward(x, first, training, options)
        y, final, kept = found
        y = shown.given(y)
        tape = None
        if kept is not None:
            tape = RecurrentTape(owner, self.structure, native, kept, y.shape, shown=shown, learnt=learnt)
        y = y if shown.sizes is None else returned_like(given, shown.packed(y))
        return y, self.states.given(final, shown), tape

    def backward(self, tape: RecurrentTape, dy: Any, dstate: Any, grads: Array) -> tuple[Any, State]:
        """Return dx and the gradient of the initial state; those of the parameters are written into `grads`, flat.

        dy: None for zeros; of a tape with `last`, the gradient of these steps.
        """
        if self.direct and tape.shown is TIME_MAJOR:  # nothing but the kernels' parameters is in grads
            found = tape.stack.backward_if_exact(tape.native, dy, dstate, grads)
            if found is not None:
                return found
        parts = self.kernels.parts(grads)
        where, shown = f"{self.name}.backward", tape.shown
        dstate = self.states.native(where, "dstate", dstate, shown.batch(shown.native(tape.shape)), shown)
        if dy is not None and tape.last is not None:
            dy, dstate = self._of_last_steps(where, tape, dy, dstate)
        elif dy is not None:
            dy = as_array(where, "dy", rows_like(where, "dy", dy, shown))
            check_shape(where, "dy", dy, tape.shape)
            dy = as_floats(where, "dy", shown.taken(dy), self.structure.dtype)
        dreset_state = [self.states.new_reset_states() for _ in parts] if self.states.learns else []
        dx, dinitial = tape.stack.backward(tape.native, dy, dstate, parts, dreset_state)
        if self.states.learns:
            self.states.add_learnt(grads, dreset_state, dinitial if tape.learnt else None)
        dx = shown.given(dx)
        return dx if shown.sizes is None else shown.packed(dx), self.states.given(dinitial, shown)

    def _of_last_steps(self, where: str, tape: RecurrentTape, dy: Any, dstate: Any) -> tuple[Array | None, Any]:
        """The gradient of the last steps as dy and dstate. In one direction they are the final h: there is no dy."""
        last, shown, width = tape.last, tape.shown, tape.shape[-1]
        assert last is not None
        dy = as_floats(where, "dy", dy, self.structure.dtype)
        check_shape(where, "dy", dy, (last.batch, width) if shown.batched else (width,))
        dy = dy.reshape(last.batch, width)
        if self.structure.num_directions > 1:
            rows = np.zeros(shown.native(tape.shape), self.structure.dtype)
            last.put(rows, dy)
            return rows, dstate
        dy = last.cleared(dy)
        return None, self.states.added_to_last(dstate, dy if shown.sorted_indices is None else dy[shown.sorted_indices])

    def estimate_memory(self, steps: int, batch_size: int, lengths: ArrayIn | None, training: bool) -> int:
        """Bytes that a pass will hold at its peak, without x, y, the parameters and the gradients of these three."""
        options = self._call_options.planned(f"{self.name}.estimate_memory", steps, batch_size, lengths)
        return self.kernels.native.memory(steps, batch_size, options, training)

    def _taken(self, where: str, x: Any) -> tuple[Array, Shape]:
        """The caller's x as the kernels take it, and its form."""
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
