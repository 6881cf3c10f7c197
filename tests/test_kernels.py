# SPDX-License-Identifier: Apache-2.0
"""Every cell's kernels against the float64 reference, on each instruction-set level; the same bits for any threads."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from kernels import CASES, CELLS, DTYPES, Case, as_state, as_tuple, assert_close, assert_same_bits, levels

LEVELS = levels()
every_level = pytest.mark.parametrize("core", LEVELS, ids=[core.level for core in LEVELS])
every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Sizes at which the estimated times choose each way to spread a call over threads (test_every_split_is_tested).
SPLIT_CASES = {"none": (4, 2, 3, 5), "batch": (5, 60, 33, 9), "hidden": (3, 2, 200, 260)}


def test_there_is_a_level() -> None:
    assert LEVELS


@every_level
@every_cell
@every_dtype
def test_kernels_agree_with_the_reference(core: Any, cell: str, dtype: str) -> None:
    for sizes in CASES:
        case = Case.random(cell, dtype, *sizes)
        assert_close(case.run(core), case.expected(), case.tolerance())


@every_level
@every_cell
@every_dtype
def test_threads_change_no_bit(core: Any, cell: str, dtype: str) -> None:
    for sizes in (*CASES[3:6], *SPLIT_CASES.values()):
        case = Case.random(cell, dtype, *sizes)
        one = case.run(core, threads=1)
        for threads in (2, 3, 5):
            assert_same_bits(case.run(core, threads), one)


@every_level
@every_dtype
def test_every_split_is_tested(core: Any, dtype: str) -> None:
    before = core.get_num_threads()
    core.set_num_threads(2)
    try:
        for cell in ("lstm", "gru"):
            for split, (T, B, I, H) in SPLIT_CASES.items():  # noqa: E741
                assert core.Stack(cell, dtype, I, H, True).plan(T, B)["split"] == split
    finally:
        core.set_num_threads(before)


@every_level
@every_cell
@every_dtype
def test_split_cases_agree_with_the_reference(core: Any, cell: str, dtype: str) -> None:
    for sizes in SPLIT_CASES.values():
        case = Case.random(cell, dtype, *sizes)
        assert_close(case.run(core, threads=2), case.expected(), case.tolerance())


@every_level
@every_cell
def test_a_row_does_not_depend_on_its_batch(core: Any, cell: str) -> None:
    """One row, seven, eleven and all 17 give the same bits; input products are hoisted below B = 8 only."""
    case = Case.random(cell, "float32", 6, 17, 5, 37)
    stack = case.stack(core)
    y, _, _ = stack.forward(case.x, case.state, False)
    for rows in (slice(0, 1), slice(16, 17), slice(3, 10), slice(1, 12)):
        part, _, _ = stack.forward(
            np.ascontiguousarray(case.x[:, rows]), as_state(tuple(s[rows] for s in case.states)), False
        )
        assert part.tobytes() == np.ascontiguousarray(y[:, rows]).tobytes()


@every_level
@every_cell
def test_a_rows_gradient_does_not_depend_on_its_batch(core: Any, cell: str) -> None:
    """dx and the initial state's gradient, for small and large H and for narrow and wide inputs."""
    for T, I, H in ((5, 5, 37), (4, 2, 80)):  # noqa: E741
        case = Case.random(cell, "float32", T, 17, I, H)
        whole = case.run(core)
        for rows in (slice(0, 1), slice(16, 17), slice(3, 10)):
            part = Case(
                cell, "float32", case.weights, np.ascontiguousarray(case.x[:, rows]),
                tuple(s[rows] for s in case.states), np.ascontiguousarray(case.dy[:, rows]),
                tuple(s[rows] for s in case.dstates),
            ).run(core)  # fmt: skip
            assert part["dx"].tobytes() == np.ascontiguousarray(whole["dx"][:, rows]).tobytes()
            assert part["dinitial 0"].tobytes() == np.ascontiguousarray(whole["dinitial 0"][rows]).tobytes()


