# SPDX-License-Identifier: Apache-2.0
"""The model that a command reads: what kind of file it is, and what the commands `info` and `diagnose` need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["CHARACTERS", "FORECASTER", "MODEL", "STATE", "ModelFile"]

CHARACTERS, FORECASTER, MODEL, STATE = "character model", "forecaster", "model", "training state"


@dataclass(frozen=True)
class ModelFile:
    """A file of bptt: its arrays and its configuration, as `checkpoint.load` returns them."""

    path: str
    arrays: dict[str, Array]
    config: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> ModelFile:
        """Read a file; OSError or ValueError (one line) for any other file."""
        from bptt import checkpoint

        return cls(path, *checkpoint.load(path))

    @property
    def kind(self) -> str:
        """One of the constants of this module; ValueError for a file that none of them describes."""
        from bptt.charlm.model import KIND
        from bptt.forecasting.model import KEY
        from bptt.train import state

        if state.KEY in self.config:
            return STATE
        if self.config.get("kind") == KIND:
            return CHARACTERS
        if "model" not in self.config:
            raise ValueError(f"{self.path!r} holds no model, expected a file of 'bptt train' or bptt.save")
        return FORECASTER if isinstance(self.extra.get(KEY), dict) else MODEL

    @property
    def extra(self) -> dict[str, Any]:
        """What was saved with the model, by name."""
        extra = self.config.get("extra")
        return extra if isinstance(extra, dict) else {}
