# SPDX-License-Identifier: Apache-2.0
"""PyTorch's dynamic int8 quantization of LSTM and GRU, by its default engine; it has none of RNN. PyTorch 2.13 has it
still, deprecated.
"""

import warnings

import torch
from torch import nn

from benchmarks.cases import Case
from benchmarks.peers import torch_eager
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Array, Problem


class Infer(Task):
    def __init__(self, problem: Problem) -> None:
        inside = nn.ModuleDict({"layer": torch_eager.make_module(problem)}).eval()  # children alone are replaced
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is deprecated
            done = torch.ao.quantization.quantize_dynamic(inside, {nn.LSTM, nn.GRU}, dtype=torch.qint8)
        self._module = done["layer"]
        self._x = torch.from_numpy(problem.x)

    def call(self) -> None:
        with torch.inference_mode():
            self._y, _ = self._module(self._x)

    def results(self) -> dict[str, Array]:
        return {"y": self._y.numpy()}


class TorchInt8(Peer):
    distributions = ("torch",)
    arithmetic = "int8"

    def setup(self, threads: int) -> None:
        torch.set_num_threads(threads)
        if not hasattr(torch.ao.quantization, "quantize_dynamic"):
            raise ImportError(f"PyTorch {torch.__version__} has no torch.ao.quantization.quantize_dynamic")

    def note(self) -> str:
        return f"torch.ao.quantization.quantize_dynamic, engine {torch.backends.quantized.engine}"

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode != "infer":
            return "does not train"
        return "has no int8 kernel of this cell" if case.cell == "rnn" else ""

    def make(self, problem: Problem) -> Task:
        return Infer(problem)
