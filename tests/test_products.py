# SPDX-License-Identifier: Apache-2.0
"""Products by Winograd's inner product and in bfloat16, through whole layers: errors, bits, and what is not finite.

A linear RNN of one step is its products alone: y = Wx x + Wh h0, dx = dy Wx, dh = dy Wh, dW = dy^T (x, h0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import _precision
from bptt._dispatch import core
from stacks import Case, Expected, Results, parts, threads

Array = NDArray[Any]

PRECISION = {"winograd": "high", "bfloat16": "medium", "amx_bfloat16": "medium"}
MODES = [name for name in PRECISION if name in core.products]
KINDS = ["lstm", "peephole", "gru", "rnn_tanh"]
if not MODES:
    pytest.skip("this level on this processor has chains of FMAs only", allow_module_level=True)


@pytest.fixture(params=MODES)
def mode(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each mode that this machine runs, also where it does not pay."""
    name = str(request.param)
    monkeypatch.setitem(_precision._products, PRECISION[name], name)
    return name


def products(mode: str, x: Array, h: Array, dy: Array, wx: Array, wh: Array) -> Results:
    """The products of a linear RNN of one step, x [B,I], h [B,H], dy [B,H]."""
    H, I = wx.shape  # noqa: E741
    stack = core.Stack("rnn_linear", "float32", I, H, False, products=mode)
    assert stack.products == mode
    stack.pack(np.concatenate([wx.ravel(), wh.ravel()]), True)
    y, _, tape = stack.forward(x[np.newaxis], h[np.newaxis], True)
    grads = np.full(H * (I + H), np.nan, np.float32)
    dx, _ = stack.backward(tape, dy[np.newaxis], None, grads)
    dwx, dwh = np.split(grads, [H * I])
    # the gradient of an initial state is a chain of FMAs in every mode: dh is that of the state between two steps
    _, _, tape = stack.forward(np.stack([x, x]), h[np.newaxis], True)
    late = np.stack([np.zeros_like(dy), dy])
    dh = stack.backward(tape, late, None, None, want_dsteps=True)[2][0][0]
    return {"y": y[0], "dx": dx[0], "dh": dh, "dwx": dwx.reshape(H, I), "dwh": dwh.reshape(H, H)}


def exact(x: Array, h: Array, dy: Array, wx: Array, wh: Array) -> Results:
    x, h, dy, wx, wh = (a.astype(np.float64) for a in (x, h, dy, wx, wh))
    return {"y": x @ wx.T + h @ wh.T, "dx": dy @ wx, "dh": dy @ wh, "dwx": dy.T @ x, "dwh": dy.T @ h}


def operands(B: int, I: int, H: int, heavy: bool) -> tuple[Array, ...]:  # noqa: E741
    """States and weights of order one; gradients of order one, or lognormal in rows of sizes from 1e-6 to 1."""
    rng = np.random.default_rng([B, I, H])
    dy = rng.standard_normal((B, H))
    if heavy:
        dy = np.copysign(np.exp(2 * rng.standard_normal((B, H))), dy) * 10.0 ** np.linspace(-6, 0, B)[:, np.newaxis]
    weights = (rng.uniform(-1, 1, (H, n)) / np.sqrt(H) for n in (I, H))
    arrays = (rng.standard_normal((B, I)), np.tanh(0.4 * rng.standard_normal((B, H))), dy, *weights)
    return tuple(a.astype(np.float32) for a in arrays)


def worst(found: Array, expected: Array) -> float:
    """The largest relative root mean square error of a row."""
    error, size = ((a * a).mean(-1) for a in (found - expected, expected))
    return float(np.sqrt((error / size).max()))


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize(("B", "I", "H"), [(150, 64, 131), (40, 208, 96), (8300, 16, 20)])
def test_errors_are_a_few_times_those_of_chains_of_fmas(mode: str, heavy: bool, B: int, I: int, H: int) -> None:  # noqa: E741
    given = operands(B, I, H, heavy)
    expected, plain, found = exact(*given), products("fma", *given), products(mode, *given)
    for name, value in expected.items():
        assert found[name].tobytes() != plain[name].tobytes(), name
        error = worst(found[name], value)
        if PRECISION[mode] == "medium":  # two factors are rounded by at most 2^-9 each
            assert error < 2**-7, name
        else:
            assert error <= (20 if heavy else 4) * worst(plain[name], value), name


