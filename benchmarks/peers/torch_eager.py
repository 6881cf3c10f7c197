# SPDX-License-Identifier: Apache-2.0
"""PyTorch in eager mode: nn.LSTM (oneDNN for inference and training), nn.GRU and nn.RNN; Adam fused, as documented."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.cases import Case
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import CLIP_NORM, LEARNING_RATE, Array, Problem

MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def make_module(problem: Problem) -> Any:
    """The module of a case with its weights; our bias is their first; their second is zero except for a GRU's b_hn."""
    case = problem.case
    module = MODULES[case.cell](case.I, case.H, dtype=DTYPES[case.dtype])
    with torch.no_grad():
        for name, theirs in (("weight_ih_l0",) * 2, ("weight_hh_l0",) * 2, ("bias_l0", "bias_ih_l0")):
            getattr(module, theirs).copy_(torch.from_numpy(problem.weights[name]))
        module.bias_hh_l0.zero_()
        if case.cell == "gru":
            module.bias_hh_l0[2 * case.H :] = torch.from_numpy(problem.weights["bias_hn_l0"])
    return module


def by_our_names(cell: str, H: int, values: dict[str, torch.Tensor]) -> dict[str, Array]:
    """PyTorch's parameters or gradients by our names: without the second bias, except a GRU's b_hn."""
    ours = {
        "weight_ih_l0": values["weight_ih_l0"],
        "weight_hh_l0": values["weight_hh_l0"],
        "bias_l0": values["bias_ih_l0"],
    }
    if cell == "gru":
        ours["bias_hn_l0"] = values["bias_hh_l0"][2 * H :]
    return {name: tensor.detach().numpy() for name, tensor in ours.items()}


class Infer(Task):
    def __init__(self, problem: Problem, compiled: bool = False) -> None:
        module = make_module(problem).eval()
        self._run = torch.compile(module) if compiled else module
        self._x = torch.from_numpy(problem.x)

    def call(self) -> None:
        with torch.inference_mode():
            self._y, self._state = self._run(self._x)

    def results(self) -> dict[str, Array]:
        state = self._state if isinstance(self._state, tuple) else (self._state,)
        return {"y": self._y.numpy(), **{name: s.numpy() for name, s in zip(("h", "c"), state, strict=False)}}


class Train(Task):
    def __init__(self, problem: Problem, compiled: bool = False) -> None:
        self._case = problem.case
        self._module = make_module(problem)
        self._run = torch.compile(self._module) if compiled else self._module
        self._x, self._dy = torch.from_numpy(problem.x).requires_grad_(), torch.from_numpy(problem.dy)
        self.prepare = self._forget

    def _forget(self) -> None:
        self._module.zero_grad()
        self._x.grad = None

    def call(self) -> None:
        self._y, _ = self._run(self._x)
        self._y.backward(self._dy)

    def results(self) -> dict[str, Array]:
        grads = {name: p.grad for name, p in self._module.named_parameters()}
        named = {f"d{name}": g for name, g in by_our_names(self._case.cell, self._case.H, grads).items()}
        assert self._x.grad is not None
        return {"y": self._y.detach().numpy(), "dx": self._x.grad.numpy(), **named}


class Model(nn.Module):
    """Recurrent layer and Linear, of a step case."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.layer = make_module(problem)
        self.head = nn.Linear(problem.case.H, 1, dtype=DTYPES[problem.case.dtype])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(problem.head_weight))
            self.head.bias.copy_(torch.from_numpy(problem.head_bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T,B,I] -> prediction [T,B,1]."""
        y: torch.Tensor = self.head(self.layer(x)[0])
        return y


class Step(Task):
    def __init__(self, problem: Problem, compiled: bool = False) -> None:
        self._case = problem.case
        self._model = Model(problem)
        self._run = torch.compile(self._model) if compiled else self._model
        # PyTorch's second bias learns too and would double the step of our only bias, so it is fixed. Of a GRU's we
        # have the last third; its rest is fixed while parity is checked.
        bias, H = self._model.layer.bias_hh_l0, problem.case.H
        self._hold: Any = None
        if problem.case.cell == "gru":
            self._hold = bias.register_hook(lambda g: torch.cat([torch.zeros_like(g[: 2 * H]), g[2 * H :]]))
        else:
            bias.requires_grad_(False)
        self._learned = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._learned, lr=LEARNING_RATE, fused=True)
        self._x, self._target = torch.from_numpy(problem.x), torch.from_numpy(problem.target)

    def checked(self) -> None:
        if self._hold is not None:
            self._hold.remove()
            self._hold = None

    def call(self) -> None:
        self._optimizer.zero_grad()
        self._loss = nn.functional.mse_loss(self._run(self._x), self._target)
        self._loss.backward()
        nn.utils.clip_grad_norm_(self._learned, CLIP_NORM)
        self._optimizer.step()

    def results(self) -> dict[str, Array]:
        weights = dict(self._model.layer.named_parameters())
        head = {"head_weight": self._model.head.weight, "head_bias": self._model.head.bias}
        named = by_our_names(self._case.cell, self._case.H, weights)
        loss = self._loss.detach().numpy()
        return {"loss": loss, **named, **{name: w.detach().numpy() for name, w in head.items()}}


class Stream(Task):
    def __init__(self, problem: Problem) -> None:
        self._module = make_module(problem).eval()
        self._x, self._state = torch.from_numpy(problem.x), None

    def call(self) -> None:
        with torch.inference_mode():
            self._y, self._state = self._module(self._x, self._state)

    def results(self) -> dict[str, Array]:
        return {"y": self._y.numpy().reshape(1, -1)}


class TorchEager(Peer):
    distributions = ("torch",)

    def setup(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def refuses(self, case: Case, threads: int) -> str:
        return ""

    def make(self, problem: Problem) -> Task:
        tasks: dict[str, Callable[[Problem], Task]] = {"infer": Infer, "train": Train, "step": Step, "stream": Stream}
        return tasks[problem.case.mode](problem)