@every_level
@every_cell
@every_dtype
def test_a_stream_gives_the_bits_of_the_whole_sequence(core: Any, cell: str, dtype: str) -> None:
    for T, B, I, H in ((9, 1, 4, 16), (6, 5, 3, 17), (4, 7, 2, 50), (3, 13, 6, 70)):  # noqa: E741
        case = Case.random(cell, dtype, T, B, I, H)
        stack = case.stack(core)
        y, final, _ = stack.forward(case.x, case.state, False)
        stream = core.Stream(stack, B)
        stream.state = case.state
        steps = [stream(x).copy() for x in case.x]
        assert np.array(steps).tobytes() == y.tobytes()
        for a, b in zip(as_tuple(stream.state), as_tuple(final), strict=True):
            assert a.tobytes() == b.tobytes()
        stream.state = case.state
        assert stream(case.x).tobytes() == y.tobytes()
        stream.reset([0, B - 1])
        for after, before in zip(as_tuple(stream.state), as_tuple(final), strict=True):
            assert not after[[0, B - 1]].any()
            assert after[1 : B - 1].tobytes() == before[1 : B - 1].tobytes()
        stream.reset()
        assert stream(case.x).tobytes() == stack.forward(case.x, None, False)[0].tobytes()


@every_level
def test_a_stream_keeps_its_weights_and_refuses_what_is_not_exact(core: Any) -> None:
    case = Case.random("gru", "float32", 4, 2, 3, 5)
    stack = case.stack(core)
    expected = stack.forward(case.x, None, False)[0]
    stream = core.Stream(stack, 2)
    stack.pack(case.flat * 2, False)
    y = stream(case.x[0])
    assert y.tobytes() == expected[0].tobytes()
    assert not y.flags.writeable
    assert stream(case.x[1]) is y
    with pytest.raises(ValueError, match=r"x has shape \(1, 3\), expected \(2, 3\)"):
        stream(case.x[0, :1])
    with pytest.raises(TypeError, match="x has dtype float64, expected float32"):
        stream(case.x[0].astype(np.float64))
    with pytest.raises(ValueError, match=r"state has shape \(1, 1, 5\), expected \(1, 2, 5\)"):
        stream.state = np.zeros((1, 1, 5), np.float32)
    with pytest.raises(ValueError, match="batch is 0, expected at least 1"):
        core.Stream(stack, 0)
    unpacked = core.Stack("gru", "float32", 3, 5, True)
    with pytest.raises(ValueError, match="there are no weights, expected a call of pack first"):
        core.Stream(unpacked, 2)
    with pytest.raises(ValueError, match="the stack has other sizes than before"):
        stream._take_weights(Case.random("gru", "float32", 4, 2, 3, 6).stack(core), None)
    with pytest.raises(ValueError, match="the stack has other sizes than before"):
        stream._take_weights(Case.random("gru", "float64", 4, 2, 3, 5).stack(core), None)
    stream._take_weights(stack, None)
    assert stream(case.x[1]) is y


@every_level
@every_cell
def test_inference_and_training_give_the_same_bits(core: Any, cell: str) -> None:
    for sizes in CASES:
        case = Case.random(cell, "float32", *sizes)
        stack = case.stack(core)
        y, finals, tape = stack.forward(case.x, case.state, True)
        y_inference, finals_inference, none = stack.forward(case.x, case.state, False)
        assert none is None
        assert tape is not None
        assert y.tobytes() == y_inference.tobytes()
        for a, b in zip(as_tuple(finals), as_tuple(finals_inference), strict=True):
            assert a.tobytes() == b.tobytes()


@every_level
def test_unaligned_and_read_only_inputs(core: Any) -> None:
    case = Case.random("lstm", "float32", 4, 3, 5, 19)
    expected = case.run(core)

    def shifted(a: np.ndarray) -> np.ndarray:
        out = np.empty(a.size + 1, a.dtype)[1:].reshape(a.shape)
        out[...] = a
        out.flags.writeable = False
        return out

    case.x, case.dy = shifted(case.x), shifted(case.dy)
    case.states = tuple(shifted(s) for s in case.states)
    case.weights = {name: shifted(w) for name, w in case.weights.items()}
    assert_same_bits(case.run(core), expected)


