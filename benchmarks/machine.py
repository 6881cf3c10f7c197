# SPDX-License-Identifier: Apache-2.0
"""This machine and its limits: measured by probe.cpp, compiled and run, or else by NumPy."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
MARCH = {"v2": "x86-64-v2", "v3": "x86-64-v3", "v4": "x86-64-v4"}
ASSUMED_ROUND_TRIP_US = 0.2

# The fallback without a compiler: sgemm stands for the FMA peak, sdot for the read rate; in a separate process,
# so that the number of threads can be set.
NUMPY_PROBE = """
import json, sys, time
import numpy as np

def rate(work, amount, seconds=0.05, tries=5):
    best = 0.0
    for _ in range(tries):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            work()
            count += 1
        best = max(best, count * amount / (time.perf_counter() - start) / 1e9)
    return round(best, 2)

n = 1024
a = np.ones((n, n), np.float32)
out = np.empty_like(a)
peak = rate(lambda: np.matmul(a, a, out=out), 2 * n**3)
read = []
for kib in [2**k for k in range(4, 17)]:
    v = np.ones(kib * 256, np.float32)
    read.append([kib, rate(lambda: v.dot(v), v.nbytes, 0.01)])
print(json.dumps({"peak": peak, "read": read}))
"""


def probe(threads: int, level: str, quick: bool) -> dict[str, Any]:
    """peak_gflops by number of threads, read_gbs as [KiB, one core, each of all], round_trip_us, and `how`."""
    try:
        return _native(threads, level, 0.004 if quick else 0.02)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {**_by_numpy(threads), "why_not_native": str(error)[:300]}


def merge(probes: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of several measurements."""
    first = probes[0]
    peaks = {n: max(p["peak_gflops"][n] for p in probes) for n in first["peak_gflops"]}
    rows = zip(*(p["read_gbs"] for p in probes), strict=True)
    reads = [[row[0][0], max(r[1] for r in row), max(r[2] for r in row)] for row in rows]
    return {**first, "peak_gflops": peaks, "read_gbs": reads, "round_trip_us": min(p["round_trip_us"] for p in probes)}


def _native(threads: int, level: str, seconds: float) -> dict[str, Any]:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"no C++ compiler ({', '.join(COMPILERS)}) found")
    march = f"-march={MARCH[level]}" if level in MARCH else "-march=native"
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "probe")
        options = ["-O3", march, "-std=gnu++17", "-ffp-contract=fast", "-pthread"]
        command = [compiler, *options, str(HERE / "probe.cpp"), "-o", program]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        result = subprocess.run(
            [program, str(threads), str(seconds)], check=True, capture_output=True, text=True, timeout=120
        )
    how = f"native program ({Path(compiler).name} {march}): independent FMA chains, sums of arrays, a flag passed on"
    return {**json.loads(result.stdout), "how": how}


def _by_numpy(threads: int) -> dict[str, Any]:
    counts = sorted({1, threads})
    found = {}
    for n in counts:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(n))}
        command = [sys.executable, "-c", NUMPY_PROBE]
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=120, env=environment
        ).stdout
        found[n] = json.loads(output)
    return {
        "threads": threads,
        "peak_gflops": {str(n): found[n]["peak"] for n in counts},
        "read_gbs": [[kib, rate, rate] for kib, rate in found[1]["read"]],
        "round_trip_us": ASSUMED_ROUND_TRIP_US if threads > 1 else 0.0,
        "how": "NumPy (no C++ compiler): best sgemm for the FMA peak, sdot for reads; the round trip is assumed",
    }


def describe() -> dict[str, Any]:
    """Processor, cores, caches, memory, system."""
    return {
        "processor": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": _caches(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    by_name = {key.strip(): value.strip() for key, value in fields.items()}
    model = [by_name[key] for key in ("cpu family", "model", "stepping") if key in by_name]
    return f"{by_name.get('model name', platform.machine())} (family, model, stepping {', '.join(model)})"


def _caches() -> list[str]:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (index.joinpath(name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found.append(f"L{level} {kind} {size}")
    return found


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def used_s() -> float | None:
    """Processor seconds used on this machine since its start; None where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:9]
        ticks = [int(field) for field in fields]
        return sum(ticks[:3] + ticks[5:8]) / os.sysconf("SC_CLK_TCK")  # without idle and iowait
    except (OSError, ValueError, AttributeError):
        return None
