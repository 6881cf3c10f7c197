# SPDX-License-Identifier: Apache-2.0
"""Ragged rows, resets, zoneout, recurrent dropout, clipping and segments: kernels against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import CELLS, DTYPES, Case, assert_close, assert_same_bits, levels
from state_options import Setting, expected, run, settings

LEVELS = levels()
NAMES = list(settings(2, 2))
every_level = pytest.mark.parametrize("core", LEVELS, ids=[core.level for core in LEVELS])
every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_setting = pytest.mark.parametrize("name", NAMES)

SIZES = [(1, 1, 1, 1), (7, 5, 3, 17), (9, 14, 5, 37), (3, 70, 2, 20), (40, 9, 1, 5), (2, 3, 9, 130), (0, 2, 3, 4)]


@every_level
@every_cell
@every_dtype
@every_setting
def test_kernels_agree_with_the_reference(core: Any, cell: str, dtype: str, name: str) -> None:
    for T, B, I, H in SIZES:  # noqa: E741
        case = Case.random(cell, dtype, T, B, I, H)
        setting = settings(T, B)[name]
        if cell == "rnn_relu" and setting.clip < np.inf:
            continue  # states at the limit: rounding may move them to either side
        assert_close(run(core, case, setting), expected(case, setting), 2 * case.tolerance())


@every_level
@every_cell
@every_setting
def test_threads_and_segments_change_no_bit(core: Any, cell: str, name: str) -> None:
    for T, B, I, H in ((300, 3, 2, 5), (11, 60, 5, 33), (5, 2, 64, 260)):  # noqa: E741
        case = Case.random(cell, "float32", T, B, I, H)
        setting = settings(T, B)[name]
        one = run(core, case, setting)
        for threads in (2, 3):
            assert_same_bits(run(core, case, setting, threads), one)
        for segment in (0, 1, 2, 4, 1000):
            parts = Setting(**{**vars(setting), "segment": segment})
            assert_same_bits(run(core, case, parts, 2), one)
