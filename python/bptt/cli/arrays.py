# SPDX-License-Identifier: Apache-2.0
"""The arrays of an .npz file, as numpy.savez writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["read_arrays"]


def read_arrays(path: str, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Array]:
    """Return the arrays of these names; nothing in the file is executed.

    Raises: OSError where the file cannot be read; ValueError where it is no .npz file of numbers or lacks an array.
    """
    expected = f"expected an .npz file with the arrays {' and '.join(needed)}"
    try:
        opened = np.load(path, allow_pickle=False)
    except OSError as error:
        why = error.strerror or "not an .npz file"
        raise type(error)(f"cannot read {path!r} ({why}), {expected}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path!r} is no .npz file, {expected}") from error
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError(f"{path!r} has one array without a name, {expected}")
    with opened as file:
        missing = [name for name in needed if name not in file.files]
        if missing:
            raise ValueError(f"{path!r} has {', '.join(file.files) or 'no array'}, {expected}")
        try:
            found = {name: file[name] for name in (*needed, *optional) if name in file.files}
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"{path!r} is damaged or holds objects, {expected}, padded by bptt.data.pad where lengths differ"
            ) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # numpy returns the bytes of a member that is no array
            raise ValueError(f"{path!r} has bytes in place of the array {name}, {expected}")
    return found
