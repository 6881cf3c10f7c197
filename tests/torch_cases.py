# SPDX-License-Identifier: Apache-2.0
"""What the tests of `bptt.torch` share: PyTorch's layers of all kinds, run with and without it, and compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bptt._dispatch import core

torch = pytest.importorskip("torch")
bt = pytest.importorskip("bptt.torch")

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (torch.nn.LSTM, {}),
    "lstm_projected": (torch.nn.LSTM, {"proj_size": 3}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm_cell": (torch.nn.LSTMCell, {}),
    "gru_cell": (torch.nn.GRUCell, {}),
    "rnn_tanh_cell": (torch.nn.RNNCell, {}),
    "rnn_relu_cell": (torch.nn.RNNCell, {"nonlinearity": "relu"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_cell = pytest.mark.parametrize("kind", CELLS)

# Sums of at most 2 (I + H) terms of order 1 in each of T L steps: relative errors stay below 1000 eps in these sizes.
TOLERANCE = {torch.float32: 1000 * 2.0**-24, torch.float64: 1000 * 2.0**-53}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads and ours would wait for each other on a busy machine. Each test module imports this."""
    before, own = torch.get_num_threads(), core.get_num_threads()
    torch.set_num_threads(1)
    yield
    bt.disable()
    torch.set_num_threads(before)
    core.set_num_threads(own)


def layer(kind: str, input_size: int = 5, hidden_size: int = 7, *, dtype: Any = torch.float64, **options: Any) -> Any:
    """A layer of PyTorch's with weights of its own seed."""
    torch.manual_seed(sum(map(ord, kind)))
    cls, own = {**KINDS, **CELLS}[kind]
    return cls(input_size, hidden_size, **own, **options).to(dtype)


def flat(outputs: Any) -> list[Any]:
    """All tensors of nested outputs."""
    if isinstance(outputs, torch.nn.utils.rnn.PackedSequence):
        return [outputs.data]
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [each for part in outputs for each in flat(part)]


def loss_of(outputs: Any) -> Any:
    """A number that depends on all outputs, on each element in another way."""
    total = 0.0
    for i, each in enumerate(flat(outputs)):
        factors = torch.linspace(0.5, 1.5, each.numel(), dtype=each.dtype).reshape(each.shape)
        total = total + (each * factors).sin().sum() * (1 + i)
    return total


def results(model: Any, *arguments: Any) -> list[Any]:
    """The outputs, and the gradients of all parameters and of all arguments that require one."""
    leaves = [*model.parameters(), *[each for each in flat(arguments) if each.requires_grad]]
    outputs = model(*arguments)
    gradients = torch.autograd.grad(loss_of(outputs), leaves, allow_unused=True)
    return [each.detach() for each in [*flat(outputs), *gradients] if each is not None]


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    """Equal up to rounding, relative to the largest element."""
    assert len(ours) == len(theirs)
    for a, b in zip([each.detach() for each in ours], [each.detach() for each in theirs], strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        assert float((a - b).abs().max() if a.numel() else 0) <= TOLERANCE[b.dtype] * scale


def taken() -> int:
    """How many calls ran on the kernels since the last question."""
    return sum(bt.explain(reset=True).taken.values())


def assert_agree(run: Callable[[], list[Any]], *, calls: int | None = None) -> list[Any]:
    """Run on PyTorch's operations, then on ours, and compare. calls: how many must have run on the kernels."""
    theirs = run()
    taken()
    with bt.enabled():
        ours = run()
    count = taken()
    assert count > 0 if calls is None else count == calls
    assert_close(ours, theirs)
    return ours


def x_for(kind: str, dtype: Any = torch.float64) -> Any:
    return torch.ones(*([3, 5] if kind in CELLS else [4, 3, 5]), dtype=dtype)


def python(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout
