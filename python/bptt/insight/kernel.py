# SPDX-License-Identifier: Apache-2.0
"""One kernel (one layer in one direction) of a recurrent layer, in float64, over time and step by step.

Float64 whatever the layer's dtype: the analysis follows products of many Jacobians, whose small directions float32
would lose. The equations are those of the native cells; nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._dispatch import core
from bptt._engine.structure import Structure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bptt._arrays import Array
    from bptt.layers.recurrent import Recurrent

FLOAT64 = np.dtype(np.float64)


class Trajectory(NamedTuple):
    """What a kernel did over time.

    x [T,B,I] its input; before, after: its states as they enter and as they leave each step, [T,B,R], then [T,B,H]
    each; gates [T,B,H] each, by name.
    """

    x: Array
    before: tuple[Array, ...]
    after: tuple[Array, ...]
    gates: dict[str, Array]


class Kernel:
    """The kernel number `index` (layer by layer, forward before reverse) of a layer, with its present weights."""

    def __init__(self, layer: Recurrent, index: int) -> None:
        whole = layer._stack.structure
        self.layer, self.index = layer, index
        self.reverse = index % whole.num_directions == 1
        self.structure = Structure(
            whole.cell,
            FLOAT64,
            whole.inputs[index // whole.num_directions],
            whole.hidden_size,
            whole.proj_size,
            bias=whole.bias,
            num_heads=whole.num_heads,
        )
        one = self.structure
        self._native = core.Stack(
            one.cell, "float64", one.input_size, one.hidden_size, one.bias, one.proj_size, num_heads=one.num_heads
        )
        start, stop = layer._stack.kernels.spans[index]
        self._native.pack(layer.params.plain[start:stop].astype(FLOAT64), True)

    @property
    def suffix(self) -> str:
        """The end of the names of its parameters: _l0, _l0_reverse, _l1 and so on."""
        return f"_l{self.index // self.layer.num_directions}" + "_reverse" * self.reverse

    @property
    def size(self) -> int:
        """The number of values of all states."""
        return sum(self.structure.widths)

    def weight(self, name: str) -> Array:
        """A copy of one of its parameters."""
        return np.array(self.layer.params[name + self.suffix], FLOAT64)

    def run(self, x: Array, first: tuple[Array, ...], lengths: Array | None = None) -> Trajectory:
        """The states over time from `first`, [B,R], then [B,H] each; x [T,B,I], float64, in the caller's order."""
        options = None
        if self.reverse or lengths is not None:
            counts = np.full(x.shape[1], len(x)) if lengths is None else lengths
            options = [core.CallOptions(order=core.SequenceOrder(counts, len(x), self.reverse))]
        y, _, tape = self._native.forward(x, _whole([s[np.newaxis] for s in first]), True, options)
        assert tape is not None
        info = self.structure.info
        places = {name: i for i, name in enumerate(info.kept)}
        kept = tape.kept([*places.values(), *(-i for i in range(1, len(info.states)))], 0)
        after = (y, *kept[len(places) :])
        return Trajectory(x, self._before(after, first, lengths), after, dict(zip(places, kept, strict=False)))

    def _before(self, after: tuple[Array, ...], first: tuple[Array, ...], lengths: Array | None) -> tuple[Array, ...]:
        if not self.reverse:
            return tuple(np.concatenate([s[np.newaxis], a[:-1]]) for s, a in zip(first, after, strict=True))
        T, rows = len(after[0]), np.arange(after[0].shape[1])
        last = np.full(len(rows), T) - 1 if lengths is None else lengths - 1
        before = tuple(np.concatenate([a[1:], s[np.newaxis]]) for s, a in zip(first, after, strict=True))
        for s, b in zip(first, before, strict=True):
            b[last, rows] = s
        return before

    def pulled(self, x: Array, before: tuple[Array, ...], vectors: Array) -> Array:
        """Row by row the product of the transposed Jacobian of one step with a vector.

        x [N,I] and the states before the step, [N,R], then [N,H] each; vectors and the result [N,n], n = `size`.
        """
        _, _, tape = self._native.forward(x[np.newaxis], _whole([s[np.newaxis] for s in before]), True)
        parts = np.split(vectors, np.cumsum(self.structure.widths)[:-1], axis=1)
        dy = np.zeros((1, len(x), self.structure.output_size))
        dstate = _whole([np.ascontiguousarray(part)[np.newaxis] for part in parts])
        assert tape is not None
        before_d = self._native.backward(tape, dy, dstate, None, want_dx=False)[1]
        return np.concatenate([part[0] for part in _parts(before_d)], axis=1)

    def step_gradient(self, x: Array, before: tuple[Array, ...], dafter: tuple[Array, ...]) -> Array:
        """The gradient of the parameters, flat, of one step of N rows; arguments as of `pulled`, dafter as `before`."""
        _, _, tape = self._native.forward(x[np.newaxis], _whole([s[np.newaxis] for s in before]), True)
        dy = np.zeros((1, len(x), self.structure.output_size))
        start, stop = self.layer._stack.kernels.spans[self.index]
        grads = np.empty(stop - start)
        assert tape is not None
        dstate = _whole([s[np.newaxis] for s in dafter])
        self._native.backward(tape, dy, dstate, grads, want_dx=False, want_dstate=False)
        return grads


def trajectories(
    layer: Recurrent, x: Array, state: Any, lengths: Array | None = None
) -> Iterator[tuple[Kernel, Trajectory]]:
    """Each kernel of a layer and what it does.

    x [T,B,I], any floats; state: as the engine takes it, [L*D,B,.] arrays or None for zeros or the learnt state.
    """
    stack = layer._stack
    structure, B = stack.structure, x.shape[1]
    if state is None:
        state = stack.states.initial(layer.params.plain, B)
    first = (
        tuple(np.zeros((structure.kernels, B, width)) for width in structure.widths)
        if state is None
        else tuple(part.astype(FLOAT64) for part in _parts(state))
    )
    flow = np.ascontiguousarray(x, FLOAT64)
    for k in range(structure.num_layers):
        outputs = []
        for d in range(structure.num_directions):
            kernel = Kernel(layer, k * structure.num_directions + d)
            trajectory = kernel.run(flow, tuple(part[kernel.index] for part in first), lengths)
            outputs.append(trajectory.after[0])
            yield kernel, trajectory
        flow = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)


def _parts(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


def _whole(parts: list[Array]) -> Any:
    return tuple(parts) if len(parts) > 1 else parts[0]
