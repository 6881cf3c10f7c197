# SPDX-License-Identifier: Apache-2.0
"""JAX: lax.scan over time inside one jit, the input product hoisted out of it, weights [I,G*H] as Flax has them.

unroll=1: 2, 4 and 8 compiled two to six times longer and trained slower at every size from H = 128, B = 8 on
(B 64, H 256: 282 ms; unroll 2, 4, 8: 343, 519, 479). Compiled programs are kept on disk between processes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import CLIP_NORM, LEARNING_RATE, Array, Problem

Weights = dict[str, Any]
HEAVY_FLOPS = 2e11
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def rnn(h: Any, gx: Any, p: Weights) -> Any:
    return jnp.tanh(gx + h @ p["weight_hh_l0"])


def lstm(state: Any, gx: Any, p: Weights) -> Any:
    h, c = state
    i, f, g, o = jnp.split(gx + h @ p["weight_hh_l0"], 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(h: Any, gx: Any, p: Weights) -> Any:
    xr, xz, xn = jnp.split(gx, 3, axis=-1)
    hr, hz, hn = jnp.split(h @ p["weight_hh_l0"], 3, axis=-1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * (hn + p["bias_hn_l0"]))
    return n + z * (h - n)


CELLS: dict[str, Callable[[Any, Any, Weights], Any]] = {"rnn": rnn, "lstm": lstm, "gru": gru}


def forward(cell: str, p: Weights, x: Any) -> Any:
    """y [T,B,H] and the final state."""
    gx = x @ p["weight_ih_l0"] + p["bias_l0"]
    zeros = jnp.zeros((x.shape[1], p["weight_hh_l0"].shape[0]), x.dtype)

    def step(state: Any, gx_t: Any) -> Any:
        state = CELLS[cell](state, gx_t, p)
        return state, state[0] if cell == "lstm" else state

    state, y = jax.lax.scan(step, (zeros, zeros) if cell == "lstm" else zeros, gx)
    return y, state


def train(cell: str, p: Weights, x: Any, dy: Any) -> Any:
    y, vjp = jax.vjp(lambda p, x: forward(cell, p, x)[0], p, x)
    return y, *vjp(dy)


def update(cell: str, p: Weights, m: Weights, v: Weights, count: Any, x: Any, target: Any) -> Any:
    """A whole training step: MSE, clipping to the global norm, Adam."""

    def loss_of(p: Weights) -> Any:
        y = forward(cell, p, x)[0] @ p["head_weight"] + p["head_bias"]
        return jnp.mean((y - target) ** 2)

    loss, g = jax.value_and_grad(loss_of)(p)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in g.values()))
    scale = jnp.minimum(1.0, CLIP_NORM / (norm + 1e-6))
    g = {name: leaf * scale for name, leaf in g.items()}
    count = count + 1
    m = {name: BETA1 * m[name] + (1 - BETA1) * g[name] for name in g}
    v = {name: BETA2 * v[name] + (1 - BETA2) * g[name] ** 2 for name in g}
    rate, spread = LEARNING_RATE / (1 - BETA1**count), 1 / (1 - BETA2**count)
    p = {name: p[name] - rate * m[name] / (jnp.sqrt(v[name] * spread) + EPS) for name in g}
    return loss, p, m, v, count


def transposed(values: dict[str, Any]) -> dict[str, Any]:
    """Converts between our layout of the weights and JAX's, in both directions."""
    return {name: value.T if name.removeprefix("d").startswith(("weight", "head_w")) else value
            for name, value in values.items()}  # fmt: skip


def as_jax(values: dict[str, Any]) -> Weights:
    return {name: jnp.asarray(np.ascontiguousarray(value)) for name, value in transposed(values).items()}


class Infer(Task):
    def __init__(self, problem: Problem) -> None:
        cell = problem.case.cell
        self._run = jax.jit(lambda p, x: forward(cell, p, x))
        self._p, self._x = as_jax(problem.weights), jnp.asarray(problem.x)

    def call(self) -> None:
        self._out = jax.block_until_ready(self._run(self._p, self._x))

    def results(self) -> dict[str, Array]:
        y, state = self._out
        state = state if isinstance(state, tuple) else (state,)
        return {"y": np.asarray(y), **{name: np.asarray(s)[None] for name, s in zip("hc", state, strict=False)}}


class Train(Task):
    def __init__(self, problem: Problem) -> None:
        cell = problem.case.cell
        self._run = jax.jit(lambda p, x, dy: train(cell, p, x, dy))
        self._data = as_jax(problem.weights), jnp.asarray(problem.x), jnp.asarray(problem.dy)

    def call(self) -> None:
        self._out = jax.block_until_ready(self._run(*self._data))

    def results(self) -> dict[str, Array]:
        y, dp, dx = self._out
        named = transposed({f"d{name}": np.asarray(g) for name, g in dp.items()})
        return {"y": np.asarray(y), "dx": np.asarray(dx), **named}


class Step(Task):
    def __init__(self, problem: Problem) -> None:
        cell = problem.case.cell
        self._run = jax.jit(lambda *args: update(cell, *args), donate_argnums=(0, 1, 2))
        p = as_jax({**problem.weights, "head_weight": problem.head_weight, "head_bias": problem.head_bias})
        zeros = [{name: jnp.zeros_like(w) for name, w in p.items()} for _ in range(2)]
        self._state: tuple[Any, ...] = (p, *zeros, jnp.zeros((), jnp.float32))
        self._data = jnp.asarray(problem.x), jnp.asarray(problem.target)

    def call(self) -> None:
        self._loss, *state = jax.block_until_ready(self._run(*self._state, *self._data))
        self._state = tuple(state)

    def results(self) -> dict[str, Array]:
        params = transposed({name: np.array(w) for name, w in self._state[0].items()})
        return {"loss": np.asarray(self._loss), **params}


class JaxScan(Peer):
    distributions = ("jax", "jaxlib")

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode == "stream" or case.dtype != "float32":
            return "is measured on whole float32 sequences only"
        return "would take tens of seconds a call" if case.flops * (1 if case.backward else 3) > HEAVY_FLOPS else ""

    def make(self, problem: Problem) -> Task:
        tasks: dict[str, Callable[[Problem], Task]] = {"infer": Infer, "train": Train, "step": Step}
        return tasks[problem.case.mode](problem)
