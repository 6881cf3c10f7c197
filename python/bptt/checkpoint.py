# SPDX-License-Identifier: Apache-2.0
"""Named arrays and a configuration in one safetensors file; an interrupted save leaves the old file as it was.

Knows nothing of models. The file's metadata have one entry, `bptt`, a JSON object: `format_version`, `config` (what is
needed to build the model again) and `crc32`. It is one entry because safetensors writes several in random order; so
equal models give equal files.

Format 2: the checksum covers the configuration and the names, dtypes, shapes and bytes of the arrays.
Format 1 (read, no longer written): the checksum covers the names and bytes of the arrays, not the configuration.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from bptt._arrays import brief
from bptt._atomic_file import check_replaceable, replace_file

__all__ = ["check_writable", "load", "put_together", "save", "taken_apart"]

FORMAT = "bptt"  # the metadata's key
FORMAT_VERSION = 2
DTYPES = "bool, int8 to int64, uint8 to uint64, float16, float32 or float64"
_ARRAY = "$array"  # the key of what stands for an array in a configuration
MAX_DEPTH = 100  # of lists and objects in a configuration, since JSON readers have a limit

Arrays = Mapping[str, NDArray[Any]]


def save(path: str | os.PathLike[str], arrays: Arrays, config: Mapping[str, Any]) -> None:
    """Write `arrays` and `config` to `path`, completely or not at all.

    All arrays are copied first, so that other threads may change them while the file is written. (A change during the
    copy can be in the file in part, as in any copy.)

    A temporary file in the same directory is written, flushed to the disk (fsync) and renamed over `path`; then the
    directory is flushed. A full disk or an interruption leaves the old file as it was and no temporary file. The next
    save in that directory removes temporary files of killed processes (on POSIX systems). A replaced file keeps its
    permission bits and, where the system allows it, its owner and group. Symbolic links are followed.

    - `arrays`: name -> ndarray of any shape, strides and byte order; bool, integers, float16, float32 or float64.
    - `config`: what JSON can hold: str keys; dict, list, str, int, finite float, bool, None. A tuple becomes a list.

    Raises: OSError where the file cannot be written; TypeError or ValueError for arrays, names and configurations that
    could not be loaded unchanged.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save(path, {"w": np.arange(3.0)}, {"cell": "gru"})
    >>> load(path)
    ({'w': array([0., 1., 2.])}, {'cell': 'gru'})
    """
    for name, value in (("arrays", arrays), ("config", config)):
        if not isinstance(value, Mapping):
            raise TypeError(f"save: {name} has type {type(value).__name__}, expected a mapping")
    settings = _plain(config, "config")
    snapshot = {_checked_name(name): _snapshot(name, array) for name, array in arrays.items()}
    metadata = {"format_version": FORMAT_VERSION, "config": settings, "crc32": _checksum(snapshot, settings)}
    try:
        payload = serialize(snapshot, metadata={FORMAT: json.dumps(metadata)})
    except SafetensorError as error:
        raise ValueError(f"save: {error}, expected shorter names and a shorter config") from error
    replace_file(path, payload)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the configuration that `save` wrote.

    A changed file is refused. (The check of format 1 is weaker: it misses a changed configuration, dtype or shape.
    Saving such a file again gives it the full check.)

    Raises: OSError where the file cannot be read; ValueError where it is damaged, not from bptt or of a later format.

    >>> load("no such file")
    Traceback (most recent call last):
    FileNotFoundError: cannot read 'no such file' (No such file or directory), expected a model written by bptt
    """
    name = repr(os.fspath(path))
    if Path(path).is_fifo():  # open would wait for a writer
        raise ValueError(f"{name} is a pipe, expected a file: a model written by bptt")
    try:
        Path(path).open("rb").close()  # for the system's own error message, which safe_open replaces
        with safe_open(path, "np") as file:
            metadata = _known_metadata(name, file.metadata())
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        why = error.strerror or "not a regular file"
        raise type(error)(f"cannot read {name} ({why}), expected a model written by bptt") from error
    except SafetensorError as error:
        raise ValueError(f"{name} is damaged or not a safetensors file, expected a model written by bptt") from error
    config = metadata["config"]
    expected = _checksum_1(arrays) if metadata["format_version"] == 1 else _checksum(arrays, config)
    if metadata.get("crc32") != expected:
        raise ValueError(f"{name} is damaged (its checksum differs), expected an unchanged model written by bptt")
    return arrays, config


