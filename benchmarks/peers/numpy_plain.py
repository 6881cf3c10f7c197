# SPDX-License-Identifier: Apache-2.0
"""Plain NumPy, written with some care: input product first, dW in one product at the end. For context.

Shapes: x [T,B,I], y [T,B,H], gates a [T,B,G*H]. Not the reference of the tests, which is written for clarity.
"""

from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Array, Problem

MOST_FLOPS, MOST_STEPS = 1e9, 1000


def sigmoid(a: Array) -> Any:
    return 0.5 + 0.5 * np.tanh(0.5 * a)


class Layer:
    """Forward stores what backward needs, if asked to."""

    def __init__(self, problem: Problem) -> None:
        case, w = problem.case, problem.weights
        self.cell, self.H = case.cell, case.H
        self.Wx, self.Wh, self.b = w["weight_ih_l0"], w["weight_hh_l0"], w["bias_l0"]
        self.bn = w.get("bias_hn_l0")

    def forward(self, x: Array, keep: bool) -> Array:
        T, B, _ = x.shape
        H = self.H
        a = x @ self.Wx.T + self.b
        y = np.empty((T, B, H), x.dtype)
        h = c = np.zeros((B, H), x.dtype)
        kept = []
        for t in range(T):
            gates = self._gates(a[t], h)
            before = h, c
            h, c = self._states(gates, h, c)
            y[t] = h
            if keep:
                kept.append((gates, before, c))
        self._kept, self._x, self._y = kept, x, y
        return y

    def _gates(self, a: Array, h: Array) -> tuple[Any, ...]:
        H, ah = self.H, h @ self.Wh.T
        if self.cell == "rnn":
            return (np.tanh(a + ah),)
        if self.cell == "lstm":
            a = a + ah
            return sigmoid(a[:, : 2 * H]), np.tanh(a[:, 2 * H : 3 * H]), sigmoid(a[:, 3 * H :])
        rz = sigmoid(a[:, : 2 * H] + ah[:, : 2 * H])
        hn = ah[:, 2 * H :] + self.bn
        return rz, np.tanh(a[:, 2 * H :] + rz[:, :H] * hn), hn

    def _states(self, gates: tuple[Any, ...], h: Array, c: Array) -> tuple[Array, Array]:
        H = self.H
        if self.cell == "rnn":
            return gates[0], c
        if self.cell == "lstm":
            i_f, g, o = gates
            c = i_f[:, H:] * c + i_f[:, :H] * g
            return o * np.tanh(c), c
        rz, n, _ = gates
        return n + rz[:, H:] * (h - n), c

    def backward(self, dy: Array) -> dict[str, Array]:
        T, B, H = dy.shape
        dG = np.empty((T, B, self.Wh.shape[0]), dy.dtype)  # of the hidden product
        dn_x = np.empty_like(dy)  # a GRU's candidate differs between the two products
        dh = dc = np.zeros((B, H), dy.dtype)
        for t in reversed(range(T)):
            direct, dc = self._step_back(self._kept[t], dy[t] + dh, dc, dG[t], dn_x[t])
            dh = direct + dG[t] @ self.Wh
        h_before = np.concatenate([np.zeros((1, B, H), dy.dtype), self._y[:-1]]).reshape(T * B, H)
        flat = dG.reshape(T * B, -1)
        named = {"dweight_hh_l0": flat.T @ h_before}
        if self.cell == "gru":
            named["dbias_hn_l0"] = flat[:, 2 * H :].sum(0)
            flat[:, 2 * H :] = dn_x.reshape(T * B, H)
        x = self._x.reshape(T * B, -1)
        dx = (flat @ self.Wx).reshape(self._x.shape)
        return named | {"dx": dx, "dweight_ih_l0": flat.T @ x, "dbias_l0": flat.sum(0)}

    def _step_back(self, kept: Any, dh: Array, dc: Array, dG: Array, dn_x: Array) -> tuple[Any, Array]:
        H = self.H
        gates, (h0, c0), c1 = kept
        if self.cell == "rnn":
            dG[:] = dh * (1 - gates[0] ** 2)
            return 0, dc
        if self.cell == "lstm":
            i_f, g, o = gates
            i, f, tanh_c = i_f[:, :H], i_f[:, H:], np.tanh(c1)
            dc = dc + dh * o * (1 - tanh_c**2)
            dG[:, :H], dG[:, H : 2 * H] = dc * g * i * (1 - i), dc * c0 * f * (1 - f)
            dG[:, 2 * H : 3 * H], dG[:, 3 * H :] = dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
            return 0, dc * f
        rz, n, hn = gates
        r, z = rz[:, :H], rz[:, H:]
        dn_x[:] = dh * (1 - z) * (1 - n**2)
        dG[:, :H], dG[:, H : 2 * H] = dn_x * hn * r * (1 - r), dh * (h0 - n) * z * (1 - z)
        dG[:, 2 * H :] = dn_x * r
        return dh * z, dc


class Infer(Task):
    def __init__(self, problem: Problem) -> None:
        self._layer, self._x = Layer(problem), problem.x

    def call(self) -> None:
        self._y = self._layer.forward(self._x, keep=False)

    def results(self) -> dict[str, Array]:
        return {"y": self._y}


class Train(Task):
    def __init__(self, problem: Problem) -> None:
        self._layer, self._x, self._dy = Layer(problem), problem.x, problem.dy

    def call(self) -> None:
        self._y = self._layer.forward(self._x, keep=True)
        self._grads = self._layer.backward(self._dy)

    def results(self) -> dict[str, Array]:
        return {"y": self._y, **self._grads}


class NumpyPlain(Peer):
    distributions = ("numpy",)

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode not in ("infer", "train") or case.group == "precision":
            return "runs whole sequences only"
        return "is for context, on the smaller cases" if case.flops > MOST_FLOPS or case.T > MOST_STEPS else ""

    def make(self, problem: Problem) -> Task:
        return (Train if problem.case.mode == "train" else Infer)(problem)
