# SPDX-License-Identifier: Apache-2.0
"""`bptt train --resume`: the training state beside a model, and whether it is that of the same command.

`fit` keeps and reads the state (its `resume`). Here the options of the command are kept in it, by a callback.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from bptt.callbacks import Callback

if TYPE_CHECKING:
    from bptt.textdata import Ids, Vocabulary
    from bptt.train.state import SavedRun

__all__ = ["Options", "saved"]

TEXT = "text"  # the option of that name is a checksum


class Options(Callback):
    """Keeps the options of the command, by name, in the training state."""

    def __init__(self, options: dict[str, Any], vocabulary: Vocabulary, ids: Ids) -> None:
        text = zlib.crc32(ids.data, zlib.crc32(vocabulary.characters.encode("utf-8", "surrogatepass")))
        self.options = {**options, TEXT: text}

    def state_dict(self) -> dict[str, Any]:
        """The options."""
        return {"options": self.options}

    def check(self, run: SavedRun, path: str) -> None:
        """Raise ValueError where a run has other options."""
        theirs = run.callbacks.get(type(self).__name__, {}).get("options")
        if not isinstance(theirs, dict):
            raise ValueError(f"{path!r} is the training state of another program, expected one of 'bptt train'")
        name = next((name for name in self.options if theirs.get(name) != self.options[name]), None)
        where = f"as in {path!r}, or that file removed to begin again"
        if name == TEXT:
            raise ValueError(f"this run has another text, expected the one {where}")
        if name is not None:
            has, expected = (_shown(options.get(name)) for options in (self.options, theirs))
            raise ValueError(f"this run has {name} {has}, expected {expected} {where}")


def saved(path: str) -> SavedRun | None:
    """The run whose state is in this file; None where there is no file. ValueError for any other file."""
    from bptt import checkpoint
    from bptt.train.state import saved_run

    config = checkpoint.check_writable(path)
    return None if config is None else saved_run(path, config)


def _shown(value: Any) -> str:
    return "its default" if value is None else str(value)
