# SPDX-License-Identifier: Apache-2.0
"""Replacing a file: completely or not at all, with the rights of the old one, leaving no temporary file."""

import os
import stat
import subprocess
import sys
import time

import pytest

from bptt import _atomic_file
from bptt._atomic_file import replace_file

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links, pipes and locks of POSIX")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@posix
def test_a_new_file_has_ordinary_rights_and_links_are_followed(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "real", b"first")
    finally:
        os.umask(before)
    assert mode(tmp_path / "real") == 0o640
    (tmp_path / "link").symlink_to("real")
    replace_file(tmp_path / "link", b"second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"second"


@posix
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o666, 0o444, 0o755])
def test_a_replaced_file_keeps_its_rights(path, monkeypatch, bits):
    path.chmod(bits)
    while_written = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (while_written.append(mode(handle)), fsync(handle)))
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == bits
    assert while_written[0] == bits


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(path):
    path.chmod(0o664)
    os.chown(path, 12345, 23456)
    replace_file(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12345, 23456, 0o664)


@posix
def test_a_group_that_cannot_be_kept_gives_no_rights_to_another(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    stranger = os.stat_result([0o100664, 0, 0, 1, 54321, 65432, 0, 0, 0, 0])
    with path.open("r+b") as file:
        _atomic_file._copy_permissions(stranger, file.fileno())
    assert mode(path) == 0o644


@posix
def test_a_directory_that_cannot_be_read_is_enough(path):
    path.parent.chmod(0o333)
    try:
        replace_file(path, b"new")
    finally:
        path.parent.chmod(0o755)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]


@posix
def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="not a regular file"):
            replace_file(tmp_path / name, b"new")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(path, monkeypatch, point, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(os, point, fail)
    with pytest.raises(type(failure)) as caught:
        replace_file(path, b"new")
    if isinstance(failure, OSError):
        assert "cannot write" in str(caught.value)
        assert "(No space left on device), expected" in str(caught.value)
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == b"old"


def test_the_contents_reach_the_disk_before_the_name(path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names)))
    replace_file(path, b"new")
    assert events == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])


KILLED = """
import os, random, signal, sys, time
import numpy as np
from bptt import checkpoint
path, arrays = sys.argv[1], {"w": np.zeros(500_000)}
checkpoint.save(path, arrays, {"writer": 0})
most = 0
for writer in range(1, 41):
    child = os.fork()
    if child == 0:
        while True:
            checkpoint.save(path, arrays, {"writer": writer})
    time.sleep(random.uniform(0.005, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    checkpoint.load(path)  # whole, whenever the writer died
    most = max(most, len(os.listdir(os.path.dirname(path))))
print(most)
"""


@posix
def test_what_killed_writers_leave_is_removed_by_the_next(tmp_path):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", KILLED, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 2  # the model, and the file that the last writer left
    replace_file(tmp_path / "other", b"new")
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


@posix
def test_the_temporary_file_of_a_living_writer_stays(path, monkeypatch):
    """A second writer does not touch the file of a first one that is still at work."""
    replace = os.replace

    def write_another(*names):
        monkeypatch.setattr(os, "replace", replace)
        replace_file(path.parent / "other", b"other")
        replace(*names)

    monkeypatch.setattr(os, "replace", write_another)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert sorted(os.listdir(path.parent)) == [path.name, "other"]


@posix
def test_the_temporary_files_of_other_hosts_stay_for_a_day(path):
    young, old, foreign = (path.parent / f".bptt-{name}.tmp" for name in (f"00000000-{'0' * 16}", f"1-{'1' * 16}", "x"))
    for each in (young, old, foreign):
        each.touch()
    for each in (old, foreign):
        os.utime(each, (time.time() - 90_000,) * 2)
    replace_file(path, b"new")
    assert sorted(os.listdir(path.parent)) == sorted([path.name, young.name, foreign.name])


@posix
def test_a_new_file_that_was_taken_for_abandoned_is_made_again(path, monkeypatch):
    lock, removed = _atomic_file._lock, []

    def remove_first(handle, *, wait):
        if wait and not removed:
            removed.extend(each for each in path.parent.iterdir() if each != path)
            removed[0].unlink()
        return lock(handle, wait=wait)

    monkeypatch.setattr(_atomic_file, "_lock", remove_first)
    replace_file(path, b"new")
    assert len(removed) == 1
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]