def check_writable(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Check, before hours of training, whether `save` could write `path`; nothing is changed.

    An existing file must be a checkpoint of bptt or empty, so that no other file is overwritten by mistake.
    Returns: the configuration of the checkpoint that `save` would replace; None where there is none.

    Raises: OSError where the directory is missing or cannot be written; ValueError where `path` is something else.

    >>> check_writable("no/such/directory/model.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: cannot write 'no/such/directory/model.safetensors' (No such file or directory), expected ...
    """
    name = repr(os.fspath(path))
    check_replaceable(path)
    if not Path(path).exists() or Path(path).stat().st_size == 0:
        return None
    try:
        with safe_open(path, "np") as file:
            config: dict[str, Any] = _known_metadata(name, file.metadata())["config"]
            return config
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"{name} exists and is not a model that this bptt reads, expected another name: it would be overwritten"
        ) from error


def taken_apart(value: Any, name: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Return a nested value in JSON's types, and its arrays, whose names are "name.0", "name.1" and so on.

    {"$array": its name} stands in the place of an array. A tuple becomes a list, a scalar of NumPy one of Python.
    TypeError or ValueError names an entry that no file can hold. `put_together` is the inverse.

    >>> taken_apart({"mean": np.ones(2), "of": ["sun", 3]}, "extra")
    ({'mean': {'$array': 'extra.0'}, 'of': ['sun', 3]}, {'extra.0': array([1., 1.])})
    """
    arrays: dict[str, NDArray[Any]] = {}

    def place(array: NDArray[Any]) -> dict[str, str]:
        arrays[f"{name}.{len(arrays)}"] = array
        return {_ARRAY: f"{name}.{len(arrays) - 1}"}

    return _plain(value, name, place), arrays


def put_together(value: Any, arrays: Mapping[str, Any]) -> Any:
    """Return the value that `taken_apart` took apart; KeyError or TypeError where an array is missing."""
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: put_together(each, arrays) for key, each in value.items()}
    if isinstance(value, list):
        return [put_together(each, arrays) for each in value]
    return value


def _plain(value: Any, where: str, place: Callable[[NDArray[Any]], Any] | None = None, depth: int = 0) -> Any:
    """A copy in JSON's types; TypeError or ValueError names an entry that has none. place: returns what stands for an
    array; None where there may be no array.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"save: config is nested more than {MAX_DEPTH} levels deep, expected less")
    if place is not None and isinstance(value, np.ndarray):
        return place(value)
    if place is not None and isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"save: {where} has the key {brief(key)}, expected str keys")
            if place is not None and key == _ARRAY:
                raise ValueError(f"save: {where} has the key {_ARRAY!r}, expected another: it stands for an array")
        return {key: _plain(each, _entry(where, key), place, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, _entry(where, i), place, depth + 1) for i, each in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"save: {where} has value {value}, expected a finite number")
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"save: {where} has type {type(value).__name__}, expected a JSON type")
    return value


def _entry(where: str, key: str | int) -> str:
    name = f"{where}[{brief(key)}]"
    return name if len(name) < 80 else f"...{name[-77:]}"


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"save: arrays has the name {brief(name)}, expected str")
    if name == "__metadata__":
        raise ValueError("save: arrays has the name '__metadata__', expected another: safetensors reserves it")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"save: arrays has the name {brief(name)}, expected valid Unicode") from None
    return name


def _snapshot(name: str, array: Any) -> NDArray[Any]:
    """Return a copy in row-major order and little-endian bytes; safetensors 0.8.0 writes the bytes in memory order."""
    copy = np.array(array, order="C")
    if copy.dtype.kind not in "biuf" or copy.dtype.itemsize > 8:
        raise TypeError(f"save: array {brief(name)} has dtype {copy.dtype}, expected {DTYPES}")
    return copy.astype(copy.dtype.newbyteorder("<"), copy=False)


def _known_metadata(name: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    if FORMAT not in (metadata or {}):
        expected = "expected a model written by bptt; load_state_dict takes arrays alone"
        raise ValueError(f"{name} is a safetensors file of another program, {expected}")
    try:
        ours = json.loads((metadata or {})[FORMAT])
        version = ours["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{name} is damaged, expected a model written by bptt") from None
    if version not in (1, FORMAT_VERSION):
        other = "a newer" if isinstance(version, int) and version > FORMAT_VERSION else "another"
        has = f"{name} has format version {brief(version)}"
        raise ValueError(f"{has}, expected 1 or {FORMAT_VERSION}; {other} bptt wrote it and reads it")
    if not isinstance(ours.get("config"), dict):
        raise ValueError(f"{name} is damaged, expected a model written by bptt")
    return dict(ours)


def _checksum(arrays: Arrays, config: Mapping[str, Any]) -> str:
    """The CRC-32 over the configuration, and names, dtypes, shapes and bytes of the arrays in the order of names."""
    described = [[name, arrays[name].dtype.name, arrays[name].shape] for name in sorted(arrays)]
    crc = zlib.crc32(json.dumps([config, described], sort_keys=True).encode())
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].data, crc)
    return f"{crc:08x}"


def _checksum_1(arrays: Arrays) -> str:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"
