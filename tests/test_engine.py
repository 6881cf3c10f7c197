# SPDX-License-Identifier: Apache-2.0
"""bptt._engine by itself: networks on flat weights of any owner, whose version may be anything that can be compared."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt._engine.options import StateOptions
from bptt._engine.stack import Stack
from bptt._engine.stream import recurrent_stream
from bptt._engine.structure import Structure

I, H = 3, 5  # noqa: E741


@dataclass
class Flat:
    """Weights as another front end may keep them: no names, and a tuple for the version."""

    plain: NDArray[Any]
    version: tuple[str, int] = ("step", 0)


class Owner:
    """A GRU of two layers with learnt initial states, without a layer of ours."""

    def __init__(self, layer: bptt.GRU) -> None:
        structure = Structure("gru", np.dtype("f8"), I, H, num_layers=2)
        sizes = [3 * H * (inputs + H + 1) + H for inputs in structure.inputs]
        ends = np.cumsum([0, *sizes]).tolist()
        spans = list(pairwise(ends))
        options = StateOptions.check("Net", structure.dtype)
        self._stack = Stack("Net", structure, options, spans, (ends[-1], ends[-1] + 2 * H))
        self.params = Flat(np.array(layer.params.flat))

    def change(self, weights: NDArray[Any]) -> None:
        self.params = Flat(weights, (self.params.version[0], self.params.version[1] + 1))

    def stream(self, batch_size: int = 1) -> Any:
        return recurrent_stream(self, batch_size)


@pytest.fixture
def layer() -> bptt.GRU:
    made = bptt.GRU(I, H, num_layers=2, learn_initial_state=True, dtype="f8", seed=0)
    with made.params.edit() as p:
        p["initial_h_l1"] = np.arange(H) / H
    return made


def test_it_runs_on_any_flat_weights(layer: bptt.GRU) -> None:
    owner, rng = Owner(layer), np.random.default_rng(0)
    x, dy = rng.standard_normal((6, 2, I)), rng.standard_normal((6, 2, H))
    lengths, resets = [6, 4], rng.random((6, 2)) < 0.3
    y, final, tape = layer.forward(x, None, lengths, resets)
    dx, dstate, grads = layer.backward(tape, dy)

    ours, last, mine = owner._stack.run(owner, x, None, lengths, resets, True)
    assert mine is not None
    assert mine.layer is owner
    flat = np.full_like(owner.params.plain, np.nan)
    results = (ours, last, *owner._stack.backward(mine, dy, None, flat), flat)
    for got, expected in zip(results, (y, final, dx, dstate, grads.flat), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match=r"^Net.forward: x has shape \(6, 2, 4\), expected \(T, B, 3\)"):
        owner._stack.run(owner, np.zeros((6, 2, 4)), None, None, None, False)


def test_another_version_of_the_weights_is_seen(layer: bptt.GRU) -> None:
    owner, x = Owner(layer), np.ones((4, 1, I))
    stream = owner.stream()
    np.testing.assert_array_equal(owner._stack.run(owner, x, None, None, None, False)[0], layer(x)[0])
    owner.change(np.array(layer.params.flat) * 0.5)
    with layer.params.edit() as p:
        p.flat[:] *= 0.5
    np.testing.assert_array_equal(owner._stack.run(owner, x, None, None, None, False)[0], layer(x)[0])
    assert stream.stale
    stream.refresh()  # keeps the state
    stream.reset()
    assert not stream.stale
    np.testing.assert_array_equal([stream(x_t).copy() for x_t in x], layer(x)[0])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda stack: pickle.loads(pickle.dumps(stack))])
def test_a_copy_packs_for_itself(layer: bptt.GRU, duplicate: Any) -> None:
    owner, x = Owner(layer), np.ones((4, 1, I))
    expected = owner._stack.run(owner, x, None, None, None, False)[0]
    twin = duplicate(owner._stack)
    np.testing.assert_array_equal(twin.run(owner, x, None, None, None, False)[0], expected)


def test_the_structure_says_the_sizes() -> None:
    plain = Structure("lstm", np.dtype("f4"), I, H, num_layers=2, num_directions=2)
    assert (plain.output_size, plain.widths, plain.inputs, plain.kernels) == (H, (H, H), [I, 2 * H], 4)
    projected = plain._replace(proj_size=2, num_layers=1)
    assert (projected.output_size, projected.widths, projected.inputs, projected.kernels) == (2, (2, H), [I], 2)
    assert plain._replace(cell="slstm").widths == (H, H, H, H)
