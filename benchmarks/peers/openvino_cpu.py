# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU: one stream for the least latency, tensors set once. By default it computes in bfloat16 where the
processor has it: that is one peer, float32 forced is the other.
"""

import numpy as np
import openvino

from benchmarks.cases import Case
from benchmarks.peers import onnx_graph
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Array, Problem


class Infer(Task):
    def __init__(self, core: openvino.Core, problem: Problem, config: dict[str, str]) -> None:
        model = core.read_model(onnx_graph.model(problem, with_state=False))
        compiled = core.compile_model(model, "CPU", config)
        self._request = compiled.create_infer_request()
        self._x = problem.x
        self._request.set_input_tensor(0, openvino.Tensor(self._x, shared_memory=True))
        self._outputs = [np.zeros(tuple(output.shape), np.float32) for output in compiled.outputs]
        for k, array in enumerate(self._outputs):
            self._request.set_output_tensor(k, openvino.Tensor(array, shared_memory=True))
        self._states = problem.states

    def call(self) -> None:
        self._request.infer()

    def results(self) -> dict[str, Array]:
        y, *states = self._outputs
        return {"y": y[:, 0], **dict(zip(self._states, states, strict=True))}


class OpenVino(Peer):
    distributions = ("openvino",)

    forced: tuple[tuple[str, str], ...] = (("INFERENCE_PRECISION_HINT", "f32"),)

    def setup(self, threads: int) -> None:
        self._core = openvino.Core()
        self._config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads), **dict(self.forced)}

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode != "infer":
            return "is measured on whole sequences and does not train"
        return "" if case.dtype == "float32" else "is measured with float32 only"

    def make(self, problem: Problem) -> Task:
        return Infer(self._core, problem, self._config)


class OpenVinoDefault(OpenVino):
    """As it is without a hint."""

    arithmetic = "bfloat16"
    forced = ()

    def note(self) -> str:
        return f"computes in {self._core.get_property('CPU', 'INFERENCE_PRECISION_HINT').to_string()} here"
