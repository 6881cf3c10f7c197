# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/torch, most of them on libraries that nobody here wrote: the same results with bptt.

They need `pip install '.[torch-programs]'` and run with `pytest -m programs`.
"""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import one_thread  # noqa: E402, F401

FOLDER = Path(__file__).parent.parent / "examples" / "torch"
# The modules of the libraries that each needs.
NEEDS = {
    "darts_forecasts": ["darts", "pytorch_lightning"],
    "neuralforecast_passengers": ["neuralforecast"],
    "pytorch_forecasting_layers": ["pytorch_forecasting"],
    "recurrent_ppo": ["sb3_contrib", "gymnasium"],
    "seq2seq": [],
    "tagger": [],
}
SHARED = {"harness", "classifying"}
CLOSE = 1e-5


@pytest.fixture
def program(request: Any, monkeypatch: Any) -> Any:
    for library in NEEDS[request.param]:
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module(request.param)
    yield module
    for name in (request.param, *SHARED):
        sys.modules.pop(name, None)


def test_every_program_is_run_here_and_short() -> None:
    paths = list(FOLDER.glob("*.py"))
    assert {path.stem for path in paths} == {*NEEDS, *SHARED}
    for path in paths:
        assert len(path.read_text("utf-8").splitlines()) < 100, path.name


@pytest.mark.programs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", NEEDS, indirect=True)
def test_a_program_finds_the_same_with_bptt(program: Any) -> None:
    short = {"epochs": 1} if program.__name__ == "recurrent_ppo" else {}
    for each in program.main(timed_steps=0, **short):
        assert math.isfinite(each.difference)
        assert each.difference <= CLOSE
        assert each.explained.taken
        assert not each.explained.left


@pytest.mark.programs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", ["recurrent_ppo"], indirect=True)
def test_recurrent_ppo_calls_the_lstm_once_for_a_sequence(program: Any) -> None:
    harness = sys.modules["harness"]
    with harness.bptt.torch.enabled():
        harness.bptt.torch.explain(reset=True)
        harness.seeded(program.training(program.WholeSequences, epochs=1), 1, True)
    # 128 steps and the value after them, of the actor and the critic, less the actor's; the update; the last output.
    assert harness.bptt.torch.explain().taken == {"lstm": 2 * 128 + 1 + 2 + 1}
