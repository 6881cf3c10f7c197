# SPDX-License-Identifier: Apache-2.0
"""The training loop, with truncated backpropagation through time.

Each update is: forward, loss, backward, optimizer step. Nothing is computed here, and nothing happens between two
updates that a stop or an interrupt could leave half done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from bptt._arrays import as_array, as_mask, check_size, check_tuple
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt.optim import Optimizer

    Batch = tuple[ArrayIn, ...]  # x, target, or x, target, mask
    Loss = Callable[..., tuple[float, Array]]

__all__ = ["History", "Step", "fit"]


class Step(NamedTuple):
    """One update: its number from 0, its epoch from 0, the loss, the gradient's norm, whether it was clipped."""

    number: int
    epoch: int
    loss: float
    grad_norm: float
    clipped: bool


class History:
    """What happened in a run, update by update: lists of equal length, and whether `on_step` stopped it.

    >>> history = History()
    >>> history.append(Step(0, 0, 1.5, 2.0, False))
    >>> len(history), history.loss
    (1, [1.5])
    """

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.grad_norm: list[float] = []
        self.clipped: list[bool] = []
        self.stopped = False

    def append(self, step: Step) -> None:
        """Add one update."""
        self.loss.append(step.loss)
        self.grad_norm.append(step.grad_norm)
        self.clipped.append(step.clipped)

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        last = f", last loss {self.loss[-1]:.4g}" if self.loss else ""
        return f"History({len(self)} steps{last})"


def fit(
    model: Sequential | Recurrent,
    batches: Iterable[Batch],
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int = 1,
    tbptt: int | tuple[int, int] | None = None,
    stateful: bool = False,
    progress: bool = False,
    on_step: Callable[[Step], object] | None = None,
) -> History:
    """Train `model`, one update per batch, or per chunk of a batch.

        y, state = model(x, state);   loss, dy = loss(y, target);   grads = backward(dy);   step(params, grads)

    Args:
        model: a `Sequential` or one recurrent layer.
        batches: of (x, target) or (x, target, mask), arrays [T,B,...] ([B,T,...] with batch_first). Gone through once
            per epoch, so that epochs > 1 need more than an iterator.
        loss: function of (y, target) or (y, target, mask) -> (value, dy), such as `bptt.losses.cross_entropy`.
        optimizer: `bptt.optim.SGD` or `Adam`.
        epochs: default 1.
        tbptt: (k1, k2), k2 >= k1: an update every k1 time steps, whose loss is that of these k1 steps (the last may be
            fewer) and whose gradient goes back over the last k2. Where k2 > k1 the steps before these k1 are run again,
            from the state k2 steps ago, which went there by the parameters of its time. k alone means (k, k): the state
            goes from chunk to chunk, the gradient does not. Default None: whole sequences, as is (T, T); (k, T) is the
            full gradient of each k steps' loss. Steps that are masked altogether move the state and make no update.
        stateful: whether the state also goes from batch to batch of an epoch, which makes them one long stream for each
            row; default False: each batch starts from zeros.
        progress: whether to show a bar on stderr, default False.
        on_step: called with a `Step` after each update; a true return value stops the run.

    Returns: `History`.
    Raises: what the layers, the loss and the optimizer raise; KeyboardInterrupt. The model is then as the last whole
        update left it.
    Source: Williams & Peng 1990 (truncated backpropagation through time, BPTT(k2; k1)).

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.RNN(1, 8, seed=0), bptt.Linear(8, 1, seed=0))
    >>> x = np.sin(np.arange(64.0)).reshape(64, 1, 1)
    >>> adam = bptt.optim.Adam(1e-2)
    >>> history = fit(model, [(x[:-1], x[1:])], loss=bptt.losses.mse, optimizer=adam, epochs=50, tbptt=21)
    >>> len(history), history.loss[-1] < 0.1 * history.loss[0]
    (150, True)
    """
    if not isinstance(model, (Sequential, Recurrent)):
        raise TypeError(f"fit: model has type {type(model).__name__}, expected a Sequential or a recurrent layer")
    if check_size("fit", "epochs", epochs) > 1 and iter(batches) is batches:
        raise ValueError("fit: batches is an iterator, which ends after one epoch, expected a list or other iterable")
    k = _window(tbptt)
    history = History()
    bar = _bar() if progress else None
    try:
        for step in _updates(model, batches, loss, optimizer, epochs, k, stateful):
            history.append(step)
            if bar is not None:
                bar.set_postfix(epoch=step.epoch, loss=f"{step.loss:.4f}", norm=f"{step.grad_norm:.3g}", refresh=False)
                bar.update()
            if on_step is not None and on_step(step):
                history.stopped = True
                break
    finally:
        if bar is not None:
            bar.close()
    return history