def test_large_batches_have_the_bits_of_single_rows(mode: str) -> None:
    x, h, dy, wx, wh = operands(101, 37, 50, False)
    whole = products(mode, x, h, dy, wx, wh)
    for row in (0, 47, 48, 50, 99, 100):
        one = slice(row, row + 1)
        alone = products(mode, x[one], h[one], dy[one], wx, wh)
        for name in ("y", "dx", "dh"):
            assert alone[name][0].tobytes() == whole[name][row].tobytes(), (name, row)


def bad_values() -> dict[str, tuple[int, Array]]:
    """Rows of 40 values by name, and their number."""
    mixed = np.resize(np.array([1e-20, 1e20, -1e20, 1e-20, 0], np.float32), 40)
    one = np.ones(40, np.float32)
    infinite, nan = one.copy(), one.copy()
    infinite[7], nan[30] = np.inf, np.nan
    rows = [mixed, 0 * one, infinite, nan, 1e-41 * one, -infinite, 1e-35 * one, 1e30 * one]
    names = ["mixed", "zeros", "infinity", "nan", "subnormal", "minus infinity", "tiny", "huge"]
    return {name: (3 * i + 1, row.astype(np.float32)) for i, (name, row) in enumerate(zip(names, rows, strict=True))}


def spoilt(a: Array) -> Array:
    a = a.copy()
    for row, values in bad_values().values():
        a[row] = values
    return a


def test_rows_without_a_scale_are_right_and_touch_no_other(mode: str) -> None:
    B, n = 25, 40
    x, h, dy, wx, wh = operands(B, n, n, False)
    bad = (spoilt(x), spoilt(h), spoilt(dy), wx, wh)
    clean, found, plain = products(mode, x, h, dy, wx, wh), products(mode, *bad), products("fma", *bad)
    rows = {row: name for name, (row, _) in bad_values().items()}
    for name in ("y", "dx", "dh"):
        for row in range(B):
            if row not in rows:
                assert found[name][row].tobytes() == clean[name][row].tobytes(), (name, row)
                continue
            assert_same_kind(found[name][row], plain[name][row], (name, rows[row]))
            if rows[row] == "zeros":
                assert not found[name][row].any(), name


