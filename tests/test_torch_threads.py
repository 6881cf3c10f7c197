# SPDX-License-Identifier: Apache-2.0
"""Calls of `bptt.torch` on PyTorch's OpenMP threads: the same bits as on ours, and all that threads may do."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bptt._dispatch import core

torch = pytest.importorskip("torch")

from bptt.torch import network, openmp  # noqa: E402
from torch_cases import bt, every_kind, layer, one_thread, python, results  # noqa: E402, F401

linux = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's OpenMP library is met on Linux alone")


@pytest.fixture
def two_threads() -> Any:
    """All calls divide their rows between two threads."""
    torch.set_num_threads(2)
    core.set_num_threads(2)
    core.force_division(2, 1)
    yield
    core.force_division(0, 0)


def a_run(kind: str) -> list[Any]:
    x = torch.linspace(-1, 1, 6 * 8 * 16).reshape(6, 8, 16).requires_grad_()
    with bt.enabled():
        return results(layer(kind, 16, 24, num_layers=2, dtype=torch.float32), x)


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@every_kind
def test_the_bits_are_those_of_our_own_threads(kind: str, two_threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = a_run(kind)
    monkeypatch.setattr(network, "_networks", {})
    monkeypatch.setattr(network.Network, "is_guest", False)
    assert same(a_run(kind), theirs)
    torch.set_num_threads(1)
    core.force_division(0, 0)
    assert same(a_run(kind), theirs)


def test_several_python_threads(two_threads: Any) -> None:
    model, x = layer("gru", 16, 24, dtype=torch.float32), torch.ones(6, 8, 16, requires_grad=True)
    with bt.enabled(), ThreadPoolExecutor(4) as pool:
        expected = results(model, x)
        found = [pool.submit(results, model, x) for _ in range(40)]
        assert all(same(each.result(), expected) for each in found)


# A host that counts its jobs: PyTorch's own where `size` is 0, else one that gives only the caller's thread.
HOST = """
import ctypes, torch, bptt.torch, bptt
from bptt._dispatch import core
library, jobs = ctypes.CDLL(None), []
JOB = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
def run(f, data, threads, flags):
    jobs.append(threads)
    if SMALL:
        JOB(f)(data)
    else:
        GOMP(f, data, threads, flags)
GOMP = RUN(("GOMP_parallel", library))
ONE, ZERO = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1), ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
run = RUN(run)
at = lambda f: ctypes.cast(f, ctypes.c_void_p).value
names = (ONE, ZERO) if SMALL else (library.omp_get_num_threads, library.omp_get_thread_num)
core.set_host(at(run), *map(at, names))
torch.set_num_threads(2)
core.force_division(2, 1)
x = torch.linspace(-1, 1, 6 * 8 * 16).reshape(6, 8, 16)
model = torch.nn.GRU(16, 24)
"""


@linux
@pytest.mark.parametrize("small", [False, True])
def test_jobs_run_there_and_on_ours_where_threads_are_missing(small: bool) -> None:
    code = f"SMALL = {small}\n" + HOST
    code += """
with bptt.torch.enabled():
    y, h = model(x)
    count = len(jobs)
    y.sum().backward()
    print(count > 0, len(jobs) > count)
theirs = model(x)[0]
print(float((y - theirs).abs().max()) < 1e-5)
bptt.GRU(16, 24)(x.numpy())
print(len(jobs) == 2)
"""
    if not openmp.use_threads():
        pytest.skip("PyTorch has no OpenMP library here")
    assert python(code).split() == ["True"] * 4


# Every call is divided between two threads.
DIVIDED = """
import signal, torch, bptt.torch
from bptt._dispatch import core
torch.set_num_threads(2)
core.force_division(2, 1)
"""


@linux
def test_a_fork_runs_on_our_own_threads() -> None:
    """libgomp would hang."""
    code = """
import os
x, model = torch.ones(6, 8, 16), torch.nn.GRU(16, 24)
bptt.torch.enable()
expected = model(x)[0]
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if torch.equal(model(x)[0], expected) else 1)
print(os.waitpid(child, 0)[1])
"""
    assert python(DIVIDED + code).split() == ["0"]
    assert python("import os\npid = os.fork()\n" + FORKED).split() in (["True", "False"], ["True", "True"])


FORKED = """
if pid:
    os.waitpid(pid, 0)
from bptt.torch import openmp
print(openmp.is_forked(), flush=True)
os._exit(0) if pid == 0 else None
"""


@linux
def test_an_interrupt_ends_a_call_and_the_next_one_runs() -> None:
    code = """
x, model = torch.ones(20000, 64, 16), torch.nn.GRU(16, 64)
def stop(*_):
    inner.append(model(x[:5])[0])  # a call within a call
    raise KeyboardInterrupt
inner = []
signal.signal(signal.SIGALRM, stop)
bptt.torch.enable()
expected = model(x[:5])[0]
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    with torch.no_grad():
        model(x)
    print("whole")
except KeyboardInterrupt:
    print("interrupted")
print(torch.equal(model(x[:5])[0], expected), torch.equal(inner[0], expected))
"""
    assert python(DIVIDED + code).split() == ["interrupted", "True", "True"]


def test_a_host_has_addresses() -> None:
    with pytest.raises(ValueError, match="an address is 0"):
        core.set_host(0, 1, 1)
