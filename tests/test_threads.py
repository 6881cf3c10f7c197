# SPDX-License-Identifier: Apache-2.0
"""The default number of threads: environment, affinity, cgroups; and threadpoolctl, which limits it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bptt
import bptt.losses
from bptt._threads import available_cores, cpu_quota, default_threads
from bptt._topology import count_cores, in_order, largest_cache
from stacks import threads

THREADS = "import bptt; print(bptt.get_num_threads())"


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python that runs `code` with these variables."""
    names = ("BPTT_NUM_THREADS", "OMP_NUM_THREADS")
    others = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=others | environ
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BPTT_NUM_THREADS": "3"}, 3),
        ({"BPTT_NUM_THREADS": " 256 ", "OMP_NUM_THREADS": "1"}, 256),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": " 4 , 2", "BPTT_NUM_THREADS": ""}, 4),
        ({"OMP_NUM_THREADS": "1000"}, 256),
    ],
)
def test_the_environment_says_how_many(environ: dict[str, str], expected: int) -> None:
    done = run(THREADS, **environ)
    assert (done.stdout.strip(), done.stderr) == (str(expected), "")


@pytest.mark.parametrize("value", ["x", "0", "-1", "1e3", "2.0", "257", "4,2", "9" * 5000, "\u0664"])
def test_a_bad_number_of_threads_is_named_at_import(value: str) -> None:
    with pytest.raises(ImportError, match=r"^bptt: BPTT_NUM_THREADS has value '.+, expected an integer from 1 to 256$"):
        default_threads({"BPTT_NUM_THREADS": value, "OMP_NUM_THREADS": "1"})


def test_the_import_fails_with_one_line() -> None:
    done = run("import bptt", BPTT_NUM_THREADS="1e3")
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: bptt: BPTT_NUM_THREADS has value '1e3', expected an integer from 1 to 256"
    assert done.returncode == 1


@pytest.mark.parametrize("value", ["", "x", "0", "-2", "1e3", ",4"])
def test_a_bad_number_for_openmp_is_ignored(value: str) -> None:
    assert default_threads({"OMP_NUM_THREADS": value}) == min(available_cores(), 256)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_the_affinity_mask_says_how_many() -> None:
    code = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {THREADS}"
    assert run(code).stdout.strip() == "1"


def tree(root: Path, cgroup: str, files: dict[str, str]) -> str:
    """A tree with /proc/self/cgroup and files below /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(root)


V1 = "12:pids:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a/b"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "150000 100000", "c/cpu.max": "1 100000"}, 0.5),
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/of/the/host", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/a", {"cgroup.procs": "1", "a/cpu.max": "max 100000"}, math.inf),
        ("0::/a", {}, math.inf),
        ("", {}, math.inf),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, math.inf),
        (V1, {"cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.cfs_period_us": "50000"}, 0.5),
        (V1 + "\n0::/a/b", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        (V1 + "\n0::/a/b", {"pids/a/b/pids.max": "1"}, math.inf),
    ],
)
def test_the_least_quota_counts(tmp_path: Path, cgroup: str, files: dict[str, str], expected: float) -> None:
    assert cpu_quota(tree(tmp_path, cgroup, files)) == expected


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(str(tmp_path)) == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (math.inf, 3), (8.0, 3)])
def test_a_quota_is_rounded_up(monkeypatch: pytest.MonkeyPatch, quota: float, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr("bptt._threads.cpu_quota", lambda: quota)
    monkeypatch.setattr("bptt._threads.count_cores", len)
    assert available_cores() == expected


def blocks_of(n: int) -> Callable[[int], str]:
    """Lists of n neighbouring processors."""
    return lambda cpu: f"{cpu // n * n}-{cpu // n * n + n - 1}"


def machine(root: Path, siblings: Callable[[int], str], shared: Callable[[int], str], processors: int) -> str:
    """A tree with sysfs's files of processors: those that share a core, and a cache, with each one."""
    for cpu in range(processors):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        files = {"topology/thread_siblings_list": siblings, "cache/index3/shared_cpu_list": shared}
        for name, text in {**files, "cache/index0/shared_cpu_list": siblings}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text(cpu) + "\n")
    return str(root)