@every_level
def test_tapes_are_independent(core: Any) -> None:
    """Two forwards, then two backwards in either order, from several threads at once."""
    case = Case.random("gru", "float32", 20, 9, 6, 40)
    expected = case.run(core)
    results: list[dict[str, np.ndarray]] = []

    def work() -> None:
        for _ in range(5):
            results.append(case.run(core, threads=core.get_num_threads()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for result in results:
        assert_same_bits(result, expected)

    stack = case.stack(core)
    tapes = [stack.forward(case.x * np.float32(scale), case.state, True)[2] for scale in (1, 2)]
    grads = [np.empty_like(case.flat) for _ in tapes]
    for i in (1, 0):
        stack.backward(tapes[i], case.dy, as_state(case.dstates), grads[i])
    assert case.named(grads[0])["weight_ih"].tobytes() == expected["dweight_ih"].tobytes()


@every_level
def test_a_tape_keeps_the_weights_of_its_forward(core: Any) -> None:
    case = Case.random("lstm", "float32", 3, 2, 4, 8)
    expected = case.run(core)
    stack = case.stack(core)
    _, _, tape = stack.forward(case.x, case.state, True)
    stack.pack(case.flat * 2, True)
    dx, _ = stack.backward(tape, case.dy, as_state(case.dstates), np.empty_like(case.flat))
    assert dx.tobytes() == expected["dx"].tobytes()


@every_level
def test_misuse_is_refused(core: Any) -> None:
    case = Case.random("lstm", "float32", 3, 2, 4, 8)
    stack = case.stack(core)
    _, _, tape = stack.forward(case.x, case.state, True)
    grads, dstate = np.empty_like(case.flat), as_state(case.dstates)
    with pytest.raises(ValueError, match="another layer"):
        case.stack(core).backward(tape, case.dy, dstate, grads)
    with pytest.raises(ValueError, match=r"dy has shape \(2, 2, 8\), expected \(3, 2, 8\)"):
        stack.backward(tape, case.dy[1:], dstate, grads)
    stack.backward(tape, case.dy, dstate, grads)
    with pytest.raises(RuntimeError, match="used already"):
        stack.backward(tape, case.dy, dstate, grads)
    with pytest.raises(TypeError, match="x has dtype float64, expected float32"):
        stack.forward(case.x.astype(np.float64), case.state, False)
    with pytest.raises(ValueError, match="strided"):
        stack.forward(np.asfortranarray(case.x), case.state, False)
    off_by_one_byte = np.zeros(case.x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(case.x.shape)
    with pytest.raises(ValueError, match="not aligned"):
        stack.forward(off_by_one_byte, case.state, False)
    with pytest.raises(ValueError, match="no weights"):
        core.Stack("lstm", "float32", 4, 8, True).forward(case.x, case.state, False)
    with pytest.raises(ValueError, match="state has type ndarray, expected a tuple of 2 arrays"):
        stack.forward(case.x, case.state[0], False)
    with pytest.raises(ValueError, match=r"params has shape \(416,\), expected \(384,\)"):
        core.Stack("lstm", "float32", 4, 8, False).pack(case.flat, False)
    inference = core.Stack("lstm", "float32", 4, 8, True)
    inference.pack(case.flat, False)
    with pytest.raises(RuntimeError, match="packed for inference only"):
        inference.forward(case.x, case.state, True)
    with pytest.raises(ValueError, match="no cell 'elman'"):
        core.Stack("elman", "float32", 4, 8, True)


@every_level
@every_dtype
def test_values_that_are_not_finite_stay_where_they_are(core: Any, dtype: str) -> None:
    """A NaN in one row of x reaches that row's y from its step on, and no other row."""
    for cell in CELLS:
        case = Case.random(cell, dtype, 5, 8, 3, 18)
        stack = case.stack(core)
        clean, _, _ = stack.forward(case.x, case.state, False)
        case.x[2, 3, 1] = np.nan
        y, _, _ = stack.forward(case.x, case.state, False)
        assert np.isnan(y[2:, 3]).all()
        y[2:, 3] = clean[2:, 3]
        assert y.tobytes() == clean.tobytes()


@every_level
@pytest.mark.parametrize("size", [2**31, 2**40, 2**62, 2**63 - 1])
def test_sizes_beyond_all_memory_are_refused(core: Any, size: int) -> None:
    """Products of sizes that do not fit into 64 bits are never computed (a sanitizer run sees it)."""
    few, none = np.zeros(4, np.float32), core.CallOptions()
    for I, H in ((size, 3), (3, size), (size, size)):  # noqa: E741
        with pytest.raises((ValueError, MemoryError)):
            core.Stack("lstm", "float32", I, H, True).pack(few, True)
    small = core.Stack("gru", "float32", 2, 3, True)
    small.plan(size, size)
    for steps, batch in ((size, size), (size, 2**20), (2**20, size)):
        for options in (None, [none], [core.CallOptions(segment=size)]):
            with pytest.raises((ValueError, MemoryError)):
                small.memory(steps, batch, options, True)
    small.pack(np.zeros(3 * 3 * 2 + 3 * 3 * 3 + 3 * 3 + 3, np.float32), False)
    with pytest.raises((ValueError, MemoryError)):
        core.Stream(small, size, none)