def _window(tbptt: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(k1, k2), checked."""
    if tbptt is None:
        return None
    pair = check_tuple("fit", "tbptt", tbptt, 2, "k or (k1, k2)") if isinstance(tbptt, (tuple, list)) else (tbptt,) * 2
    k1, k2 = (check_size("fit", "tbptt", k) for k in pair)
    if k2 < k1:
        raise ValueError(f"fit: tbptt has value ({k1}, {k2}), expected k2 >= k1: every step belongs to one loss")
    return k1, k2


def _updates(
    model: Sequential | Recurrent,
    batches: Iterable[Batch],
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    window: tuple[int, int] | None,
    stateful: bool,
) -> Iterator[Step]:
    """Do one update after the other."""
    axis = 1 if model.batch_first else 0
    grads = model.params.zeros_like()  # one for all updates: fresh memory for each costs its page faults
    k1, k2 = window or (None, None)
    number = 0
    for epoch in range(epochs):
        state: Any = None  # before the steps that are still seen
        for batch in batches:
            state = state if stateful else None
            seen: Any = None  # the steps of the window before, where they are run again
            for chunk in _chunks(batch, k1, axis):
                new, *rest = cast("tuple[Any, ...]", chunk)
                x = new if seen is None else np.concatenate([seen, new], axis=axis)
                if k2 is not None and x.shape[axis] > k2:
                    past = x.shape[axis] - k2
                    state = model(_first(x, past, axis), state)[1]
                    x = _last(x, k2, axis)
                again = k1 != k2
                seen = x if again else None
                if len(rest) > 1 and not as_mask("fit", "mask", rest[1]).any():
                    state = state if again else model(x, state)[1]
                    continue
                y, after, tape = model.forward(x, state)
                state = state if again else after
                value, dy = loss(_last(y, new.shape[axis], axis) if again else y, *rest)
                if again:
                    dy = np.concatenate([np.zeros_like(_first(y, y.shape[axis] - dy.shape[axis], axis)), dy], axis=axis)
                model.backward(tape, dy, grads=grads)
                info = optimizer.step(model.params, grads)
                yield Step(number, epoch, value, info.grad_norm, info.clipped)
                number += 1
            if seen is not None and stateful:
                state = model(seen, state)[1]


def _first(x: Any, n: int, axis: int) -> Any:
    return x[(slice(None),) * axis + (slice(0, n),)]


def _last(x: Any, n: int, axis: int) -> Any:
    return x[(slice(None),) * axis + (slice(x.shape[axis] - n, None),)]


def _chunks(batch: Batch, k: int | None, axis: int) -> Iterator[Batch]:
    """The batch, cut along the time axis into pieces of k steps."""
    length = 3 if isinstance(batch, (tuple, list)) and len(batch) == 3 else 2
    batch = check_tuple("fit", "batch", batch, length, "(x, target) or (x, target, mask)")
    if k is None:
        yield batch
        return
    arrays = [as_array("fit", name, part) for name, part in zip(("x", "target", "mask"), batch, strict=False)]
    lengths = [array.shape[axis] if array.ndim > axis else None for array in arrays]
    if None in lengths or len(set(lengths)) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"fit: batch has shapes {shapes}, expected one length along the time axis {axis}")
    for start in range(0, arrays[0].shape[axis], k):
        cut = (slice(None),) * axis + (slice(start, start + k),)
        yield tuple(array[cut] for array in arrays)


def _bar() -> Any:
    from tqdm import tqdm  # here, since it costs more to import than all of bptt

    return tqdm(unit="step")