def assert_same_kind(found: Array, plain: Array, what: Any) -> None:
    """NaN and infinities where chains of FMAs have them; the others close to theirs."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(plain), err_msg=str(what))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(plain), err_msg=str(what))
    ends = np.isinf(plain)
    np.testing.assert_array_equal(found[ends], plain[ends], err_msg=str(what))
    rest = np.isfinite(plain)
    if rest.any():
        largest = np.abs(plain[rest]).max()
        assert np.abs(found[rest] - plain[rest]).max() <= 2**-5 * largest + 1e-37, what


def test_one_bad_value_of_a_gradient_spoils_its_row_of_the_weights_gradient_alone(mode: str) -> None:
    x, h, dy, wx, wh = operands(150, 40, 40, False)
    clean = products(mode, x, h, dy, wx, wh)
    dy, x = dy.copy(), x.copy()
    dy[77, 20], x[140, 3] = np.nan, np.inf
    found, plain = products(mode, x, h, dy, wx, wh), products("fma", x, h, dy, wx, wh)
    others = np.arange(40) != 20
    for name in ("dwx", "dwh"):
        assert_same_kind(found[name], plain[name], name)
        # a register in which some column has no scale takes chains of FMAs; those beside it do not change
        part = found[name][others][:, 16:], clean[name][others][:, 16:]
        assert part[0].tobytes() == part[1].tobytes(), name


def test_columns_of_zeros_and_huge_ones(mode: str) -> None:
    given = [*operands(20, 40, 40, False)]
    for w in (3, 4):
        given[w] = given[w].copy()
        given[w][5], given[w][:, 9] = 0, 0
        given[w][21] *= np.float32(1e30)
        given[w][:, 33] *= np.float32(1e-30)
    found, expected = products(mode, *given), exact(*given)
    assert not found["y"][:, 5].any()
    assert not found["dx"][:, 9].any()
    assert not found["dh"][:, 9].any()
    for name in ("y", "dx", "dh"):  # column by column, since sizes differ
        some = expected[name].any(0)
        assert worst(found[name].T[some], expected[name].T[some]) < 2**-7, name
    assert worst(found["y"].T[:5], expected["y"].T[:5]) < (2**-7 if PRECISION[mode] == "medium" else 1e-5)


def case_of(kind: str, mode: str, **options: Any) -> Case:
    case = Case.random(kind, "float32", precision=PRECISION[mode], **options)
    assert case.layer.products == mode
    return case


def assert_same(found: Results, expected: Results) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.tobytes() == expected[name].tobytes(), name


def tolerance(case: Case, mode: str) -> float:
    return 4 * case.tolerance() if PRECISION[mode] == "high" else 0.05


def assert_right(case: Case, mode: str, results: Results | None = None) -> None:
    """Near the float64 reference, relative to the largest value."""
    expected = Expected(case).results()
    for name, value in (results or case.run()).items():
        error = np.abs(value - expected[name]).max(initial=0.0)
        assert error <= tolerance(case, mode) * (1 + np.abs(expected[name]).max(initial=0.0)), (name, error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_threads(kind: str, mode: str) -> None:
    for options in ({"B": 37, "T": 4}, {"B": 5, "T": 40}):
        case = case_of(kind, mode, I=20, hidden_size=131, **options)
        with threads(1):
            expected = case.run()
        for n in (2, 3, 5):
            with threads(n):
                if n == 5:
                    T, B, _ = case.x.shape
                    assert case.layer._stack.kernels.native.plan(T, B)["threads"] > 1
                assert_same(case.run(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_bits_that_it_has_alone(kind: str, mode: str) -> None:
    T, B = 9, 8
    lengths = np.array([9, 4, 1, 0, 7, 9, 2, 3])
    case = case_of(kind, mode, T=T, B=B, I=5, hidden_size=35, lengths=lengths)
    whole = case.run()
    for b, n in enumerate(lengths):
        state = tuple(s[:, b : b + 1] for s in parts(case.state))
        dstate = tuple(s[:, b : b + 1] for s in parts(case.dstate))
        alone = case.but(
            x=case.x[:n, b : b + 1].copy(),
            state=state if len(state) > 1 else state[0],
            dy=case.dy[:n, b : b + 1].copy(),
            dstate=dstate if len(dstate) > 1 else dstate[0],
            lengths=None,
        ).run()
        for name in ("y", "dx"):
            assert alone[name][:, 0].tobytes() == whole[name][:n, b].tobytes(), (name, b)
        for name in ("final 0", "dinitial 0"):
            assert alone[name][:, 0].tobytes() == whole[name][:, b].tobytes(), (name, b)
    some = np.flatnonzero(lengths)  # packed rows have at least one step
    order = some[np.argsort(-lengths[some], kind="stable")]
    sizes = lengths[order]
    batch_sizes = (sizes[np.newaxis] > np.arange(T)[:, np.newaxis]).sum(1)
    rows = [(t, order[b]) for t, size in enumerate(batch_sizes) for b in range(size)]
    packed = bptt.Packed(np.array([case.x[t, b] for t, b in rows]), batch_sizes)
    state = tuple(s[:, order] for s in parts(case.state))
    y = case.layer(packed, state if len(state) > 1 else state[0])[0]
    np.testing.assert_array_equal(y.data, np.array([whole["y"][t, b] for t, b in rows]))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"zoneout": 0.2, "recurrent_dropout": 0.3, "clip_state": 0.8, "clip_grad_per_step": 0.3},
    "layers": {"num_layers": 2, "bidirectional": True, "dropout": 0.2, "recurrent_dropout": 0.2},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_options_are_right_and_checkpoints_have_the_same_bits(kind: str, options: str, mode: str) -> None:
    rng = np.random.default_rng(3)
    T, B = 30, 40
    both: list[Results] = []
    for checkpoint in (None, 4):
        case = case_of(
            kind, mode, T=T, B=B, I=6, hidden_size=18, resets=rng.random((T, B)) < 0.1,
            lengths=np.arange(B) % (T + 1), learn_initial_state=True, checkpoint=checkpoint, **OPTIONS[options],
        )  # fmt: skip
        case = case.but(resets=np.random.default_rng(4).random((T, B)) < 0.1)
        both.append(case.run())
        smooth = options != "all" or PRECISION[mode] == "high"  # a value is clipped or not: in bfloat16 no small change
        if checkpoint is None and smooth:
            assert_right(case, mode, both[0])
    assert_same(both[1], both[0])


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_directions_in_parallel_have_the_same_bits(kind: str, mode: str) -> None:
    for options in ({"num_layers": 3, "T": 64, "B": 8}, {"bidirectional": True, "num_layers": 2, "T": 9, "B": 8}):
        case = case_of(kind, mode, I=30, hidden_size=50, **options)
        with threads(1):
            expected = case.run()
        with threads(3):
            assert_same(case.run(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_has_the_bits_of_one_call(kind: str, mode: str) -> None:
    """One step computes x and h together, a longer call the products of x first; a stream does neither."""
    case = case_of(kind, mode, T=12, B=3, I=7, hidden_size=35, num_layers=2, zoneout=0.1)
    y, final = case.layer(case.x, case.state)
    stream = case.layer.stream(3)
    stream.state = state = case.state
    for t, x_t in enumerate(case.x):
        assert stream(x_t).tobytes() == y[t].tobytes(), t
        y_t, state = case.layer(x_t[np.newaxis], state)
        assert y_t[0].tobytes() == y[t].tobytes(), t
    for a, b, c in zip(parts(state), parts(final), parts(stream.state), strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()


@pytest.mark.parametrize("kind", [*KINDS, "coupled", "slstm", "rnn_relu"])
def test_all_sizes_are_right(kind: str, mode: str) -> None:
    """Last blocks with few units, numbers of blocks that are odd, few features, several chunks of time."""
    for T, B, I, H in [  # noqa: E741
        (1, 1, 1, 1), (3, 7, 2, 15), (3, 2, 3, 16), (5, 6, 4, 17), (2, 5, 5, 33), (2, 13, 9, 48), (2, 4, 17, 82),
        (70, 9, 6, 20), (300, 1, 2, 5),
    ]:  # fmt: skip
        case = case_of(kind, mode, T=T, B=B, I=I, hidden_size=H)
        if kind == "rnn_relu" and PRECISION[mode] == "medium":  # a unit may be on in one and off in the other
            assert all(np.isfinite(value).all() for value in case.run().values())
            continue
        assert_right(case, mode)


@pytest.mark.parametrize("kind", [*KINDS, "slstm"])
def test_highest_is_the_default_bit_for_bit(kind: str, mode: str) -> None:
    cases = [
        Case.random(kind, "float32", T=8, B=9, I=6, hidden_size=40, **options)
        for options in ({}, {"precision": "highest"}, {"precision": PRECISION[mode]})
    ]
    assert [case.layer.products for case in cases[:2]] == ["fma", "fma"]
    plain, highest, other = (case.run() for case in cases)
    assert_same(highest, plain)
    assert other["y"].tobytes() != plain["y"].tobytes()


def test_float64_ignores_the_choice(mode: str) -> None:
    plain = Case.random("lstm", "float64", T=8, B=9, I=6, hidden_size=40)
    other = Case.random("lstm", "float64", T=8, B=9, I=6, hidden_size=40, precision=PRECISION[mode])
    assert_same(other.run(), plain.run())
