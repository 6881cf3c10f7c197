# SPDX-License-Identifier: Apache-2.0
"""Model files: they load as they were saved, damaged ones are refused, and a failed save leaves the old file."""

import json
import math
import os
import sys
import threading
import zlib

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
    assert_equal(checkpoint.load(path), (arrays, config))


def assert_equal(found, expected):
    (loaded, loaded_config), (arrays, config) = found, expected
    assert loaded_config == config
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
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


@pytest.mark.parametrize("dtype", [*"?bhilqBHILQefd", ">i2", ">u4", ">i8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_dtype_and_shape_comes_back(path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    checkpoint.save(path, {"w": array, "transposed": array.T}, {})
    native = array.astype(array.dtype.newbyteorder("="))
    assert_holds(path, {"w": native, "transposed": native.T}, {})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": np.array([None])}, "array 'w' has dtype object, expected bool, int8"),
        ({"w": np.array(["a"])}, "array 'w' has dtype <U1, expected"),
        ({"w": np.array([b"a"])}, "array 'w' has dtype .S1, expected"),
        ({"w": np.zeros(2, "i4,f4")}, r"array 'w' has dtype \[.*\], expected"),
        ({"w": np.zeros(2, np.complex64)}, "array 'w' has dtype complex64, expected"),
        ({"w": np.zeros(2, "M8[s]")}, "array 'w' has dtype datetime64.*, expected"),
        ({3: np.zeros(2)}, "arrays has the name 3, expected str"),
        ({None: np.zeros(2)}, "arrays has the name None, expected str"),
        ({"__metadata__": np.zeros(2)}, "arrays has the name '__metadata__', expected another"),
        ({"\udcff": np.zeros(2)}, r"arrays has the name .*udcff.*, expected valid Unicode"),
        ([np.zeros(2)], "arrays has type list, expected a mapping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_could_not_be_loaded_are_refused(path, arrays, message):
    with pytest.raises((TypeError, ValueError), match=f"^save: {message}") as caught:
        checkpoint.save(path, arrays, {})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert_holds(path)


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ([], TypeError, "config has type list, expected a mapping"),
        ({"a": {1, 2}}, TypeError, r"config\['a'\] has type set, expected"),
        ({"a": {"b": [1, object()]}}, TypeError, r"config\['a'\]\['b'\]\[1\] has type object, expected"),
        ({"n": np.int64(3)}, TypeError, r"config\['n'\] has type int64, expected"),
        ({"w": np.zeros(3)}, TypeError, r"config\['w'\] has type ndarray, expected"),
        ({"b": b"x"}, TypeError, r"config\['b'\] has type bytes, expected"),
        ({1: 2}, TypeError, "config has the key 1, expected str"),
        ({"a": [{None: 2}]}, TypeError, r"config\['a'\]\[0\] has the key None, expected str"),
        ({"lr": math.nan}, ValueError, r"config\['lr'\] has value nan, expected a finite number"),
        ({"lr": [-math.inf]}, ValueError, r"config\['lr'\]\[0\] has value -inf, expected a finite number"),
        ({"loop": LOOP}, ValueError, "config is nested more than 100 levels deep"),
        ({"a" * 1000: {"b" * 1000: None, "c": object()}}, TypeError, r".*\['c'\] has type object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_configurations_that_json_cannot_hold_are_refused(path, config, error, message):
    with pytest.raises(error, match=f"^save: {message}") as caught:
        checkpoint.save(path, ARRAYS, config)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert_holds(path)


def test_a_configuration_comes_back(path):
    deep: dict = {}
    for _ in range(99):
        deep = {"a": deep}
    config = {
        "": [True, None, -0.0, 1e-320, 10**30, "\udcff"],
        "tuple": (1, (2,)),
        "float": np.float64(0.1),
        "deep": deep,
    }
    checkpoint.save(path, {}, config)
    assert_holds(path, {}, config | {"tuple": [1, [2]]})


def test_arrays_that_change_during_a_save_are_written_as_they_were_at_one_moment(path):
    arrays = {str(i): np.zeros(50_000) for i in range(4)}
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for array in arrays.values():
                array += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            checkpoint.save(path, arrays, {})
            read, config = checkpoint.load(path)  # its checksum would not fit otherwise
            assert (sorted(read), config) == (sorted(arrays), {})
    finally:
        stop.set()
        thread.join()


def test_metadata_says_what_the_file_is(path):
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert list(metadata) == ["bptt"]
    ours = json.loads(metadata["bptt"])
    assert (ours["format_version"], ours["config"]) == (2, CONFIG)


def test_equal_contents_are_equal_files(path):
    first = path.read_bytes()
    for _ in range(5):
        checkpoint.save(path, ARRAYS, CONFIG)
        assert path.read_bytes() == first


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="expected a model written by bptt"):
            checkpoint.load(path)


def test_every_flipped_bit_is_refused_or_harmless(tmp_path):
    path = tmp_path / "model"
    arrays = {"w": np.array([[1, -2]], np.float32), "n": np.array([3], np.int64)}
    config = {"vocabulary": 'aé\n"', "sizes": [1, 0.5]}
    checkpoint.save(path, arrays, config)
    content, harmless = path.read_bytes(), 0
    with path.open("r+b", buffering=0) as file:
        for position in range(len(content)):
            for bit in range(8):
                changed = bytearray(content)
                changed[position] ^= 1 << bit
                file.seek(0)
                file.write(changed)
                try:
                    loaded = checkpoint.load(path)
                except ValueError:
                    continue
                assert_equal(loaded, (arrays, config))
                harmless += 1
    assert harmless < 20  # white space of another kind, another case of the digits in \\u00e9


def test_files_of_format_1_are_read(tmp_path):
    crc = 0
    for name in sorted(ARRAYS):
        crc = zlib.crc32(ARRAYS[name].tobytes(), zlib.crc32(name.encode(), crc))
    for crc32 in (f"{crc:08x}", f"{crc ^ 1:08x}"):
        metadata = {"format_version": 1, "config": CONFIG, "crc32": crc32}
        save_file(ARRAYS, tmp_path / crc32, metadata={"bptt": json.dumps(metadata)})
    assert_holds(tmp_path / f"{crc:08x}")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(tmp_path / f"{crc ^ 1:08x}")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "of another program"),
        ({"format": "pt"}, "of another program"),
        ({"bptt": "{"}, "damaged"),
        ({"bptt": "[]"}, "damaged"),
        ({"bptt": "{}"}, "damaged"),
        ({"bptt": '{"format_version": 3}'}, "format version 3, expected 1 or 2; a newer bptt wrote it"),
        ({"bptt": '{"format_version": [2]}'}, "format version .*, expected 1 or 2"),
        ({"bptt": '{"format_version": 2}'}, "damaged"),
        ({"bptt": '{"format_version": 2, "config": [], "crc32": "0"}'}, "damaged"),
        ({"bptt": '{"format_version": 2, "config": {}}'}, "damaged"),
        ({"bptt": '{"format_version": 1, "config": {}, "crc32": "0"}'}, "damaged"),
        ({"bptt": '{"format_version": 2, "config": {"a": ' + "[" * 500 + "]" * 500 + "}}"}, "damaged"),
        ({"bptt": '{"format_version": 2, "config": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}"}, "damaged"),
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


def test_check_writable_accepts_what_save_can_replace_and_says_what_it_is(path):
    before = path.read_bytes()
    assert checkpoint.check_writable(path) == CONFIG
    assert checkpoint.check_writable(path.parent / "new") is None
    (path.parent / "empty").touch()
    assert checkpoint.check_writable(path.parent / "empty") is None
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