@pytest.mark.parametrize(
    ("siblings", "shared", "processors", "cores", "cache"),
    [
        (str, lambda cpu: "0-7", range(8), 8, 8),
        (lambda cpu: f"{cpu % 4},{cpu % 4 + 4}", lambda cpu: "0-7", range(8), 4, 4),
        (blocks_of(2), blocks_of(4), range(8), 4, 2),
        (blocks_of(2), blocks_of(4), [1, 3, 5], 3, 2),
        (str, blocks_of(2), range(8), 8, 2),
        (lambda cpu: "strange", lambda cpu: "strange", range(8), 8, 0),
    ],
)
def test_threads_of_a_core_count_once(
    tmp_path: Path,
    siblings: Callable[[int], str],
    shared: Callable[[int], str],
    processors: list[int],
    cores: int,
    cache: int,
) -> None:
    root = machine(tmp_path, siblings, shared, 8)
    assert (count_cores(processors, root), largest_cache(processors, root)) == (cores, cache)


def test_neighbours_share_a_cache(tmp_path: Path) -> None:
    """Two caches, each of two cores with two threads."""
    root = machine(
        tmp_path, lambda cpu: f"{cpu % 4},{cpu % 4 + 4}", lambda cpu: ["0-1,4-5", "2-3,6-7"][cpu // 2 % 2], 8
    )
    assert in_order(range(8), root) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert in_order(range(8), root, across=True) == [0, 2, 1, 3, 4, 6, 5, 7]
    assert in_order([1, 2, 5, 7], root) == [1, 2, 7, 5]
    assert in_order([3, 1], str(tmp_path / "nowhere")) == [1, 3]


def test_without_sysfs_each_processor_is_a_core(tmp_path: Path) -> None:
    assert (count_cores([0, 2, 5], str(tmp_path)), largest_cache([0, 2, 5], str(tmp_path))) == (3, 0)
    assert largest_cache([], str(tmp_path)) == 0


@pytest.mark.parametrize("first", ["bptt", "threadpoolctl"])
def test_threadpoolctl_sees_and_limits_the_pool(first: str) -> None:
    pytest.importorskip("threadpoolctl")
    code = f"""
import {first}, threadpoolctl, bptt
bptt.set_num_threads(3)
ours = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "bptt"]
print([(each["num_threads"], each["version"] == bptt.__version__) for each in ours])
with threadpoolctl.threadpool_limits(1):
    print(bptt.get_num_threads())
with threadpoolctl.threadpool_limits(2, user_api="bptt"):
    print(bptt.get_num_threads())
with threadpoolctl.threadpool_limits(1000):
    print(bptt.get_num_threads())
print(bptt.get_num_threads())
"""
    assert run(code).stdout.split("\n") == ["[(3, True)]", "1", "2", "256", "3", ""]


def test_threadpoolctl_is_not_needed() -> None:
    assert run(f"import sys; sys.modules['threadpoolctl'] = None; {THREADS}", BPTT_NUM_THREADS="2").stdout == "2\n"


def test_a_program_has_the_last_word() -> None:
    before = bptt.get_num_threads()
    try:
        bptt.set_num_threads(7)
        assert bptt.get_num_threads() == bptt.config()["threads"] == 7
    finally:
        bptt.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_and_blocks_on_any_number_of_threads_have_the_same_bits(dtype: str) -> None:
    """A linear map and the loss of its outputs, large enough for five threads (csrc/core/threads/work.h)."""
    rng = np.random.default_rng(0)
    linear = bptt.Linear(460, 450, dtype=dtype, seed=0)
    x, targets = rng.standard_normal((803, 460)).astype(dtype), rng.integers(0, 450, 803)
    results = []
    for n in (1, 2, 3, 5):
        with threads(n):
            y, tape = linear.forward(x)
            loss, dy = bptt.losses.cross_entropy(y, targets)
            dx, grads = linear.backward(tape, dy)
        results.append((loss, y.tobytes(), dy.tobytes(), dx.tobytes(), grads.flat.tobytes()))
    assert all(result == results[0] for result in results)
