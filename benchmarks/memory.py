# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a training step: `python -m benchmarks.memory ours|torch` prints its bytes. Linux only.

Measured is the memory that the step adds at its peak to a process that has the library, the layer, x and dy, and has
trained a tiny layer once before.
"""

import re
import sys
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.peers.base import Task
from benchmarks.problem import Problem

CASE = Case("lstm", "train", 64, 128, 128, 256)
TINY = Case("lstm", "train", 2, 2, 4, 8)
STEPS = 2
LIBRARIES = ("ours", "torch")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


def make(library: str, case: Case) -> Task:
    if library == "ours":
        from benchmarks.peers import ours

        return ours.make(Problem(case))
    from benchmarks import peers

    return peers.load(library).make(Problem(case))


def run(task: Task) -> None:
    if task.prepare:
        task.prepare()
    task.call()


def main(library: str) -> None:
    run(make(library, TINY))
    task = make(library, CASE)
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(STEPS):
        run(task)
    print(status_bytes("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1])
