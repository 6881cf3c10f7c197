# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/, each in a short form; what they reach in full stands at their top."""

from __future__ import annotations

import math
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> Any:
    return runpy.run_path(str(EXAMPLES / name))["main"](list(arguments))


def test_every_example_is_run_here_and_short() -> None:
    text = Path(__file__).read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in text, path.name
        assert len(path.read_text("utf-8").splitlines()) < 100, path.name


def test_vanishing_and_exploding(capsys: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for w, found in run("vanishing_and_exploding.py", "--picture", str(tmp_path / "flow.png")).items():
        assert found["decay"] == pytest.approx(w, rel=1e-9)
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    assert "factor per step 1.5000" in capsys.readouterr().out


def test_adding_problem() -> None:
    errors = run("adding_problem.py", "--steps", "5", "--updates", "200", "--models", "gru")
    assert errors["gru"] < 0.1  # 1/6 without memory


def test_copy_memory() -> None:
    losses = run("copy_memory.py", "--delay", "5", "--updates", "30", "--batch-size", "16")
    assert all(loss < 2 * math.log(10) for loss in losses.values())


def test_exploding_gradients() -> None:
    means = run("exploding_gradients.py", "--updates", "100")
    assert means["clipped to norm 1"] < means["without clipping"]


def needs_files_of(package: str) -> None:
    """Skip unless it is installed; its files are read without importing it."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_japanese_vowels() -> None:
    needs_files_of("aeon")
    for measured_on in ([], ["--validate"]):
        (accuracy,) = run("japanese_vowels.py", "--epochs", "4", "--seeds", "1", *measured_on)
        assert accuracy > 0.5  # guessing: 0.24 for the speaker with most utterances


def test_co2() -> None:
    needs_files_of("statsmodels")
    errors = run("co2.py", "--epochs", "2", "--seeds", "1")
    assert errors["GRU, seed 0"][1] < errors["a year ago"][1] < errors["the last value"][1]


def test_digits() -> None:
    pytest.importorskip("sklearn")
    assert run("digits.py", "--epochs", "1") > 0.2  # guessing: 0.1


def test_distributed() -> None:
    """Alone; test_distributed.py starts it as two processes."""
    history = run("distributed.py", "--epochs", "2")
    assert history.loss[-1] < 0.5 * history.loss[0]
