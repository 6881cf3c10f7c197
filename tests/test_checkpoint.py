# SPDX-License-Identifier: Apache-2.0
"""Model files: what is saved comes back, what is damaged is refused, and a failed save costs nothing."""

import json
import os
import stat
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bptt import checkpoint

ARRAYS = {
    "0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "1.bias": np.array([0.1, -0.0, np.inf]),
    "empty": np.zeros((0, 3), np.float32),
}
CONFIG = {"cell": "gru", "vocabulary": '\n aé漢\x00"\\', "sizes": [1, 2]}


def assert_holds(path, arrays=ARRAYS, config=CONFIG):
    loaded, loaded_config = checkpoint.load(path)
    assert loaded_config == config
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, ARRAYS, CONFIG)
    return path


def test_round_trip_also_by_other_readers(path):
    assert_holds(path)
    np.testing.assert_array_equal(load_file(path)["0.weight"], ARRAYS["0.weight"])
    assert os.listdir(path.parent) == [path.name]


def test_arrays_of_any_stride_are_written_as_they_read(path):
    base = np.arange(24.0).reshape(4, 6)
    arrays = {"transposed": base.T, "reversed": base[::-1], "every other": base[:, ::2], "view": base[1:3, 1:3]}
    arrays["view"].flags.writeable = False
    checkpoint.save(path, arrays, {})
    assert_holds(path, arrays, {})


def test_metadata_says_what_the_file_is(path):
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert list(metadata) == ["bptt"]
    ours = json.loads(metadata["bptt"])
    assert (ours["format_version"], ours["config"]) == (1, CONFIG)


def test_equal_contents_are_equal_files(path):
    first = path.read_bytes()
    for _ in range(5):
        checkpoint.save(path, ARRAYS, CONFIG)
        assert path.read_bytes() == first


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_new_file_has_ordinary_rights_and_links_are_followed(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "real", ARRAYS, CONFIG)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to("real")
    checkpoint.save(tmp_path / "link", {}, {"new": True})
    assert (tmp_path / "link").is_symlink()
    assert_holds(tmp_path / "real", {}, {"new": True})


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="expected a model written by bptt"):
            checkpoint.load(path)


def test_every_changed_byte_of_the_arrays_is_refused(path):
    content = path.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little")
    for position in range(first, len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "of another program"),
        ({"format": "pt"}, "of another program"),
        ({"bptt": "{"}, "damaged"),
        ({"bptt": "[]"}, "damaged"),
        ({"bptt": "{}"}, "damaged"),
        ({"bptt": '{"format_version": 2}'}, "format version 2, expected 1"),
        ({"bptt": '{"format_version": 1}'}, "damaged"),
        ({"bptt": '{"format_version": 1, "config": [], "crc32": "0"}'}, "damaged"),
    ],
)
def test_foreign_files_are_refused(tmp_path, metadata, message):
    save_file({"w": np.zeros(3)}, tmp_path / "file", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "file")


@pytest.mark.parametrize("name", ["missing", ".", "missing/file"])
def test_unreadable_paths_are_named(tmp_path, name):
    with pytest.raises(OSError, match=r"^cannot read .*, expected a model written by bptt$"):
        checkpoint.load(tmp_path / name)


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file_and_no_other(path, monkeypatch, point, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(os, point, fail)
    with pytest.raises(type(failure)) as caught:
        checkpoint.save(path, {"w": np.zeros(1000)}, {})
    if isinstance(failure, OSError):
        assert "cannot write" in str(caught.value)
        assert "(No space left on device), expected" in str(caught.value)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert_holds(path)


def test_a_save_reaches_the_disk_before_the_name(path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names)))
    checkpoint.save(path, ARRAYS, CONFIG)
    assert events == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])


def test_check_writable_accepts_what_save_can_replace(path):
    before = path.read_bytes()
    checkpoint.check_writable(path)
    checkpoint.check_writable(path.parent / "new")
    (path.parent / "empty").touch()
    checkpoint.check_writable(path.parent / "empty")
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == ["empty", path.name]


@pytest.mark.parametrize("name", ["", "missing/model", "text", ".", "text/model", "x" * 300])
def test_check_writable_refuses(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("my novel")
    with pytest.raises((ValueError, OSError), match="expected"):
        checkpoint.check_writable(name)
    assert os.listdir(tmp_path) == ["text"]
    assert (tmp_path / "text").read_text() == "my novel"


@pytest.mark.skipif(sys.platform != "linux", reason="device files")
def test_check_writable_refuses_a_device():
    with pytest.raises(ValueError, match="not a regular file"):
        checkpoint.check_writable("/dev/null")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="rights that bind this user")
def test_check_writable_refuses_protected_places(path):
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="cannot write"):
        checkpoint.check_writable(path)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="cannot write"):
            checkpoint.check_writable(path.parent / "new")
    finally:
        path.parent.chmod(0o755)
