# SPDX-License-Identifier: Apache-2.0
"""The choice of the precision of products: by a program, by the processor, by the environment; where it is kept."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import _cpu, _precision
from kernels import levels

ALL = ["fma", "winograd", "bfloat16"]
AMX = [*ALL, "amx_bfloat16"]
LAYERS = [bptt.RNN, bptt.LSTM, bptt.SLSTM, bptt.GRU, bptt.RNNCell, bptt.LSTMCell, bptt.SLSTMCell, bptt.GRUCell]
FEATURES = {"avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16"}
ZEN4 = ("AuthenticAMD", 25, ["avx512_bf16"])


@pytest.fixture(params=["high", "medium"])
def precision(request: Any) -> str:
    return str(request.param)


def test_the_default_is_highest_and_the_setting_is_of_the_process() -> None:
    assert bptt.get_matmul_precision() == "highest"
    assert (bptt.LSTM(3, 4).precision, bptt.LSTM(3, 4).products) == ("highest", "fma")
    with bptt.matmul_precision("medium"):
        made = bptt.GRU(3, 4)
        assert bptt.get_matmul_precision() == "medium"
        with bptt.matmul_precision("high"):
            assert bptt.RNN(3, 4).precision == "high"
        assert bptt.get_matmul_precision() == bptt.config()["matmul_precision"] == "medium"
    assert (bptt.get_matmul_precision(), made.precision) == ("highest", "medium")
    with pytest.raises(KeyError), bptt.matmul_precision("high"):
        raise KeyError
    assert bptt.get_matmul_precision() == "highest"


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_takes_its_own(layer: Any, precision: str) -> None:
    made = layer(3, 4, precision=precision)
    assert (made.precision, made.products) == (precision, bptt.config()[f"{precision}_products"])
    assert f", precision='{precision}'" in repr(made)
    assert "precision" not in repr(layer(3, 4))
    with bptt.matmul_precision(precision):
        assert layer(3, 4, precision="highest").products == "fma"
    with pytest.raises(AttributeError, match=r"precision is fixed when the layer is made"):
        made.precision = "highest"


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("higher", ValueError, "precision has value 'higher', expected 'highest', 'high' or 'medium'"),
        (2, TypeError, "precision has type int, expected 'highest', 'high' or 'medium'"),
    ],
)
def test_another_value_is_refused(wrong: Any, error: type[Exception], message: str) -> None:
    for where, call in (
        ("set_matmul_precision", bptt.set_matmul_precision),
        ("matmul_precision", lambda value: bptt.matmul_precision(value).__enter__()),
        ("GRU", lambda value: bptt.GRU(3, 4, precision=value)),
        ("LSTMCell", lambda value: bptt.LSTMCell(3, 4, precision=value)),
    ):
        with pytest.raises(error, match=f"^{where}: {re.escape(message)}$"):
            call(wrong)
    assert bptt.get_matmul_precision() == "highest"


@pytest.mark.parametrize(
    "layer",
    [
        bptt.LSTM(3, 4, dtype="float64", precision="medium"),
        bptt.LSTM(3, 4, layer_norm=True, precision="medium"),
        bptt.LSTM(3, 4, proj_size=2, precision="medium"),
        bptt.GRU(3, 4, reset_after=False, precision="high"),
        bptt.GRU(3, 4, layer_norm=True, precision="high"),
        bptt.SLSTM(3, 4, num_heads=2, precision="high"),
    ],
    ids=repr,
)
def test_layers_that_have_no_other_products_say_so(layer: Any) -> None:
    assert (layer.precision != "highest", layer.products) == (True, "fma")


def test_copies_and_pickles_keep_it(precision: str) -> None:
    with bptt.matmul_precision(precision):
        lstm = bptt.LSTM(3, 20, seed=0)
    x = np.ones((4, 2, 3), np.float32)
    y = lstm(x)[0]
    for again in (copy.copy(lstm), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert (again.precision, again.products) == (precision, lstm.products)
        np.testing.assert_array_equal(again(x)[0], y)
    model = copy.deepcopy(bptt.Sequential(lstm, bptt.Linear(20, 1)))
    assert model.layers[0].precision == precision


def test_a_file_keeps_what_was_given_to_the_layer(precision: str, tmp_path: Path) -> None:
    with bptt.matmul_precision(precision):
        of_the_process, own = bptt.GRU(3, 4), bptt.GRU(3, 4, precision=precision)
        highest = bptt.GRUCell(3, 4, precision="highest")
    found = {}
    for name, layer in {"process": of_the_process, "own": own, "highest": highest}.items():
        bptt.save(layer, tmp_path / name)
        found[name] = bptt.load(tmp_path / name).precision
    assert found == {"process": "highest", "own": precision, "highest": "highest"}
    with bptt.matmul_precision("high"):
        assert bptt.load(tmp_path / "process").precision == "high"
        assert bptt.load(tmp_path / "highest").precision == "highest"


@pytest.mark.parametrize(
    ("processor", "runs", "high", "medium"),
    [
        (ZEN4, ALL, "winograd", "bfloat16"),
        (ZEN4, ["fma"], "fma", "fma"),  # at level v3
        (("AuthenticAMD", 25, []), ["fma"], "fma", "fma"),  # Zen 3, without AVX-512
        (("AuthenticAMD", 26, ["avx512_bf16"]), ALL, "fma", "bfloat16"),
        (("GenuineIntel", 6, ["avx512_bf16", "amx_tile", "amx_bf16"]), AMX, "fma", "amx_bfloat16"),
        (("GenuineIntel", 6, ["avx512_bf16", "amx_tile", "amx_bf16"]), ALL, "fma", "fma"),  # the system refuses AMX
        (("GenuineIntel", 6, ["avx512_bf16"]), ALL, "fma", "fma"),
        (("GenuineIntel", 6, []), ["fma", "winograd"], "fma", "fma"),
        (("", 0, []), ["fma"], "fma", "fma"),
    ],
)
def test_the_table(processor: Any, runs: list[str], high: str, medium: str) -> None:
    assert _precision.chosen({}, processor, runs) == {"highest": "fma", "high": high, "medium": medium}
    assert _precision.chosen({"BPTT_HIGH": "fma", "BPTT_MEDIUM": " "}, processor, runs)["high"] == "fma"


@pytest.mark.parametrize(
    ("variable", "value", "runs", "expected"),
    [
        ("BPTT_HIGH", "winograd", ["fma"], "fma"),
        ("BPTT_HIGH", "bfloat16", ALL, "fma or winograd"),
        ("BPTT_HIGH", "Winograd", ALL, "fma or winograd"),
        ("BPTT_MEDIUM", "winograd", ALL, "fma or bfloat16"),
        ("BPTT_MEDIUM", "amx", AMX, "fma or bfloat16 or amx_bfloat16"),
        ("BPTT_MEDIUM", "bfloat16", ["fma", "winograd"], "fma"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_an_import_error(
    variable: str, value: str, runs: list[str], expected: str
) -> None:
    message = rf"^bptt: {variable} has value '{value}', expected {expected} \(what level \w+ has on this processor\)$"
    with pytest.raises(ImportError, match=message):
        _precision.chosen({variable: value}, ("", 0, []), runs)


def test_a_variable_overrides_the_table() -> None:
    other = ("GenuineIntel", 6, [])
    assert _precision.chosen({"BPTT_HIGH": "winograd"}, other, ["fma", "winograd"])["high"] == "winograd"
    assert _precision.chosen({"BPTT_MEDIUM": "fma"}, ZEN4, ALL)["medium"] == "fma"
    code = "import bptt; print(bptt.LSTM(2, 3, precision='high').products)"
    for value in ("fma", "exact"):
        environment = {**os.environ, "BPTT_HIGH": value}
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        if value == "fma":
            assert (run.stdout.strip(), run.stderr) == ("fma", "")
        else:
            assert "ImportError: bptt: BPTT_HIGH has value 'exact', expected fma" in run.stderr


def test_what_the_processor_says() -> None:
    vendor, family, features = _cpu.processor()
    assert isinstance(vendor, str)
    assert isinstance(family, int)
    assert set(features) <= FEATURES
    text = Path("/proc/cpuinfo").read_text("ascii", "replace") if sys.platform == "linux" else ""
    if "vendor_id" not in text:
        return
    shown = dict(re.findall(r"^(\S[^\t]*)\t*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
    assert (vendor, family) == (shown["vendor_id"], int(shown["cpu family"]))
    assert set(features) == FEATURES & set(shown["flags"].split())


@pytest.mark.parametrize("core", levels(), ids=lambda core: core.level)
def test_native_stacks_refuse_what_does_not_run_and_say_what_they_use(core: Any) -> None:
    assert core.products == [name for name in AMX if name in core.products]
    assert (len(core.products) > 1) <= (core.level == "v4")
    for name in {*AMX, "exact"} - {*core.products}:
        message = f"^Stack: products is '{name}', expected fma.* \\(what level {core.level} has on this processor\\)$"
        with pytest.raises(ValueError, match=message):
            core.Stack("lstm", "float32", 3, 4, True, products=name)
    for name in core.products:
        assert core.Stack("lstm", "float32", 3, 4, True, products=name).products == name
        assert core.Stack("lstm", "float64", 3, 4, True, products=name).products == "fma"
        assert core.Stack("gru_before", "float32", 3, 4, True, products=name).products == "fma"
        assert core.Stack("slstm", "float32", 3, 4, True, num_heads=2, products=name).products == "fma"
    assert core.Stack("lstm", "float32", 3, 4, True).products == "fma"
