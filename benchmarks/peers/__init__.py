# SPDX-License-Identifier: Apache-2.0
"""The libraries to compare with; each is imported by one module only."""

from importlib import import_module

from benchmarks.peers.base import Peer

# name -> module, class. A peer is imported only by the process that measures it.
PEERS = {
    "torch": ("torch_eager", "TorchEager"),
    "jax": ("jax_scan", "JaxScan"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "openvino": ("openvino_cpu", "OpenVino"),
    "torch-bfloat16": ("torch_bfloat16", "TorchBfloat16"),
    "openvino-default": ("openvino_cpu", "OpenVinoDefault"),
    "torch-int8": ("torch_int8", "TorchInt8"),
    "onnxruntime-int8": ("onnx_runtime", "OnnxRuntimeInt8"),
    "torch-compiled": ("torch_compiled", "TorchCompiled"),
    "numpy": ("numpy_plain", "NumpyPlain"),
    "keras": ("keras_layers", "KerasLayers"),
    "own-one-thread": ("own", "OneThread"),
    "own-float32": ("own", "Float32"),
    "own-highest": ("own", "Highest"),
    "own-busy": ("own", "Busy"),
    "own-busy-one-thread": ("own", "BusyOneThread"),
    "own-torch": ("own_torch", "TorchOnBptt"),
}
OPTIONAL = {"keras"}  # measured only where it is named
CONTEXT = {"numpy", "keras"}  # shown in the tables, not counted among the peers of the summary


def competitors() -> list[str]:
    """The other libraries that a run without `--peers` measures."""
    return [name for name in PEERS if name not in OPTIONAL and not name.startswith("own-")]


def own() -> list[str]:
    """Ourselves under other conditions."""
    return [name for name in PEERS if name.startswith("own-")]


def load(name: str) -> Peer:
    """Make a peer; ImportError where its library is not installed."""
    module, kind = PEERS[name]
    peer: Peer = getattr(import_module(f"benchmarks.peers.{module}"), kind)()
    return peer
