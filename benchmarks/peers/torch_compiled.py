# SPDX-License-Identifier: Apache-2.0
"""PyTorch compiled, where that works: the recurrent modules are compiled only with allow_rnn, which unrolls the loop
over time. Compiling took 27 to 118 s at T = 16 to 24 on two busy cores; an LSTM became slower (training T = 24, B = 32,
H = 25: 1.7 ms eager, 3.2 compiled), a GRU faster (4.1 and 2.3 ms). By default the loop is not compiled at all.
"""

import shutil
from collections.abc import Callable

import torch

from benchmarks.cases import Case
from benchmarks.peers import torch_eager
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Problem

MOST_UNROLLED = 48  # T * G: a GRU over 16 steps
COMPILED_B = 32  # the only shape with T = 1, since each takes 5 to 10 s to compile


class TorchCompiled(Peer):
    distributions = ("torch",)

    def setup(self, threads: int) -> None:
        import torch._dynamo

        if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
            raise ImportError("torch.compile needs a C++ compiler")
        torch.set_num_threads(threads)
        torch._dynamo.config.allow_rnn = True

    def refuses(self, case: Case, threads: int) -> str:
        if case.dtype != "float32" or case.group in ("short", "precision"):
            return "is measured with few float32 cases, since each takes long to compile"
        if case.mode == "stream" or (case.mode != "step" and (case.T > 1 or case.B != COMPILED_B)):
            return "is measured where there is little to unroll: T = 1, and the small model's training step"
        return "takes minutes to compile so long a loop" if case.T * case.gates > MOST_UNROLLED else ""

    def make(self, problem: Problem) -> Task:
        tasks: dict[str, Callable[..., Task]] = {
            "infer": torch_eager.Infer,
            "train": torch_eager.Train,
            "step": torch_eager.Step,
        }
        torch._dynamo.reset()  # the number of variants of one module is limited
        return tasks[problem.case.mode](problem, compiled=True)
