# SPDX-License-Identifier: Apache-2.0
"""Watches gradients and gates during `fit`, on one batch, for at most 3 % of the time, or another share."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import check_number
from bptt._engine.lengths import within
from bptt.insight.facts import Record
from bptt.insight.flow import norms_of
from bptt.insight.kernel import trajectories
from bptt.insight.run import Run, kernel_names
from bptt.insight.units import saturation_of
from bptt.train.hooks import Callback

if TYPE_CHECKING:
    from pathlib import Path

    from bptt._arrays import ArrayIn
    from bptt.train.history import Step
    from bptt.train.hooks import Run as Fit
    from bptt.train.model_and_loss import Loss, Model

SHARE = 0.03  # of the time that `fit` takes


class Watch(Callback):
    """What `watch` returns: a callback of `fit` that keeps `records`."""

    def __init__(
        self, model: Model, x: ArrayIn, target: Any, loss: Loss, lengths: ArrayIn | None = None, share: float = SHARE
    ) -> None:
        self._model, self._batch = model, (x, target, loss, lengths)
        self._share = check_number("watch", "share", share)
        self.records: list[Record] = []
        self.spent_s = 0.0  # inside calls of a `fit`
        self.watched_s = 0.0  # that such runs took
        self._updates = 0
        self._last = 0.0  # when `fit` began, or made its last update
        self._longest_s = 0.0
        for _ in range(2):  # the first one includes imports and new memory
            begin = perf_counter()
            self.records = [self._record()]
            self._longest_s = perf_counter() - begin

    def on_train_begin(self, run: Fit) -> None:
        """The time between two runs is not counted."""
        self._last = perf_counter()

    def on_step(self, run: Fit, step: Step) -> None:
        """A new record, if there is time for it."""
        now = perf_counter()
        self._updates += 1
        self.watched_s += now - self._last
        if self.spent_s + self._longest_s <= self._share * self.watched_s:
            self.records.append(self._record())
            taken = perf_counter() - now
            self.spent_s += taken
            self._longest_s = max(self._longest_s, taken)
        self._last = now

    def on_train_end(self, run: Fit) -> None:
        """The last record, so that a short run has one before and one after."""
        if self.records[-1].update != self._updates:
            self.records.append(self._record())

    def to_dict(self) -> dict[str, Any]:
        """All records as plain values of Python."""
        return {
            "records": [
                {
                    "update": each.update,
                    "loss": each.loss,
                    "norms": {name: norm.tolist() for name, norm in each.norms.items()},
                    "saturation": {name: list(shares) for name, shares in each.saturation.items()},
                }
                for each in self.records
            ]
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """Norms over updates and time steps, and saturated shares. Returns matplotlib's Figure.

        Raises: ModuleNotFoundError without matplotlib, which the extra `plot` installs.
        """
        from bptt.insight.pictures import watch_picture

        return watch_picture(self.records, path)

    def __repr__(self) -> str:
        return f"Watch({len(self.records)} records in {self._updates} updates)"

    def _record(self) -> Record:
        run = Run("watch", self._model, *self._batch)
        inside = within(np.full(run.B, run.T) if run.lengths is None else run.lengths, run.T)
        saturation: dict[str, tuple[float, float]] = {}
        for part in run.parts:
            names = kernel_names(part.number, part.layer)
            for name, (kernel, path) in zip(names, trajectories(part.layer, part.x, None, run.lengths), strict=True):
                found = saturation_of(kernel, path, inside) if inside.any() else {}
                saturation |= {f"{name}.{gate}": shares for gate, shares in found.items()}
        return Record(self._updates, run.loss, norms_of(run, run.steps(run.dy)), saturation)


def watch(
    model: Model, x: ArrayIn, target: Any, loss: Loss, lengths: ArrayIn | None = None, *, share: float = SHARE
) -> Watch:
    """Watch gradients and gates while `fit` trains a model: `fit(..., callbacks=[watch(model, x, target, loss)])`.

    It runs the model on one batch from time to time, on a copy, and keeps the norm of every state's gradient at every
    time step and the saturated share of every gate. A record is made before training, at the end, and between whenever
    all of them take less than a share of the time that `fit` has taken so far.

    Args: as of `gradient_flow`; the batch, which should be small, stays the same, so that records can be compared.
        share: of the time, 0.03 by default. A short run has few records then; `share=1` gives it many more.
    Returns: `Watch`, with `.records`, `.to_dict()` and `.plot(path)`.
    Raises: TypeError and ValueError for arguments that do not fit.

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.GRU(2, 4, seed=0), bptt.Linear(4, 1, seed=0))
    >>> x = np.random.default_rng(0).standard_normal((20, 4, 2))
    >>> watched = watch(model, x, x[:, :, :1], bptt.losses.mse)
    >>> options = {"loss": bptt.losses.mse, "optimizer": bptt.optim.Adam(1e-2), "epochs": 20}
    >>> history = bptt.fit(model, [(x, x[:, :, :1])], **options, callbacks=[watched])
    >>> watched.records[0].update, watched.records[0].norms["0.h"].shape, sorted(watched.records[0].saturation)
    (0, (20,), ['0.n', '0.r', '0.z'])
    """
    return Watch(model, x, target, loss, lengths, share)
