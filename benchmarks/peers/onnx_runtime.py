# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the graph optimized, weights packed ahead, inputs and outputs bound once (IOBinding).

int8 is its dynamic quantization, which knows the LSTM alone. Where the processor has no VNNI, products of eight bits
overflow (y of an LSTM was off by 0.29 of its largest element), so weights have seven, as its documentation says.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import quantize_dynamic

from benchmarks.cases import Case
from benchmarks.peers import onnx_graph
from benchmarks.peers.base import Peer, Task
from benchmarks.problem import Array, Problem


def has_vnni() -> bool:
    """Whether /proc/cpuinfo says so; where it cannot be read, seven bits do no harm."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False


def quantized(graph: bytes) -> bytes:
    """The graph with int8 weights, quantized dynamically."""
    logging.disable(logging.WARNING)  # a hint to run a pre-processing that changes nothing here
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(onnx.load_model_from_string(graph), path, reduce_range=not has_vnni())
        return path.read_bytes()


def make_session(
    problem: Problem, threads: int, *, with_state: bool, int8: bool = False
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    graph = onnx_graph.model(problem, with_state=with_state)
    return onnxruntime.InferenceSession(
        quantized(graph) if int8 else graph, options, providers=["CPUExecutionProvider"]
    )


class Infer(Task):
    def __init__(self, problem: Problem, threads: int, int8: bool = False) -> None:
        case = problem.case
        self._session = make_session(problem, threads, with_state=False, int8=int8)
        self._names = [output.name for output in self._session.get_outputs()]
        shapes = {"Y": (case.T, 1, case.B, case.H)}
        self._outputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shapes.get(name, (1, case.B, case.H)), np.float32))
            for name in self._names
        }
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("X", onnxruntime.OrtValue.ortvalue_from_numpy(problem.x))
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def call(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def results(self) -> dict[str, Array]:
        y = self._outputs["Y"].numpy()[:, 0]
        return {"y": y, **{name[2:]: self._outputs[name].numpy() for name in self._names[1:]}}


class Stream(Task):
    """One step per call; two bindings, so that the state goes from one set of buffers to the other and back."""

    def __init__(self, problem: Problem, threads: int) -> None:
        case = problem.case
        self._session = make_session(problem, threads, with_state=True)
        states = [[self._zeros(1, 1, case.H) for _ in problem.states] for _ in range(2)]
        x = onnxruntime.OrtValue.ortvalue_from_numpy(problem.x)
        self._y = self._zeros(1, 1, 1, case.H)
        self._bindings = []
        for source, target in ((0, 1), (1, 0)):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("X", x)
            binding.bind_ortvalue_output("Y", self._y)
            for name, before, after in zip(problem.states, states[source], states[target], strict=True):
                binding.bind_ortvalue_input(f"initial_{name}", before)
                binding.bind_ortvalue_output(f"Y_{name}", after)
            self._bindings.append(binding)

    @staticmethod
    def _zeros(*shape: int) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))

    def call(self) -> None:
        self._session.run_with_iobinding(self._bindings[0])
        self._bindings.reverse()

    def results(self) -> dict[str, Array]:
        return {"y": self._y.numpy().reshape(1, -1)}


class OnnxRuntime(Peer):
    distributions = ("onnxruntime", "onnx")

    def setup(self, threads: int) -> None:
        self._threads = threads
        onnxruntime.disable_telemetry_events()

    def refuses(self, case: Case, threads: int) -> str:
        if case.mode not in ("infer", "stream"):
            return "does not train"
        return "" if case.dtype == "float32" else "has its recurrent kernels in float32 only"

    def make(self, problem: Problem) -> Task:
        return (Stream if problem.case.mode == "stream" else Infer)(problem, self._threads)


class OnnxRuntimeInt8(OnnxRuntime):
    """Weights of eight bits, or of seven."""

    arithmetic = "int8"

    def note(self) -> str:
        return "weights have eight bits" if has_vnni() else "weights have seven bits: this processor has no VNNI"

    def refuses(self, case: Case, threads: int) -> str:
        return "has no int8 kernel of this cell" if case.cell != "lstm" else super().refuses(case, threads)

    def make(self, problem: Problem) -> Task:
        return Infer(problem, self._threads, int8=True)
