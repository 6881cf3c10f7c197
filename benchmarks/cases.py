# SPDX-License-Identifier: Apache-2.0
"""The table of cases: what is measured, at which sizes. Nothing is computed here except flops.

A case is a cell, a mode and the sizes T, B, I, H. Modes: infer (y from x), train (forward, and backward to dx and all
weight gradients), step (a whole training step of a small model: recurrent layer, Linear, MSE, clip, Adam), stream (one
time step per call, with the state carried along). A precision says how its products are computed (docs/precision.md),
and so with which peers it may be compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
ITEM_BYTES = {"float32": 4, "float64": 8}
# precision of ours -> the arithmetic of products: a ratio compares two of the same. "full" is that of the dtype;
# "bfloat16" and "int8" are weights in that form (`layer.quantize`), "medium" rounds as it multiplies.
ARITHMETIC = {"highest": "full", "high": "full", "medium": "bfloat16", "bfloat16": "bfloat16", "int8": "int8"}
QUANTIZED = ("bfloat16", "int8")  # inference only


@dataclass(frozen=True)
class Case:
    """One thing to measure. `group` says why it is in the table."""

    cell: str
    mode: str
    B: int
    T: int
    I: int  # noqa: E741
    H: int
    dtype: str = "float32"
    group: str = "table"
    precision: str = "highest"

    @property
    def name(self) -> str:
        """A unique name, which `--cases` matches: `lstm-train-B32-T100-I128-H128`, `...-medium`, `...-float64`."""
        suffix = "" if self.dtype == "float32" else f"-{self.dtype}"
        suffix += "" if self.precision == "highest" else f"-{self.precision}"
        return f"{self.cell}-{self.mode}-{self.shape}{suffix}"

    @property
    def shape(self) -> str:
        """The sizes alone."""
        return f"B{self.B}-T{self.T}-I{self.I}-H{self.H}"

    @property
    def gates(self) -> int:
        """G."""
        return GATES[self.cell]

    @property
    def arithmetic(self) -> str:
        """By which products are computed: full, bfloat16 or int8."""
        return ARITHMETIC[self.precision]

    @property
    def item_bytes(self) -> int:
        """Of one element."""
        return ITEM_BYTES[self.dtype]

    @property
    def backward(self) -> bool:
        """Whether the call has a backward pass."""
        return self.mode in ("train", "step")

    @property
    def flops(self) -> int:
        """2 B T G H (I + H) for the forward pass, three times that with the backward pass."""
        return (3 if self.backward else 1) * 2 * self.B * self.T * self.gates * self.H * (self.I + self.H)

    @property
    def regime(self) -> str:
        """What bounds it: compute, bandwidth or latency; empty between the regimes."""
        if self.mode not in ("infer", "train") or self.group not in ("table", "grid") or self.T < 10:
            return ""
        if self.B >= 32 and self.H >= 128:
            return "compute"
        if self.B == 1 and self.H >= 512:
            return "bandwidth"
        return "latency" if self.B == 1 and self.H <= 64 else ""


# B, T, I, H. The shapes for which the peers' times are known.
TABLE = [
    (1, 100, 16, 32),
    (1, 100, 64, 128),
    (1, 100, 512, 512),
    (8, 100, 64, 128),
    (32, 64, 8, 64),
    (32, 100, 128, 128),
    (64, 128, 128, 256),
    (64, 100, 512, 512),
    (128, 50, 1024, 1024),
    (1, 10000, 4, 32),
]
# Around them: no size is a power of two except where T varies; every I from 1 to 10.
GRID = [
    (1, 1, 4, 32),  # with the next three and the table's T = 10,000: scaling in T
    (1, 10, 4, 32),
    (1, 100, 4, 32),
    (1, 1000, 4, 32),
    (20, 30, 10, 25),  # to H = 650: scaling in H
    (20, 30, 10, 50),
    (20, 30, 10, 100),
    (20, 30, 10, 200),
    (20, 30, 10, 300),
    (20, 30, 10, 650),
    (3, 50, 7, 100),
    (5, 50, 9, 200),
    (96, 24, 1, 25),
    (96, 20, 3, 300),
    (5, 20, 5, 650),
    (32, 1, 6, 50),
    (96, 1, 200, 100),
    (3, 40, 2, 25),
    (1, 50, 8, 300),
]
# One time step: batches and (I, H) of policies and of models that are called from a loop of the user's own.
SHORT_B = (1, 8, 32, 96)
SHORT = [(5, 25), (24, 64), (100, 50), (64, 128), (200, 100), (300, 256)]
# B, T, I, H of the table where products take most of the time; without the largest, which takes seconds a round.
PRECISION = [(1, 100, 512, 512), (8, 100, 64, 128), (32, 100, 128, 128), (64, 128, 128, 256), (64, 100, 512, 512)]
QUICK = {(1, 100, 16, 32), (1, 100, 512, 512), (32, 100, 128, 128), (5, 50, 9, 200)}
CELLS = ("lstm", "gru", "rnn")
# A forecaster's default and a small policy.
STEPS = [("lstm", 32, 24, 1, 25), ("gru", 4, 16, 16, 64)]


def all_cases() -> list[Case]:
    """Every case of the full run, cheap ones first: when time runs out, only expensive ones are missing.

    A case that is in two groups belongs to the last.
    """
    cases = [
        Case(cell, mode, B, T, I, H, group=group)
        for group, shapes in (("table", TABLE), ("grid", GRID))
        for B, T, I, H in shapes  # noqa: E741
        for cell in CELLS
        for mode in ("infer", "train")
    ]
    cases += [Case(cell, "step", B, T, I, H, group="step") for cell, B, T, I, H in STEPS]  # noqa: E741
    cases += [Case(cell, "stream", 1, 1, 32, 32, group="stream") for cell in ("lstm", "gru")]
    cases += [Case("lstm", mode, 32, 100, 128, 128, "float64", "float64") for mode in ("infer", "train")]
    cases += [Case(cell, "train", B, 1, I, H, group="short") for B in SHORT_B for I, H in SHORT for cell in CELLS]  # noqa: E741
    cases += [
        Case(cell, mode, B, T, I, H, group="precision", precision=precision)
        for B, T, I, H in PRECISION  # noqa: E741
        for cell in CELLS
        for precision in ARITHMETIC
        for mode in ("infer", "train")
        if precision != "highest" and not (mode == "train" and precision in QUANTIZED)
    ]
    unique = {case.name: case for case in cases}.values()
    return sorted(unique, key=lambda case: case.flops + 20_000_000 * case.T * case.backward * (case.B == 1))


def quick_cases() -> list[Case]:
    """A few of each kind, for `--quick`."""

    def chosen(case: Case) -> bool:
        if case.group == "short":
            return case.B == 32 and case.H == 64
        if case.group == "precision":
            return case.cell == "lstm" and case.B == 32
        known = (case.B, case.T, case.I, case.H) in QUICK and (case.cell == "lstm" or case.B > 1)
        return known or case.group not in ("table", "grid")

    return [case for case in all_cases() if chosen(case)]


def select(cases: Iterable[Case], patterns: Iterable[str]) -> list[Case]:
    """The cases whose name or group matches one of the patterns (`lstm-train-*`, `grid`); all without patterns."""
    wanted = list(patterns)
    return [
        case
        for case in cases
        if not wanted or any(fnmatchcase(case.name, p) or fnmatchcase(case.group, p) for p in wanted)
    ]


def by_name() -> dict[str, Case]:
    """Case name -> case."""
    return {case.name: case for case in all_cases()}
