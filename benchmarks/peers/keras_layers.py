# SPDX-License-Identifier: Apache-2.0
"""Keras 3 on TensorFlow: the layers as they are, forward and gradients inside one tf.function. Optional, for context.

Keras's gate orders: LSTM i f c o (ours), GRU z r h with bias [2, 3*H]. Kernels [I, G*H], batch first.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import Case
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Array, Problem

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}


def swap(cell: str, rows: Array) -> Array:
    """Between our gate order and Keras's, of [G*H,...]: a GRU's first two are swapped."""
    if cell != "gru":
        return rows
    r, z, n = np.split(rows, 3)
    return np.concatenate([z, r, n])


def make_layer(problem: Problem) -> Any:
    case, w = problem.case, problem.weights
    layer = LAYERS[case.cell](case.H, return_sequences=True)
    layer.build((case.B, case.T, case.I))
    bias = swap(case.cell, w["bias_l0"])
    if case.cell == "gru":
        second = np.zeros_like(bias)
        second[2 * case.H :] = w["bias_hn_l0"]
        bias = np.stack([bias, second])
    layer.set_weights([swap(case.cell, w["weight_ih_l0"]).T, swap(case.cell, w["weight_hh_l0"]).T, bias])
    return layer


class Infer(Task):
    def __init__(self, problem: Problem) -> None:
        self._layer = layer = make_layer(problem)
        self._run = tf.function(lambda x: layer(x))
        self._x = tf.constant(problem.x.swapaxes(0, 1))

    def call(self) -> None:
        self._y = self._run(self._x)

    def results(self) -> dict[str, Array]:
        return {"y": self._y.numpy().swapaxes(0, 1)}


class Train(Task):
    def __init__(self, problem: Problem) -> None:
        self._case = problem.case
        self._layer = layer = make_layer(problem)
        self._data = [tf.constant(np.ascontiguousarray(a.swapaxes(0, 1))) for a in (problem.x, problem.dy)]

        def train(x: Any, dy: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return y, tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)

        self._run = tf.function(train)

    def call(self) -> None:
        self._y, self._grads = self._run(*self._data)

    def results(self) -> dict[str, Array]:
        cell, H = self._case.cell, self._case.H
        dx, dWx, dWh, db = (g.numpy() for g in self._grads)
        named = {"dweight_ih_l0": swap(cell, dWx.T), "dweight_hh_l0": swap(cell, dWh.T)}
        named["dbias_l0"] = swap(cell, db[0]) if cell == "gru" else db
        if cell == "gru":
            named["dbias_hn_l0"] = db[1, 2 * H :]
        return {"y": self._y.numpy().swapaxes(0, 1), "dx": dx.swapaxes(0, 1), **named}


class KerasLayers(Peer):
    distributions = ("keras", "tensorflow", "tensorflow-cpu")

    def setup(self, threads: int) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode not in ("infer", "train") or case.dtype != "float32":
            return "is measured on whole float32 sequences only"
        return "is for context, on the smaller cases" if case.flops > 5e9 or case.T > 1000 else ""

    def make(self, problem: Problem) -> Task:
        return (Train if problem.case.mode == "train" else Infer)(problem)
