# SPDX-License-Identifier: Apache-2.0
"""Units of several rows in one register: a row has the same bits by itself, in a batch, and with steps between states.

Beside rows of NaN too: what a register holds of another row must not reach this one. The last columns of dW_hh, which
are summed transposed where they are few, are those of a layer in which they are part of a whole register.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stacks import make

ROWS = (1, 2, 3, 5, 24, 25, 51)  # of a tile, of the rows that share registers, and more
every_kind = pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "peephole", "coupled", "slstm", "slstm_heads", "gru"])


def run(layer: Any, x: Any, dy: Any, **options: Any) -> list[Any]:
    y, state, tape = layer.forward(x, **options)
    dx, dstate, _ = layer.backward(tape, dy)
    states = state if isinstance(state, tuple) else (state,)
    dstates = dstate if isinstance(dstate, tuple) else (dstate,)
    return [y, dx, *states, *dstates, layer(x, **options)[0]]


@every_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [1, 2, 9, 10, 13, 17, 25, 26])
def test_a_row_has_the_same_bits_in_every_batch(kind: str, dtype: str, hidden: int) -> None:
    T, most = 3, max(ROWS)
    layer = make(kind, 2, hidden, dtype=dtype)
    rng = np.random.default_rng(hidden)
    x, dy = (rng.standard_normal((T, most, n)).astype(dtype) for n in (2, hidden))
    alone = [run(layer, x[:, [b]], dy[:, [b]]) for b in (0, most - 1)]
    for rows in ROWS:
        part = np.r_[0 : rows - 1, most - 1] if rows > 1 else np.array([0])
        for options in ({}, {"resets": np.zeros((T, rows), bool)}):
            whole = run(layer, x[:, part], dy[:, part], **options)
            for found, first, last in zip(whole, *alone, strict=True):
                np.testing.assert_array_equal(found[:, [0]], first)
                if rows > 1:
                    np.testing.assert_array_equal(found[:, [-1]], last)


@every_kind
@pytest.mark.parametrize("hidden", [9, 10, 25])
def test_a_row_of_nan_stays_by_itself(kind: str, hidden: int) -> None:
    layer = make(kind, 2, hidden, dtype="float32")
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((4, 27, n)).astype(np.float32) for n in (2, hidden))
    expected = run(layer, x, dy)
    x[:, [3, 24]] = np.nan
    good = np.delete(np.arange(27), [3, 24])
    for found, clean in zip(run(layer, x, dy), expected, strict=True):
        np.testing.assert_array_equal(found[:, good], clean[:, good])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("hidden", [9, 10, 25, 26, 35])
def test_gradients_of_the_last_columns_are_those_of_the_definition(kind: str, dtype: str, hidden: int) -> None:
    """Units that are added and see nothing leave the others' sums as they are, in whole registers or not."""
    wide = -(-hidden // 16) * 16
    layer, padded = make(kind, 2, hidden, dtype=dtype), make(kind, 2, wide, dtype=dtype)
    gates = layer.params["weight_hh_l0"].shape[0] // hidden
    with padded.params.edit() as p:
        p.flat[:] = 0
        for name, value in layer.params.items():
            to = p[name].reshape(-1, wide, *p[name].shape[1:])
            own = value.reshape(len(to), hidden, *value.shape[1:])
            to[(slice(None), slice(hidden), *(slice(n) for n in own.shape[2:]))] = own
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((40, 9, n)).astype(dtype) for n in (2, hidden))
    dy_wide = np.zeros((40, 9, wide), dtype)
    dy_wide[..., :hidden] = dy
    _, _, tape = layer.forward(x)
    grads = layer.backward(tape, dy)[2]
    _, _, tape = padded.forward(x)
    more = padded.backward(tape, dy_wide)[2]["weight_hh_l0"].reshape(gates, wide, wide)[:, :hidden, :hidden]
    limit = 400 * np.finfo(dtype).eps  # of 360 terms below 1; a unit's own sums may have another order
    np.testing.assert_allclose(grads["weight_hh_l0"].reshape(gates, hidden, hidden), more, rtol=limit, atol=limit)
