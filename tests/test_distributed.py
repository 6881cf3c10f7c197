# SPDX-License-Identifier: Apache-2.0
"""Training in several processes, started as users do: by torchrun over Gloo, and by mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = str(ROOT / "examples" / "distributed.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "BPTT_NUM_THREADS"), "1")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Gloo and MPI are tried on Linux"),
]


def run(command: list[str], folder: Path) -> str:
    found = subprocess.run(
        command, cwd=folder, env={**os.environ, **THREADS}, capture_output=True, text=True, timeout=240, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def assert_as_one(folder: Path) -> None:
    """Two processes have the same bits, and the weights of one process up to 1e-6."""
    one, first, second = (np.load(folder / f"{name}.npy") for name in ("alone.0", "two.0", "two.1"))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one, np.zeros_like(one))
    np.testing.assert_allclose(first, one, rtol=0, atol=1e-6)


def test_the_example_under_torchrun(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run([sys.executable, EXAMPLE, "--save", "alone"], tmp_path)
    run([*TORCHRUN, EXAMPLE, "--by", "torch", "--save", "two"], tmp_path)
    assert_as_one(tmp_path)


def test_the_example_under_mpirun(tmp_path: Path) -> None:
    mpirun = shutil.which("mpirun")
    if mpirun is None or find_spec("mpi4py") is None:
        pytest.skip("there is no mpirun or no mpi4py")
    options = []
    if "Open MPI" in run([mpirun, "--version"], tmp_path):
        options = ["--oversubscribe", "--allow-run-as-root"]
    run([sys.executable, EXAMPLE, "--save", "alone"], tmp_path)
    mpi = [mpirun, *options, "-n", "2", sys.executable, "-m", "mpi4py", EXAMPLE, "--by", "mpi", "--save", "two"]
    run(mpi, tmp_path)
    assert_as_one(tmp_path)


def test_distributed_data_parallel_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    program = str(ROOT / "tests" / "ddp_program.py")
    assert run([sys.executable, program, "alone"], tmp_path) == "20 calls\n"
    assert "20 calls" in run([*TORCHRUN, program, "two"], tmp_path)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("alone.0", "two.0", "two.1"))
    for alone, a, b in zip(one, first, second, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, alone, rtol=0, atol=1e-6)
