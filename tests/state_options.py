# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of calls with options: a kernel case with rows, resets, masks and limits, and its reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import reference
from kernels import Case, as_state, as_tuple, by_name

SEED = 0x1234_5678_9ABC_DEF0


@dataclass
class Setting:
    """The options of one call; each may be absent."""

    lengths: NDArray[Any] | None = None
    reverse: bool = False
    resets: NDArray[Any] | None = None
    reset_state: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)
    dropout: float = 0.0
    clip: float = np.inf
    clip_gradient: float = np.inf
    segment: int = 0
    training: bool = field(default=True)


def settings(T: int, B: int, seed: int = 0) -> dict[str, Setting]:
    """Each feature alone, and all together."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, T + 1, B)
    if B > 1:
        lengths[0], lengths[1] = T, 0
    resets = rng.random((T, B)) < 0.3
    return {
        "ragged": Setting(lengths=lengths),
        "reverse": Setting(reverse=True),
        "ragged reverse": Setting(lengths=lengths, reverse=True),
        "resets": Setting(resets=resets),
        "learnt resets": Setting(resets=resets, reset_state=True),
        "zoneout": Setting(zoneout=(0.3, 0.6)),
        "dropout": Setting(dropout=0.4),
        "clip": Setting(clip=0.3),
        "clip gradient": Setting(clip_gradient=0.05),
        "all": Setting(lengths, True, resets, True, (0.2, 0.1), 0.25, 0.5, 0.2),
        "all, in segments": Setting(lengths, True, resets, True, (0.2, 0.1), 0.25, 0.5, 0.2, segment=2),
    }


def reset_state_of(case: Case) -> tuple[NDArray[Any], ...]:
    """Learnt states: any values, [H] each."""
    return tuple(np.ascontiguousarray(s[-1] * s.dtype.type(0.5)) for s in case.dstates)


def rows(core: Any, setting: Setting, T: int, B: int) -> Any:
    """The native rows, None where every row has every step, forward."""
    if setting.lengths is None and not setting.reverse:
        return None
    return core.SequenceOrder(np.full(B, T) if setting.lengths is None else setting.lengths, T, setting.reverse)


def run(core: Any, case: Case, setting: Setting, threads: int = 1) -> dict[str, NDArray[Any]]:
    """Forward and backward of one direction by the kernels: every result by name."""
    T, B, _ = case.x.shape
    states = reference.CELLS[case.cell].states
    before = core.get_num_threads()
    core.set_num_threads(threads)
    try:
        starts = reset_state_of(case)
        options = core.CallOptions(
            order=rows(core, setting, T, B), resets=setting.resets,
            reset_state=(starts if len(starts) > 1 else starts[0]) if setting.reset_state else None,
            zoneout=setting.zoneout, dropout=setting.dropout, clip=setting.clip,
            clip_gradient=setting.clip_gradient, seed=SEED, segment=setting.segment,
        )  # fmt: skip
        stack = case.stack(core)
        y, final, tape = stack.forward(case.x, case.state, True, [options])
        flat = np.full_like(case.flat, np.nan)
        dreset_state = tuple(np.full(s.shape[1], np.nan, s.dtype) for s in case.states)
        given = [dreset_state if len(dreset_state) > 1 else dreset_state[0]] if setting.reset_state else []
        dx, dinitial = stack.backward(tape, case.dy, as_state(case.dstates), flat, given)
    finally:
        core.set_num_threads(before)
    grads = case.named(flat)
    if setting.reset_state:
        grads |= {f"reset_state_{name}": d for name, d in zip(states, dreset_state, strict=True)}
    return by_name(y, as_tuple(final), dx, as_tuple(dinitial), grads)


def reference_options(case: Case, setting: Setting) -> reference.StateOptions:
    """The same for the reference, masks drawn there."""
    T, B, _ = case.x.shape
    H = case.states[-1].shape[1]
    kind = reference.CELLS[case.cell]
    widths = [s.shape[1] for s in case.states]
    zoneout: Any = None
    if any(setting.zoneout):
        p_h, p_other = setting.zoneout
        zoneout = (p_h, *[p_other] * (kind.S - 1))
        if setting.training:
            masks = reference.zoneout_masks(SEED, T, B, max(H, *widths), zoneout)
            zoneout = tuple(m[:, :, :w] for m, w in zip(masks, widths, strict=True))
    mask = None
    if setting.dropout and setting.training:
        mask = reference.recurrent_dropout_mask(SEED, B, widths[0], setting.dropout)
    return reference.StateOptions(
        setting.lengths, setting.reverse, setting.resets, reset_state_of(case) if setting.reset_state else None,
        zoneout, mask, setting.clip, setting.clip_gradient,
    )  # fmt: skip


def expected(case: Case, setting: Setting) -> dict[str, NDArray[Any]]:
    """Every result by name, from the float64 reference."""
    y, finals, tape = reference.forward(case.cell, case.weights, case.x, case.states, reference_options(case, setting))
    return by_name(y, finals, *reference.backward(tape, case.dy, case.dstates))
