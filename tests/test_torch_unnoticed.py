# SPDX-License-Identifier: Apache-2.0
"""What must not notice `bptt.torch`: pickles, scripts, compiled models, threads, forked workers, changes of weights."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import bptt

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    CELLS,
    assert_agree,
    assert_close,
    bt,
    every_kind,
    flat,
    layer,
    one_thread,  # noqa: F401
    python,
    results,
    taken,
    x_for,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


@every_kind
def test_models_are_untouched(kind: str) -> None:
    model, x = layer(kind, num_layers=2), x_for(kind)
    before, attributes = pickle.dumps(model), set(vars(model))
    names = list(model.state_dict())
    bt.accelerate(model)
    with bt.enabled():
        y = model(x)[0]
        y.sum().backward()
        model.zero_grad()
        assert set(vars(model)) == attributes
        assert list(model.state_dict()) == names
        assert pickle.dumps(model) == before
        for each in (copy.deepcopy(model), pickle.loads(before)):
            assert torch.equal(each(x)[0], y)
        model.share_memory()
        assert torch.equal(model(x)[0], y)


def test_whole_models_are_saved_without_a_trace(tmp_path: Path) -> None:
    model, path = layer("lstm"), tmp_path / "model.pt"
    with bt.enabled():
        model(x_for("lstm"))[0].sum().backward()
        torch.save(model, path)
    code = f"""
import sys; sys.modules["bptt"] = None
import torch
model = torch.load({str(path)!r}, weights_only=False)
print(model(torch.ones(4, 3, 5, dtype=torch.float64))[0].sum().item())"""
    assert abs(float(python(code)) - float(model(x_for("lstm"))[0].detach().sum())) < 1e-12


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "lstm_cell", "gru_cell"])
def test_scripts_and_traces(kind: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer(kind)

        def forward(self, x):  # TorchScript would read types
            return self.inner(x)

    model, x = Model(), x_for(kind)
    theirs = flat(model(x))
    bt.explain(reset=True)
    with bt.enabled():
        script = torch.jit.script(model)
        assert_close(flat(script(x)), theirs)
        assert f"aten::{kind}" in str(script.inlined_graph)
        if kind not in CELLS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of constants in PyTorch's own layer
                traced = torch.jit.trace(model, x, check_trace=False)
            assert set(bt.explain(reset=True).left) == {(kind, "torch.jit.trace")}
            assert_close(flat(traced(x)), theirs)
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    assert_close(flat(torch.jit.load(file)(x)), theirs)


def test_compiled_models() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.gru, self.after = torch.nn.Linear(5, 5), layer("gru"), torch.nn.Linear(7, 2)
            self.double()

        def forward(self, x: Any) -> Any:
            return self.after(self.gru(self.before(x).relu())[0])

    torch._dynamo.reset()
    model = Model()
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.ones(4, 3, 5, dtype=torch.float64, requires_grad=True)
    theirs = results(model, x)
    bt.explain(reset=True)
    with bt.enabled():
        ours = results(compiled, x)
    assert taken() == 1
    assert_close(ours, theirs)
    torch._dynamo.reset()


def test_default_device_and_deterministic_algorithms() -> None:
    torch.set_default_device("cpu")
    torch.use_deterministic_algorithms(True)
    try:
        assert_agree(lambda: results(layer("gru"), x_for("gru")), calls=1)
    finally:
        torch.set_default_device(None)
        torch.use_deterministic_algorithms(False)


def test_weights_are_read_at_each_call() -> None:
    """`p.data` does not move `p._version`."""
    model, x = layer("gru"), x_for("gru")
    for change in (
        lambda p: p.data.mul_(0.5), lambda p: p.data.copy_(p.data + 1), lambda p: setattr(p, "data", p.data * 2),
        lambda p: p.detach().numpy().fill(0.25), lambda p: p.data.lerp_(torch.ones_like(p), 0.1),
    ):  # fmt: skip
        with bt.enabled():
            model(x)
        for each in model.parameters():
            change(each)
        assert_agree(lambda: flat(model(x)), calls=1)


def test_many_threads_at_once() -> None:
    models = [layer("lstm", 8, 16), layer("gru", 8, 16, num_layers=2, bidirectional=True)]
    models = [copy.deepcopy(model) for model in models for _ in range(8)]
    x = torch.ones(6, 4, 8, dtype=torch.float64)
    with torch.no_grad():
        for each in [each for model in models for each in model.parameters()]:
            each.add_(torch.randn_like(each))

    def run(i: int) -> list[Any]:
        y = models[i](x)[0]
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), list(models[i].parameters()))]

    with bt.enabled():
        alone = [run(i) for i in range(16)]
        found: dict[int, list[list[Any]]] = {}

        def work(i: int) -> None:
            found[i] = [run(i) for _ in range(20)]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    for i in range(16):
        for again in found[i]:
            assert all(torch.equal(a, b) for a, b in zip(again, alone[i], strict=True))


class Rows(torch.utils.data.Dataset):
    """Runs a layer in the process that loads."""

    def __init__(self) -> None:
        self.model = layer("lstm", 8, 16, dtype=torch.float32)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Any:
        y = self.model(torch.full((5, 8), float(i)))[0]
        return torch.cat([y.detach(), torch.full_like(y, float(bt.is_enabled()))])


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_that_are_forked() -> None:
    rows = Rows()
    with bt.enabled():
        rows.model(torch.ones(50, 32, 8))[0].sum().backward()  # starts all threads of this process
        expected = torch.stack([rows[i] for i in range(8)])
        loader = torch.utils.data.DataLoader(rows, batch_size=4, num_workers=2, multiprocessing_context="fork")
        assert torch.equal(torch.cat(list(loader)), expected)


def test_the_number_of_threads_is_pytorchs_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from bptt import _runtime

    model, x = layer("gru"), x_for("gru")
    monkeypatch.setattr(_runtime, "_chosen", False)
    with bt.enabled():
        for n in (2, 1):
            torch.set_num_threads(n)
            model(x)
            assert bptt.get_num_threads() == n
        bptt.set_num_threads(3)
        model(x)
        assert bptt.get_num_threads() == 3
