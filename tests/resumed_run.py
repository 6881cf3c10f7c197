# SPDX-License-Identifier: Apache-2.0
"""A run of fit in a process that may be killed any time, for test_resume.py: `python resumed_run.py FOLDER EPOCHS`.

It has all that a training state must keep: dropout of two kinds, moments, a carried state, windows that overlap, a data
source that draws, a learning rate that a callback changes, best weights, and a log.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bptt
from bptt.callbacks import CSVLogger, EarlyStopping, ReduceLROnPlateau

BATCHES, EPOCHS = 5, 3  # 20 updates in each epoch


class Drawn:
    """Batches that are other ones in each epoch, drawn from one seed."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(BATCHES):
            x = self._rng.standard_normal((10, 4, 3))
            yield x, np.cumsum(x[:, :, :2], 0)

    def __len__(self) -> int:
        return BATCHES


def run(
    folder: Path, save_every: int | None = None, epochs: int = EPOCHS, **options: Any
) -> tuple[bptt.Sequential, bptt.History]:
    """Begin the run, or go on with it."""
    model = bptt.Sequential(
        bptt.LSTM(3, 6, num_layers=2, dropout=0.2, zoneout=0.1, seed=1), bptt.Dropout(0.1, seed=2), bptt.Linear(6, 2)
    )
    with model.params.edit() as p:
        p["2.weight"][...] = 0.1
    rng = np.random.default_rng(9)
    x = rng.standard_normal((10, 8, 3))
    history = bptt.fit(
        model,
        Drawn(),
        loss=bptt.losses.mse,
        optimizer=bptt.optim.Adam(0.02, clip_norm=1.0),
        epochs=epochs,
        tbptt=(3, 5),
        stateful=True,
        validation=(x, np.cumsum(x[:, :, :2], 0)),
        validate_every=5,
        metric=lambda y, target: float(np.abs(y - target).max()),
        callbacks=[
            EarlyStopping(4 if epochs == EPOCHS else 1000),
            ReduceLROnPlateau(0.5, 1),
            CSVLogger(folder / "run.csv"),
        ],
        history=folder / "run.jsonl",
        resume=folder / "state.safetensors",
        save_every=save_every,
        save_every_s=None,
        **options,
    )
    return model, history


if __name__ == "__main__":
    told = {"on_step": lambda step: print(step.number, flush=True)}  # a line for each update, before it is saved
    trained, table = run(Path(sys.argv[1]), save_every=1, epochs=int(sys.argv[2]), **told)
    np.save(Path(sys.argv[1], "weights.npy"), np.asarray(trained.params.flat))
    print("ends", len(table), flush=True)
