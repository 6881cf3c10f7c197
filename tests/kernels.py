# SPDX-License-Identifier: Apache-2.0
"""Shared by the kernel tests: the native levels of this machine, the arrays of a case, one run, and its tolerance.

`CASES` are (T, B, I, H) that hit every tail: rows 1 to 6 and their sums, hidden sizes around the register widths, no
steps at all, several chunks of time, more rows than a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import _cpu, reference

CELLS = tuple(reference.CELLS)
DTYPES = ("float32", "float64")
CASES = [
    (1, 1, 1, 1),
    (2, 2, 3, 3),
    (9, 5, 4, 16),
    (9, 7, 1, 17),
    (3, 33, 2, 63),
    (2, 33, 5, 130),
    (0, 2, 3, 4),
    (9, 1, 2, 130),
    (3, 200, 3, 20),
    (300, 1, 2, 5),
]


def levels() -> list[Any]:
    """The native modules that this build has and this machine runs."""
    found = []
    for level in _cpu.supported():
        try:
            found.append(import_module(f"bptt._core_{level}"))
        except ModuleNotFoundError:
            continue
    return found


@dataclass
class Case:
    """Random inputs of one size; weights by the reference's names."""

    cell: str
    dtype: str
    weights: dict[str, NDArray[Any]]
    x: NDArray[Any]  # [T,B,I]
    states: tuple[NDArray[Any], ...]  # [B,H]
    dy: NDArray[Any]  # [T,B,H]
    dstates: tuple[NDArray[Any], ...]

    @classmethod
    def random(cls, cell: str, dtype: str, T: int, B: int, I: int, H: int) -> Case:  # noqa: E741
        """Values of order one; recurrent weights scaled so that states neither die nor explode."""
        rng = np.random.default_rng([T, B, I, H])
        meta = reference.CELLS[cell]

        def draw(*shape: int) -> NDArray[Any]:
            return (rng.standard_normal(shape) * 0.5).astype(dtype)

        weights = {name: draw(*shape) for name, shape in meta.shapes(I, H, N=heads_of(cell, H)).items()}
        weights["weight_hh"] /= np.sqrt(H).astype(dtype)
        states, dstates = (tuple(draw(B, H) for _ in range(meta.S)) for _ in range(2))
        if "n" in meta.states:  # a sum of positive weights, the largest of them 1
            states = tuple(1 + np.abs(s) if name == "n" else s for name, s in zip(meta.states, states, strict=True))
        return cls(cell, dtype, weights, draw(T, B, I), states, draw(T, B, H), dstates)

    @property
    def flat(self) -> NDArray[Any]:
        """The weights as the kernels take them: one after the other."""
        return np.concatenate([w.reshape(-1) for w in self.weights.values()])

    @property
    def state(self) -> Any:
        """The initial state as the kernels take it."""
        return as_state(self.states)

    def stack(self, core: Any) -> Any:
        """A native stack of one kernel with these weights packed."""
        H = self.dy.shape[2]
        stack = core.Stack(self.cell, self.dtype, self.x.shape[2], H, True, num_heads=heads_of(self.cell, H))
        stack.pack(self.flat, True)
        return stack

    def run(self, core: Any, threads: int = 1) -> dict[str, NDArray[Any]]:
        """Forward and backward on `threads` threads: every result by name."""
        before = core.get_num_threads()
        core.set_num_threads(threads)
        try:
            stack = self.stack(core)
            y, finals, tape = stack.forward(self.x, self.state, True)
            flat = np.full_like(self.flat, np.nan)
            dx, dinitials = stack.backward(tape, self.dy, as_state(self.dstates), flat)
        finally:
            core.set_num_threads(before)
        return by_name(y, as_tuple(finals), dx, as_tuple(dinitials), self.named(flat))

    def named(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The parts of a flat array, by the weights' names."""
        ends = np.cumsum([w.size for w in self.weights.values()])[:-1]
        parts = zip(self.weights.items(), np.split(flat, ends), strict=True)
        return {name: part.reshape(w.shape) for (name, w), part in parts}

    def expected(self) -> dict[str, NDArray[Any]]:
        """The same from the float64 reference."""
        y, finals, tape = reference.forward(self.cell, self.weights, self.x, self.states)
        return by_name(y, finals, *reference.backward(tape, self.dy, self.dstates))

    def tolerance(self) -> float:
        """Relative to the largest value of a result.

        A sum of n rounded terms is off by about eps sqrt(n) of its size; the longest sums are those over I + H in
        forward, G H in backward and T B in the weight gradients. The factor 8 leaves room for the tails of that
        distribution over some 10^5 results and for the errors of earlier steps that the recurrence carries along.
        Where a cell normalises, gradients are differences of terms 1 / sigma as large, sigma the deviation of a row.
        """
        T, B, I = self.x.shape  # noqa: E741
        n = I + len(self.weights["bias"]) + T * B
        return float(8 * np.finfo(self.dtype).eps * np.sqrt(n) * self.amplification())

    def amplification(self) -> float:
        """The largest 1 / sigma by which the cell multiplies, at least 1."""
        if not self.cell.endswith("_norm") or self.dy.shape[2] == 1:  # normalising one unit gives 0
            return 1.0
        _, _, tape = reference.forward(self.cell, self.weights, self.x, self.states)
        scales = [k for step in tape.steps for k in step["k"] if k.shape[1] == 1]
        return float(max([1.0, *(scale.max(initial=0.0) for scale in scales)]))


def heads_of(cell: str, H: int) -> int:
    """The heads of a case: of slstm_exp the least number above 1 that H allows, so that both kinds are covered."""
    return next((n for n in range(2, H + 1) if H % n == 0), 1) if cell == "slstm_exp" else 1


def as_state(states: tuple[NDArray[Any], ...]) -> Any:
    """Arrays [B,H] as the kernels take them: [1,B,H], a tuple where there are several."""
    full = tuple(s[np.newaxis] for s in states)
    return full if len(full) > 1 else full[0]


def as_tuple(state: Any) -> tuple[NDArray[Any], ...]:
    """The inverse of `as_state`."""
    return tuple(s[0] for s in (state if isinstance(state, tuple) else (state,)))


def by_name(y: Any, finals: Any, dx: Any, dinitials: Any, grads: dict[str, Any]) -> dict[str, NDArray[Any]]:
    states = {f"final {i}": s for i, s in enumerate(finals)} | {f"dinitial {i}": s for i, s in enumerate(dinitials)}
    return {"y": y, "dx": dx} | states | {f"d{name}": g for name, g in grads.items()}


def assert_close(actual: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], tolerance: float) -> None:
    """Every result within `tolerance` of the expected one, relative to that one's largest value."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.shape == expected[name].shape, name
        error = np.abs(value - expected[name]).max(initial=0.0)
        assert error <= tolerance * (1 + np.abs(expected[name]).max(initial=0.0)), (name, error, tolerance)


def assert_same_bits(actual: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    """Every result equal to the last bit."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.dtype == expected[name].dtype
        assert value.tobytes() == expected[name].tobytes(), name
