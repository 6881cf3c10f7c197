# SPDX-License-Identifier: Apache-2.0
"""`bptt.torch` on and off, what it leaves to PyTorch, and errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    CELLS,
    KINDS,
    assert_close,
    bt,
    every_cell,
    every_kind,
    flat,
    layer,
    one_thread,  # noqa: F401
    python,
    taken,
    x_for,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),  # inside PyTorch's forward-mode derivatives
]


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
