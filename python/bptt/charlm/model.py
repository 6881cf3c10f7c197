# SPDX-License-Identifier: Apache-2.0
"""A character model and its file: Embedding -> recurrent layers -> Linear. Nothing is trained here."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from bptt import checkpoint, saving
from bptt._arrays import check_number, check_size
from bptt._dispatch import core
from bptt.init import Stored
from bptt.layers import GRU, LSTM, RNN, SLSTM, Dropout, Embedding, Linear, Sequential
from bptt.textdata import Vocabulary

__all__ = ["CELLS", "KERNELS", "Architecture", "CharLM", "architecture_of"]

CELLS: dict[str, Callable[..., Any]] = {
    "lstm": LSTM,
    "gru": GRU,
    "rnn": RNN,
    "slstm": SLSTM,
    "peephole": partial(LSTM, peephole=True),
}
# the names of these cells in core.cells()
KERNELS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh", "slstm": "slstm", "peephole": "lstm_peephole"}
KIND = "charlm"
ADDED = {"dropout"}  # what files have only where it differs from the default: older ones lack it


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model.

    - `cell`: "lstm", "gru", "rnn", "slstm" or "peephole" (an LSTM whose gates see the cell).
    - `hidden`: H units in each of `layers` recurrent layers. `embedding`: numbers per character.
    - `dropout`: p, on the outputs of each recurrent layer in training.

    Raises: ValueError where a size is below 1, dropout is not in [0, 1) or the cell is unknown, TypeError where a size
    is no integer.

    >>> Architecture(hidden=64).parameters(vocabulary=100)
    34532
    """

    cell: str = "lstm"
    hidden: int = 192
    layers: int = 1
    embedding: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes, which may come from a file."""
        if not isinstance(self.cell, str) or self.cell not in CELLS:
            raise ValueError(f"Architecture: cell has {reprlib.repr(self.cell)}, expected one of {', '.join(CELLS)}")
        for name in ("hidden", "layers", "embedding"):
            check_size("Architecture", name, getattr(self, name))
        check_number("Architecture", "dropout", self.dropout, 0.0, 1.0)

    def parameters(self, vocabulary: int) -> int:
        """Return the number of weights for a vocabulary of V characters."""
        cell = core.cell_info(KERNELS[self.cell])
        G, P, H = len(cell.gates), sum(rows for _, rows in cell.vectors), self.hidden
        E, L, V = self.embedding, self.layers, vocabulary
        inputs = E + (L - 1) * H  # of all layers
        return V * E + G * H * (inputs + L * (H + 1)) + L * P * H + V * (H + 1)


@dataclass(frozen=True)
class CharLM:
    """A model and the characters that it knows.

    >>> lm = CharLM.create(Architecture(hidden=8), Vocabulary("abc"), seed=0)
    >>> logits, state = lm.model(np.zeros((5, 2), np.int64))
    >>> logits.shape
    (5, 2, 3)
    """

    architecture: Architecture
    vocabulary: Vocabulary
    model: Sequential

    @classmethod
    def create(cls, architecture: Architecture, vocabulary: Vocabulary, seed: int = 0) -> CharLM:
        """Return a new model with random weights; the same seed gives the same weights everywhere."""
        H, V = architecture.hidden, len(vocabulary)
        L, p = architecture.layers, architecture.dropout
        # one independent seed per layer: equal seeds would make layers of equal shape start as copies of each other
        seeds = np.random.SeedSequence(seed).generate_state(2 * L + 2).tolist()
        hidden: list[Any] = []
        for size, s, s_dropout in zip(
            [architecture.embedding] + [H] * (L - 1), seeds[2:], seeds[2 + L :], strict=False
        ):
            hidden.append(CELLS[architecture.cell](size, H, seed=s))
            if p:
                hidden.append(Dropout(p, seed=s_dropout))
        embedding = Embedding(V, architecture.embedding, seed=seeds[0])
        return cls(architecture, vocabulary, Sequential(embedding, *hidden, Linear(H, V, seed=seeds[1])))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file (see `checkpoint.save`), which `bptt.load` reads as well.

        Raises: OSError where the file cannot be written; FloatingPointError where a weight is NaN or infinite.
        """
        sizes = asdict(self.architecture)
        config = {
            "kind": KIND,
            "architecture": {name: size for name, size in sizes.items() if size or name not in ADDED},
            "vocabulary": self.vocabulary.characters,
            "model": saving.structure_of(self.model),
        }
        saving.check_finite("CharLM.save", self.model)
        checkpoint.save(path, self.model.params, config)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CharLM:
        """Return the model in a file that `save` wrote; OSError or ValueError (one line) for any other file."""
        arrays, config = checkpoint.load(path)
        try:
            architecture = architecture_of(config)
            characters: Any = config.get("vocabulary")
            vocabulary = Vocabulary(characters)
            # before the model is built, since sizes from a file must not allocate more than the file holds
            if architecture.parameters(len(vocabulary)) != sum(array.size for array in arrays.values()):
                raise ValueError("its sizes differ from its arrays")
            lm = cls.create(architecture, vocabulary)
            Stored(arrays).fill("CharLM.load", lm.model.params)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} has no usable character model ({error}), expected a file from 'bptt train'"
            ) from error
        return lm


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture in the configuration of a file that `CharLM.save` wrote.

    Raises: TypeError or ValueError for any other configuration.

    >>> architecture_of({"kind": "charlm", "architecture": {"cell": "gru", "hidden": 8, "layers": 1, "embedding": 4}})
    Architecture(cell='gru', hidden=8, layers=1, embedding=4, dropout=0.0)
    """
    if config.get("kind") != KIND:
        raise ValueError(f"its kind is {reprlib.repr(config.get('kind'))}, expected {KIND!r}")
    sizes = config.get("architecture")
    names = [field.name for field in fields(Architecture) if field.name not in ADDED]
    if not isinstance(sizes, dict) or set(names) - set(sizes) or set(sizes) - set(names) - ADDED:
        raise ValueError(f"its architecture is {reprlib.repr(sizes)}, expected {', '.join(names)}")
    return Architecture(**sizes)
