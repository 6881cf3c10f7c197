# SPDX-License-Identifier: Apache-2.0
"""The control groups (containers) of this process on Linux, and what their files say."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["group_folders", "read"]


def group_folders(controller: str, root: str) -> Iterator[tuple[int, str]]:
    """Yield the cgroup version, 1 or 2, and the folder of each group that limits this process, and of those above it.

    Args: controller, "cpu" or "memory"; root, the directory of proc and sys.
    """
    for line in read(f"{root}/proc/self/cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")  # version 2: "0::/a/b"; 1: "4:cpu,cpuacct:/a/b"
        if controllers and controller not in controllers.split(","):
            continue
        version, folder = (1, f"/sys/fs/cgroup/{controller}") if controllers else (2, "/sys/fs/cgroup")
        for path in _with_parents(group):
            yield version, f"{root}{folder}{path}"


def _with_parents(group: str) -> Iterator[str]:
    """A path, those above it, and "" for the top, the only one that a container has where the path is its host's."""
    path = group.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def read(path: str) -> str:
    """The text of a small file, "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
