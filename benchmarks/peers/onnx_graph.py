# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph of one recurrent layer, for the two runtimes that read it. Imports no runtime.

ONNX's gate orders: LSTM i o f c, GRU z r h with linear_before_reset=1. X [T,B,I], Y [T,1,B,H], states [1,B,H].
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.problem import Array, Problem

ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # of our gates


def reorder(cell: str, rows: Array) -> Array:
    """Our gate blocks [G*H,...] in ONNX's order."""
    blocks = np.split(rows, len(ORDER[cell]))
    return np.concatenate([blocks[gate] for gate in ORDER[cell]])


def bias(problem: Problem) -> Array:
    """[1, 2*G*H]: our bias, then that of the hidden product, which only a GRU's candidate has."""
    second = np.zeros_like(problem.weights["bias_l0"])
    if problem.case.cell == "gru":
        second[2 * problem.case.H :] = problem.weights["bias_hn_l0"]
    first = problem.weights["bias_l0"]
    return np.concatenate([reorder(problem.case.cell, part) for part in (first, second)])[None]


def model(problem: Problem, *, with_state: bool) -> bytes:
    """Serialized; outputs Y, Y_h (and Y_c); with_state adds the inputs initial_h (and initial_c)."""
    case = problem.case
    state = ["h", "c"] if case.cell == "lstm" else ["h"]
    constants = {
        "W": reorder(case.cell, problem.weights["weight_ih_l0"])[None],
        "R": reorder(case.cell, problem.weights["weight_hh_l0"])[None],
        "B": bias(problem),
    }
    given = [f"initial_{s}" for s in state] if with_state else []
    options = {"linear_before_reset": 1} if case.cell == "gru" else {}
    node = helper.make_node(
        case.cell.upper(),
        inputs=["X", "W", "R", "B", *(["", *given] if given else [])],
        outputs=["Y", *(f"Y_{s}" for s in state)],
        hidden_size=case.H,
        **options,
    )

    def value(name: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    state_shape = [1, case.B, case.H]
    graph = helper.make_graph(
        [node],
        case.cell,
        [value("X", [case.T, case.B, case.I]), *(value(name, state_shape) for name in given)],
        [value("Y", [case.T, 1, case.B, case.H]), *(value(f"Y_{s}", state_shape) for s in state)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = built.SerializeToString()
    return serialized
