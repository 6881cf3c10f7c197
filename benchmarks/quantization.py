# SPDX-License-Identifier: Apache-2.0
"""Times and errors of weights in fewer bits: `python -m benchmarks.quantization`, two minutes.

On one thread, B = 1, in one process: a call of T = 100 steps in float32, bfloat16 and int8, and in ONNX Runtime with
float32 and with int8 from its `quantize_dynamic` (which has none for a GRU and an RNN), also with `reduce_range`,
weights of 7 bits, whose sums do not saturate where the processor has no VNNI; a step of a stream, beside the time of
reading its weights once from the cache that holds them; the error of y. All take turns, and the least time of
all rounds is printed, that of the processor, which other programs disturb less than the clock. With `--model`, the loss
of a file of `bptt train` on the held-out tenth of its text. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import bptt
from benchmarks.cases import Case
from benchmarks.machine import describe
from benchmarks.problem import Problem

CELLS: dict[str, Any] = {"lstm": bptt.LSTM, "gru": bptt.GRU}
FORMATS = ("bfloat16", "int8")
STEPS = 100


def least(calls: dict[str, Callable[[], object]], budget_s: float, repeat: int = 1) -> dict[str, float]:
    """The least seconds of each call, in turn."""
    best = dict.fromkeys(calls, float("inf"))
    stop = time.perf_counter() + budget_s
    while time.perf_counter() < stop or float("inf") in best.values():
        for name, call in calls.items():
            start = time.thread_time()
            for _ in range(repeat):
                call()
            best[name] = min(best[name], (time.thread_time() - start) / repeat)
    return best


def ours(problem: Problem) -> dict[str, Any]:
    """The layer in each format."""
    case = problem.case
    layer = CELLS[case.cell](case.I, case.H, seed=0)
    layer.load_state_dict(problem.weights)
    return {"float32": layer} | {name: layer.quantize(name) for name in FORMATS}


def theirs(problem: Problem) -> dict[str, Callable[[], Any]]:
    """Calls of ONNX Runtime, which return y."""
    try:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from benchmarks.peers import onnx_graph
    except ImportError:
        return {}
    found: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"ORT float32": Path(folder, "float32.onnx")}
        files["ORT float32"].write_bytes(onnx_graph.model(problem, with_state=False))
        for name, reduce in (("ORT int8", False), ("ORT 7 bits", True)) if problem.case.cell == "lstm" else ():
            files[name] = Path(folder, f"{name}.onnx")
            how = {"op_types_to_quantize": ["LSTM"], "per_channel": True, "weight_type": QuantType.QInt8}
            quantize_dynamic(files["ORT float32"], files[name], reduce_range=reduce, **how)
        for name, path in files.items():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            binding = session.io_binding()
            binding.bind_ortvalue_input("X", onnxruntime.OrtValue.ortvalue_from_numpy(problem.x))
            for output in session.get_outputs():
                binding.bind_output(output.name)
            found[name] = partial(run, session, binding)
    return found


def run(session: Any, binding: Any) -> Any:
    """One call of ONNX Runtime; the binding has its results."""
    session.run_with_iobinding(binding)
    return binding


def error(y: Any, exact: Any) -> float:
    """Root mean square of y - exact, relative to that of `exact`."""
    return float(np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)))


def measure_calls(sizes: Sequence[int], budget_s: float) -> None:
    """Prints the table of calls."""
    print(f"\nA call, B = 1, T = {STEPS}, ms, and the relative error of y against float32 (root mean square)\n")
    names = ("float32", *FORMATS, "ORT float32", "ORT int8", "ORT 7 bits")
    narrow = (*FORMATS, "ORT int8", "ORT 7 bits")
    print(f"| | I = H | {' | '.join(names)} | errors: {', '.join(narrow)} |\n|---|---|{'---|' * len(names)}---|")
    for cell in CELLS:
        for size in sizes:
            problem = Problem(Case(cell, "infer", 1, STEPS, size, size))
            layers, peers = ours(problem), theirs(problem)
            results = {name: layer(problem.x)[0] for name, layer in layers.items()}
            results |= {name: call().copy_outputs_to_cpu()[0][:, 0] for name, call in peers.items()}
            calls: dict[str, Callable[[], object]] = {name: partial(each, problem.x) for name, each in layers.items()}
            best = least(calls | peers, budget_s)
            row = [f"{1e3 * best[name]:.2f}" if name in best else "-" for name in names]
            exact = results["float32"]
            errors = [f"{error(results[name], exact):.1e}" for name in narrow if name in results]
            print(f"| {cell.upper()} | {size} | {' | '.join(row)} | {', '.join(errors)} |", flush=True)


def read(parts: list[Any]) -> None:
    """Read arrays once, the next time in the other order."""
    for part in parts:
        part.dot(part)
    parts.reverse()


def measure_streams(sizes: Sequence[int], budget_s: float) -> None:
    """Prints the table of steps."""
    print("\nA step of a stream, B = 1, us, and the time of reading the int8 weights once, us\n")
    print("| | I = H | float32 | bfloat16 | int8 | bytes of int8 weights | reading them | int8 / reading |")
    print("|---|---|---|---|---|---|---|---|")
    for cell in CELLS:
        for size in sizes:
            problem = Problem(Case(cell, "stream", 1, 1, size, size))
            x, gates = problem.x[0], problem.case.gates
            layers = ours(problem)
            calls: dict[str, Callable[[], object]] = {name: partial(each.stream(), x) for name, each in layers.items()}
            memory = np.ones(gates * size * 2 * size // 4, np.float32)  # read in both directions, as the kernels do
            parts = [memory[start : start + 8192] for start in range(0, len(memory), 8192)]
            calls |= {"read": partial(read, parts), "nothing": partial(read, [memory[:8]] * len(parts))}
            best = {name: 1e6 * s for name, s in least(calls, budget_s, 20).items()}
            reading = best["read"] - best["nothing"]
            row = [f"{best[name]:.1f}" for name in ("float32", *FORMATS)]
            row += [f"{memory.nbytes:,}", f"{reading:.1f}", f"{best['int8'] / reading:.2f}"]
            print(f"| {cell.upper()} | {size} | {' | '.join(row)} |", flush=True)


def measure_loss(path: str, file: str | None) -> None:
    """Prints the loss of a character model on the held-out end of its text."""
    from bptt import textdata
    from bptt.charlm import CharLM

    lm, text = CharLM.load(path), textdata.default_text() if file is None else textdata.read_text(file)
    ids = np.array(textdata.split_tail(lm.vocabulary.encode(text))[1], np.int64)
    print(f"\nLoss of {Path(path).name} on {len(ids) - 1:,} held-out characters, nats\n")
    print("| weights | loss | against float32 |\n|---|---|---|")
    losses = {}
    for name in ("float32", *FORMATS):
        model = lm.model if name == "float32" else lm.model.quantize(name)
        logits, _ = model(ids[:-1, np.newaxis])
        losses[name] = bptt.losses.cross_entropy(logits, ids[1:, np.newaxis])[0]
        print(f"| {name} | {losses[name]:.5f} | {100 * (losses[name] / losses['float32'] - 1):+.3f} % |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 512], help="I = H")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each row of a table")
    parser.add_argument("--model", help="a file of bptt train")
    parser.add_argument("--text", help="the text it was trained on (default: the manual shipped with Python)")
    args = parser.parse_args(arguments)
    bptt.set_num_threads(1)
    products = {name: bptt.LSTM(4, 4).quantize(name).products for name in FORMATS}
    print(f"{describe()['processor']}; level {bptt.config()['level']}, {products['int8']}; 1 thread")
    measure_calls(args.sizes, args.seconds)
    measure_streams(args.sizes, args.seconds)
    if args.model:
        measure_loss(args.model, args.text)


if __name__ == "__main__":
    main()
