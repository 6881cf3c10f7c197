# SPDX-License-Identifier: Apache-2.0
"""`bptt.torch` on and off, what it leaves to PyTorch, and what must not notice: pickles, scripts, threads, forks."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
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
    KINDS,
    assert_close,
    both,
    bt,
    every_cell,
    every_kind,
    flat,
    layer,
    one_thread,  # noqa: F401
    results,
    taken,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


def x_for(kind: str, dtype: Any = torch.float64) -> Any:
    return torch.ones(*([3, 5] if kind in CELLS else [4, 3, 5]), dtype=dtype)


def python(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout


def test_bptt_neither_needs_nor_imports_torch() -> None:
    code = "import sys, bptt; bptt.LSTM(2, 3); print('torch' in sys.modules, hasattr(bptt, 'torch'))"
    assert python(code).split() == ["False", "False"]
    code = "import sys, bptt; sys.modules['torch'] = None\ntry: import bptt.torch\nexcept ImportError as e: print(e)"
    assert "pip install 'bptt[torch]'" in python(code)


def test_on_and_off() -> None:
    model, x = layer("gru"), x_for("gru")
    originals = {name: getattr(torch._VF, name) for name in (*KINDS, *CELLS) if "projected" not in name}
    taken()
    bt.enable()
    bt.enable()
    assert bt.is_enabled()
    model(x)
    with bt.enabled():
        model(x)
    assert bt.is_enabled()
    bt.disable()
    assert not bt.is_enabled()
    model(x)
    with pytest.raises(ValueError, match="leave"), bt.enabled():
        raise ValueError("leave" if bt.is_enabled() else "")
    assert not bt.is_enabled()
    assert taken() == 2
    assert all(getattr(torch._VF, name) is each for name, each in originals.items())


def test_one_model_alone() -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleDict({"lstm": layer("lstm"), "float16": layer("gru", dtype=torch.float16)})
            self.cell = layer("gru_cell")

    model, other = Tagger(), layer("lstm")
    report = bt.accelerate(model)
    assert report.taken == ["layers.lstm", "cell"]
    assert report.left == {"layers.float16": "dtype float16"}
    assert str(report).splitlines() == [
        "layers.lstm: on bptt", "cell: on bptt", "layers.float16: left to PyTorch (dtype float16)",
    ]  # fmt: skip
    assert not bt.is_enabled()
    bt.explain(reset=True)
    other(x_for("lstm"))
    copy.deepcopy(model).layers["lstm"](x_for("lstm"))
    assert taken() == 0
    model.layers["lstm"](x_for("lstm"))
    model.cell(x_for("gru_cell"))
    model.float()
    model.layers["lstm"](x_for("lstm", torch.float32))
    with bt.enabled():
        other(x_for("lstm"))
    model.cell(x_for("gru_cell", torch.float32))
    assert taken() == 5
    bt.accelerate(other)
    del model
    other(x_for("lstm"))
    assert taken() == 1
    bt.disable()
    other(x_for("lstm"))
    assert taken() == 0
    with pytest.raises(TypeError, match=r"accelerate: model has type list, expected a torch\.nn\.Module"):
        bt.accelerate([other])
    assert str(bt.accelerate(torch.nn.Linear(2, 3))) == "no recurrent layers"


LEFT: dict[str, Any] = {
    "dtype bfloat16": lambda model, x: model.bfloat16()(x.bfloat16()),
    "autocast": lambda model, x: torch.autocast("cpu")(model.float())(x.float()),
    "torch.func transforms": lambda model, x: torch.func.grad(lambda x: flat(model(x))[0].sum())(x),
    "a dispatch mode": lambda model, x: in_mode(model, x),
    "a tensor of class Marked": lambda model, x: model(x.as_subclass(Marked)),
    "device meta": lambda model, x: model.to("meta")(x.to("meta")),
}


class Marked(torch.Tensor):
    pass


def in_mode(model: Any, x: Any) -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        return model(x)


@pytest.mark.parametrize("why", LEFT)
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "lstm_cell", "gru_cell"])
def test_what_is_left_to_pytorch(kind: str, why: str) -> None:
    try:
        theirs = LEFT[why](layer(kind), x_for(kind))
    except RuntimeError as error:  # oneDNN's LSTM in bfloat16 runs on some processors alone
        pytest.skip(f"PyTorch itself: {error}")
    bt.explain(reset=True)
    with bt.enabled():
        ours = LEFT[why](layer(kind), x_for(kind))
    found = bt.explain(reset=True)
    assert not found.taken
    assert set(found.left) == {(kind, why)}
    assert f"{kind}: 1 left to PyTorch ({why})" in str(found)
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert type(a) is type(b)
        assert a.device.type == "meta" or torch.equal(a, b)


def test_forward_mode_derivatives_are_pytorchs() -> None:
    from torch.autograd import forward_ad

    model, x = layer("gru"), x_for("gru")
    with bt.enabled(), forward_ad.dual_level():
        y = model(forward_ad.make_dual(x, torch.ones_like(x)))[0]
        assert forward_ad.unpack_dual(y).tangent is not None


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with bt.enabled(), FakeTensorMode():
        y, _ = torch.nn.GRU(5, 7)(torch.ones(4, 3, 5))
    assert y.shape == (4, 3, 7)
    assert type(y).__name__ == "FakeTensor"


@every_kind
def test_empty_inputs_and_errors_are_pytorchs(kind: str) -> None:
    model = layer(kind, num_layers=2)
    inputs = [
        (torch.ones(0, 3, 5, dtype=torch.float64),), (torch.ones(4, 0, 5, dtype=torch.float64),),
        (torch.ones(4, 3, 6, dtype=torch.float64),), (torch.ones(4, 3, 5),), (torch.ones(2, 4, 3, 5),),
        (torch.ones(4, 3, 5, dtype=torch.int64),), ("x",), (torch.ones(4, 3, 5, dtype=torch.float64), 3),
        (torch.ones(4, 3, 5, dtype=torch.float64), torch.ones(2, 4, 7, dtype=torch.float64)),
        (torch.ones(4, 3, 5, dtype=torch.float64), [torch.ones(2, 3, 7)] * 2),
    ]  # fmt: skip
    for given in inputs:
        found: list[Any] = []
        for on in (False, True):
            bt.enable() if on else bt.disable()
            try:
                found.append(flat(model(*given)))
            except Exception as error:
                found.append((type(error), str(error)))
        if isinstance(found[0], tuple):
            assert found[0] == found[1]
        else:
            assert_close(found[1], found[0])


@every_cell
def test_errors_of_cells_are_pytorchs(kind: str) -> None:
    model = layer(kind)
    h = torch.ones(3, 6, dtype=torch.float64)
    for given in [
        (torch.ones(3, 6, dtype=torch.float64),),
        (torch.ones(3, 5),),
        (x_for(kind), (h, h)),
        (x_for(kind), h),
    ]:
        found = []
        for on in (False, True):
            bt.enable() if on else bt.disable()
            try:
                found.append(model(*given))
            except Exception as error:
                found.append((type(error), str(error)))
        assert found[0] == found[1]


def test_direct_calls_of_the_operations() -> None:
    gru, x, h = layer("gru"), x_for("gru"), torch.zeros(1, 3, 7, dtype=torch.float64)
    arguments = (x, h, gru._flat_weights, True, 1, 0.0, False, False, False)
    theirs = torch._VF.gru(*arguments)
    with bt.enabled():
        assert_close(flat(torch._VF.gru(*arguments)), flat(theirs))
        names = (
            "input",
            "hx",
            "params",
            "has_biases",
            "num_layers",
            "dropout",
            "train",
            "bidirectional",
            "batch_first",
        )
        assert_close(flat(torch._VF.gru(**dict(zip(names, arguments, strict=True)))), flat(theirs))
        assert_close(flat(torch.gru(*arguments)), flat(theirs))
        with pytest.raises(TypeError):
            torch._VF.gru(x)
        with pytest.raises((RuntimeError, TypeError)):
            torch._VF.gru(x, h, gru._flat_weights[:3], True, 1, 0.0, False, False, False)
        with pytest.raises((RuntimeError, TypeError)):
            torch._VF.lstm(x, (h,), layer("lstm")._flat_weights, True, 1, 0.0, False, False, False)


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
        both(lambda: results(layer("gru"), x_for("gru")), calls=1)
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
        both(lambda: flat(model(x)), calls=1)


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
