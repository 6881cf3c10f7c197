# SPDX-License-Identifier: Apache-2.0
"""Our side of every comparison, through the public Python API, as a user would call it.

Between two training calls the weights count as changed, as in training, so that packing them is in our time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import bptt
from benchmarks.cases import QUANTIZED, Case
from benchmarks.peers.base import Task
from benchmarks.problem import CLIP_NORM, LEARNING_RATE, Array, Problem

CLASSES = {"lstm": bptt.LSTM, "gru": bptt.GRU, "rnn": bptt.RNN}


def lacks(case: Case) -> str:
    """What the case needs and this bptt lacks; empty if nothing."""
    if case.precision in QUANTIZED and not hasattr(bptt.LSTM, "quantize"):
        return "this bptt has no layer.quantize"
    return "this bptt has no layer.stream" if case.mode == "stream" and not hasattr(bptt.LSTM, "stream") else ""


def make_layer(problem: Problem) -> Any:
    """The layer of a case, with its weights; for inference with quantized weights what `quantize` makes of it."""
    case = problem.case
    precision = "highest" if case.precision in QUANTIZED else case.precision
    layer: Any = CLASSES[case.cell](case.I, case.H, dtype=case.dtype, init="zeros", precision=precision)
    layer.load_state_dict(problem.weights)
    return layer.quantize(case.precision) if case.precision in QUANTIZED else layer


def make(problem: Problem) -> Task:
    """The task of a case."""
    tasks: dict[str, Callable[[Problem], Task]] = {"infer": Infer, "train": Train, "step": Step, "stream": Stream}
    return tasks[problem.case.mode](problem)


class Infer(Task):
    def __init__(self, problem: Problem) -> None:
        self._layer, self._x = make_layer(problem), problem.x

    def call(self) -> None:
        self._y, self._state = self._layer(self._x)

    def results(self) -> dict[str, Array]:
        state = self._state if isinstance(self._state, tuple) else (self._state,)
        return {"y": self._y, **dict(zip(("h", "c"), state, strict=False))}


class Train(Task):
    def __init__(self, problem: Problem) -> None:
        self._layer, self._x, self._dy = make_layer(problem), problem.x, problem.dy
        self._grads = self._layer.params.zeros_like()
        self.prepare = self._touch

    def _touch(self) -> None:
        with self._layer.params.edit():
            pass

    def call(self) -> None:
        self._y, _, tape = self._layer.forward(self._x)
        self._dx, _, _ = self._layer.backward(tape, self._dy, grads=self._grads)

    def results(self) -> dict[str, Array]:
        return {"y": self._y, "dx": self._dx, **{f"d{name}": g for name, g in self._grads.items()}}


class Step(Task):
    def __init__(self, problem: Problem) -> None:
        linear = bptt.Linear(problem.case.H, 1, dtype=problem.case.dtype, init="zeros")
        linear.load_state_dict({"weight": problem.head_weight, "bias": problem.head_bias})
        self._model = bptt.Sequential(make_layer(problem), linear)
        optimizer = bptt.optim.Adam(lr=LEARNING_RATE, clip_norm=CLIP_NORM)
        self._step = bptt.TrainingStep(self._model, bptt.losses.mse, optimizer)
        self._x, self._target = problem.x, problem.target

    def call(self) -> None:
        self._loss = self._step(self._x, self._target).loss

    def results(self) -> dict[str, Array]:
        names = {"1.weight": "head_weight", "1.bias": "head_bias"}
        params = {names.get(name, name.removeprefix("0.")): w for name, w in self._model.params.items()}
        return {"loss": np.array(self._loss), **params}


class Stream(Task):
    """x_t [1,I] -> y_t [1,H]; the same x_t each time, the state carried along."""

    def __init__(self, problem: Problem) -> None:
        self._stream, self._x = make_layer(problem).stream(batch_size=1), problem.x[0]

    def call(self) -> None:
        self._y = self._stream(self._x)

    def results(self) -> dict[str, Array]:
        return {"y": self._y.reshape(1, -1)}
