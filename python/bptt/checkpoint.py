# SPDX-License-Identifier: Apache-2.0
"""Named arrays and a configuration in one safetensors file; an interrupted save never costs the old file.

Knows nothing of models. The file's metadata have one entry, `bptt`, a JSON object: `format_version`, `config` (what is
needed to build the model again) and `crc32` over the arrays. One entry, because safetensors writes several in random
order: this way equal models are equal files.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

__all__ = ["check_writable", "load", "save"]

FORMAT = "bptt"  # the metadata's key
FORMAT_VERSION = 1

Arrays = Mapping[str, NDArray[Any]]


def save(path: str | os.PathLike[str], arrays: Arrays, config: Mapping[str, Any]) -> None:
    """Write `arrays` and `config` to `path`, whole or not at all.

    A temporary file in the same directory is written, flushed to the disk (fsync), renamed over `path`, and the
    directory flushed. A full disk or an interruption leaves the old file as it was and no temporary file behind.
    A symbolic link is followed: the file it points to is replaced.

    - `arrays`: name -> ndarray of any shape and strides. `config`: anything that JSON can hold.

    Raises: OSError where the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save(path, {"w": np.arange(3.0)}, {"cell": "gru"})
    >>> load(path)
    ({'w': array([0., 1., 2.])}, {'cell': 'gru'})
    """
    # safetensors 0.8.0 writes the bytes of a non-contiguous array in the wrong order
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"format_version": FORMAT_VERSION, "config": config, "crc32": _checksum(arrays)}
    payload = serialize(dict(arrays), metadata={FORMAT: json.dumps(metadata)})
    with _writing(path) as (target, temporary):
        with open(temporary, "xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_directory(target.parent)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the configuration that `save` wrote.

    Raises: OSError where the file cannot be read; ValueError where it is damaged, not from bptt or of a later format.

    >>> load("no such file")
    Traceback (most recent call last):
    FileNotFoundError: cannot read 'no such file' (No such file or directory), expected a model written by bptt
    """
    name = repr(os.fspath(path))
    try:
        Path(path).open("rb").close()  # safe_open reports every failure in its own words; this one in the system's
        with safe_open(path, "np") as file:
            metadata = _known_metadata(name, file.metadata())
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        why = error.strerror or "not a regular file"
        raise type(error)(f"cannot read {name} ({why}), expected a model written by bptt") from error
    except SafetensorError as error:
        raise ValueError(f"{name} is damaged or not a safetensors file, expected a model written by bptt") from error
    config = metadata.get("config")
    if not isinstance(config, dict) or metadata.get("crc32") != _checksum(arrays):
        raise ValueError(f"{name} is damaged (its checksum differs), expected an unchanged model written by bptt")
    return arrays, config


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before hours of training, whether `save` could write `path`; nothing is changed.

    A file that already stands there must be a checkpoint of ours (or empty): nobody's text is overwritten by mistake.

    Raises: OSError where the directory is missing or cannot be written; ValueError where `path` is something else.

    >>> check_writable("no/such/directory/model.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: cannot write 'no/such/directory/model.safetensors' (No such file or directory), expected ...
    """
    name = repr(os.fspath(path))
    with _writing(path) as (target, temporary):
        if target.exists() and not target.is_file():
            raise ValueError(f"{name} is not a regular file, expected a file name such as 'model.safetensors'")
        if target.exists():
            os.close(os.open(target, os.O_WRONLY))  # the rename would also replace a file that is write-protected
        temporary.touch(exist_ok=False)
    if target.exists() and target.stat().st_size > 0:
        try:
            with safe_open(target, "np") as file:
                _known_metadata(name, file.metadata())
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(
                f"{name} exists and is not a model written by bptt, expected another name: it would be overwritten"
            ) from error


@contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """Yield the file that `path` means and a temporary one beside it; remove the latter and explain what fails."""
    target = Path(os.path.realpath(path))
    # a name of its own, not the target's plus a suffix: that could be too long for the file system
    temporary = target.parent / f".bptt-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        yield target, temporary
    except OSError as error:
        why = error.strerror or str(error)
        raise type(error)(
            f"cannot write {os.fspath(path)!r} ({why}), expected a writable directory with enough room"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _known_metadata(name: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    if FORMAT not in (metadata or {}):
        raise ValueError(f"{name} is a safetensors file of another program, expected a model written by bptt")
    try:
        ours = json.loads((metadata or {})[FORMAT])
        version = ours["format_version"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{name} is damaged, expected a model written by bptt") from None
    if version != FORMAT_VERSION:
        raise ValueError(f"{name} has format version {version}, expected {FORMAT_VERSION}; another bptt wrote it")
    return dict(ours)


def _checksum(arrays: Arrays) -> str:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":  # a directory cannot be opened on Windows
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
