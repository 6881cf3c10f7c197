# SPDX-License-Identifier: Apache-2.0
"""The training loop, with truncated backpropagation through time.

An update is: forward, loss, backward, optimizer step. Nothing is computed here, and nothing between two updates could
be left half done by a stop or an interrupt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from bptt._arrays import check_bool, check_size, check_tuple, is_number, kind_of
from bptt.batch import Batch, Steps
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt._engine.tape import Tape
    from bptt.optim import Optimizer, StepInfo

    BatchIn: TypeAlias = Batch | tuple[Any, ...] | list[Any]
    Loss: TypeAlias = Callable[..., tuple[float, Array]]

__all__ = ["History", "Step", "StopTraining", "fit"]


class Step(NamedTuple):
    """One update: its number from 0, its epoch from 0, the loss, the gradient's norm, whether it was clipped.

    `targets` is the number of targets in the loss, one for each step of a row that counts.
    """

    number: int
    epoch: int
    loss: float
    grad_norm: float
    clipped: bool
    targets: int


class StopTraining(Exception):  # noqa: N818 (a request, like StopIteration)
    """Raised by `on_step` to end `fit` after the update it was called for.

    >>> import numpy as np, bptt
    >>> def on_step(step):
    ...     if step.number == 2:
    ...         raise bptt.StopTraining
    >>> x, gru, sgd = np.ones((4, 2, 3)), bptt.GRU(3, 3, seed=0), bptt.optim.SGD(0.1)
    >>> history = bptt.fit(gru, [(x, x)], loss=bptt.losses.mse, optimizer=sgd, epochs=100, on_step=on_step)
    >>> len(history), history.stopped
    (3, True)
    """


class History:
    """The updates of a run as lists of equal length, and whether `on_step` stopped it.

    >>> history = History()
    >>> history.append(Step(0, 0, 1.5, 2.0, False, 32))
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
    batches: Iterable[BatchIn],
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int = 1,
    max_steps: int | None = None,
    tbptt: int | tuple[int, int] | None = None,
    stateful: bool = False,
    progress: bool = False,
    on_step: Callable[[Step], object] | None = None,
) -> History:
    """Train `model`, one update per batch, or per chunk of a batch.

        y, state = model(x, state);   loss, dy = loss(y, target);   grads = backward(dy);   step(params, grads)

    Args:
        model: a `Sequential` or one recurrent layer.
        batches: at least one (x, target), (x, target, mask) or `Batch`, which also has lengths and resets; arrays
            [T,B,...] ([B,T,...] with batch_first) or `Packed` rows. Each epoch goes through them once, so that an
            iterator is enough for one epoch only.
        loss: function of (y, target), or of (y, target, mask) where the batch has a mask or lengths, that returns
            (value, dy), such as `bptt.losses.cross_entropy`. Packed rows reach it as arrays [sum,...].
        optimizer: `bptt.optim.SGD` or `Adam`.
        epochs: default 1.
        max_steps: the largest number of updates, default None: no limit. The run may end inside an epoch.
        tbptt: (k1, k2), k2 >= k1: an update every k1 time steps, whose loss is that of these k1 steps (the last may be
            fewer) and whose gradient goes back over the last k2. Where k2 > k1 the steps before these k1 are run again,
            from the state k2 steps ago, computed with the parameters in force then. k alone means (k, k): the state
            is carried from chunk to chunk, the gradient is not. Default None: whole sequences, the same as (T, T);
            (k, T) is the full gradient of each k steps' loss. Lengths and resets are cut like x: a row that has ended
            keeps its state.
        stateful: whether the state is also carried from batch to batch of an epoch, so that each row is one long
            stream; default False: each batch starts from zeros.
        progress: whether to show a bar on stderr, default False.
        on_step: called with a `Step` after each update, when parameters and optimizer are whole. It may read and save
            them, set hyperparameters of the optimizer for the next update (a schedule), and raise `StopTraining` to end
            the run. What it returns is ignored; what else it raises ends `fit`.

    Lengths and masks: a step counts in the loss where it is within its row's length and the mask is True. A chunk in
    which no step counts moves the state and makes no update. A masked step is still an input. The exception is a
    bidirectional model, whose reverse direction would read padding first: without lengths, a mask that is False only at
    the last steps of rows is taken as padding and gives the lengths; a mask that is also False elsewhere is refused.
    `lengths=[T] * B` says that all steps are inputs.

    Returns: `History`.
    Raises: TypeError and ValueError for arguments that do not fit, such as tbptt or stateful with a bidirectional
        layer, whose reverse direction needs the future; FloatingPointError for a loss or gradient that is not finite,
        which names x, target or a parameter if one of them is not finite; whatever the layers, the loss and the
        optimizer raise; KeyboardInterrupt. The model is then as the last complete update left it.
    Source: Williams & Peng 1990 (truncated backpropagation through time, BPTT(k2; k1)).

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.RNN(1, 8, seed=0), bptt.Linear(8, 1, seed=0))
    >>> x = np.sin(np.arange(64.0)).reshape(64, 1, 1)
    >>> adam = bptt.optim.Adam(1e-2)
    >>> history = fit(model, [(x[:-1], x[1:])], loss=bptt.losses.mse, optimizer=adam, epochs=50, tbptt=21)
    >>> len(history), history.loss[-1] < 0.1 * history.loss[0]
    (150, True)
    """
    _check_arguments(model, batches, loss, optimizer, on_step, stateful=stateful, progress=progress)
    if check_size("fit", "epochs", epochs) > 1 and iter(batches) is batches:
        raise ValueError("fit: batches is an iterator, which ends after one epoch, expected a list or other iterable")
    window = _window(tbptt)
    _check_direction(model, window, stateful)
    if max_steps is not None:
        max_steps = check_size("fit", "max_steps", max_steps)
    run = _Run(model, loss, optimizer, window, stateful)
    updates = (step for epoch in range(epochs) for step in run.epoch(epoch, batches))
    history = History()
    bar = _bar() if progress else None
    try:
        for step in islice(updates, max_steps):
            history.append(step)
            if bar is not None:
                bar.set_postfix(epoch=step.epoch, loss=f"{step.loss:.4f}", norm=f"{step.grad_norm:.3g}", refresh=False)
                bar.update()
            if on_step is not None:
                try:
                    on_step(step)
                except StopTraining:
                    history.stopped = True
                    break
    finally:
        if bar is not None:
            bar.close()
    return history


def _check_arguments(model: Any, batches: Any, loss: Any, optimizer: Any, on_step: Any, **flags: Any) -> None:
    if not isinstance(model, (Sequential, Recurrent)):
        raise TypeError(f"fit: model {kind_of(model)}, expected a Sequential or a recurrent layer")
    if model._one_step:
        raise TypeError("fit: model has cells, which take one step, expected layers over time")
    if isinstance(batches, Batch) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise TypeError(f"fit: batches has type {type(batches).__name__}, expected a list or other iterable of batches")
    if not callable(loss):
        expected = "a function such as bptt.losses.mse"
        raise TypeError(f"fit: loss has type {type(loss).__name__}, expected {expected}")
    if isinstance(optimizer, type) or not hasattr(optimizer, "step"):
        raise TypeError(f"fit: optimizer {kind_of(optimizer)}, expected an object such as bptt.optim.Adam(lr=1e-3)")
    for name, value in flags.items():
        check_bool("fit", name, value)
    if on_step is not None and not callable(on_step):
        raise TypeError(f"fit: on_step has type {type(on_step).__name__}, expected a function of a Step")


def _window(tbptt: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(k1, k2), checked."""
    if tbptt is None:
        return None
    pair = check_tuple("fit", "tbptt", tbptt, 2, "k or (k1, k2)") if isinstance(tbptt, (tuple, list)) else (tbptt,) * 2
    k1, k2 = (check_size("fit", "tbptt", k) for k in pair)
    if k2 < k1:
        raise ValueError(f"fit: tbptt has value ({k1}, {k2}), expected k2 >= k1: every step belongs to one loss")
    return k1, k2


def _check_direction(model: Sequential | Recurrent, window: tuple[int, int] | None, stateful: bool) -> None:
    if window is None and not stateful:
        return
    for k, layer in enumerate(model._layers):
        if layer.bidirectional:
            expected = f"one direction with {'tbptt' if window else 'stateful'}: the other needs the future"
            raise ValueError(f"fit: layer {k}, {type(layer).__name__}, is bidirectional, expected {expected}")


class _Run:
    """The updates of one call of `fit`."""

    def __init__(
        self,
        model: Sequential | Recurrent,
        loss: Loss,
        optimizer: Optimizer,
        window: tuple[int, int] | None,
        stateful: bool,
    ) -> None:
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._window, self._stateful = window, stateful
        self._grads = model.params.zeros_like()  # shared by all updates: new memory for each would cost its page faults
        self._number = 0

    def epoch(self, epoch: int, batches: Iterable[BatchIn]) -> Iterator[Step]:
        """Go through all batches once."""
        state: Any = None
        empty, before = True, self._number
        for batch in batches:
            empty = False
            steps = Steps(batch, self._model, cut=self._window is not None)
            state = yield from self._batch(steps, epoch, state if self._stateful else None)
        if empty:
            raise ValueError(f"fit: batches has no batch in epoch {epoch}, expected at least one")
        if self._number == before:
            raise ValueError(f"fit: no step of epoch {epoch} counts, expected a longer row or a True in a mask")

    def _batch(self, steps: Steps, epoch: int, state: Any) -> Generator[Step, None, Any]:
        """Make the updates of one batch and return the state that `stateful` hands on."""
        k1, k2 = self._window or (steps.count, steps.count)
        at = 0  # `state` is that before this step
        for start in range(0, steps.count, k1):
            stop = min(start + k1, steps.count)
            new = steps.cut(start, stop)
            targets = steps.targets(new)
            if targets == 0:
                continue
            first = start if k1 == k2 else max(0, stop - k2)
            if at < first:
                state, at = self._moved(steps.cut(at, first), state), first
            seen = steps.cut(first, stop)
            y, after, tape = self._model.forward(seen.x, state, seen.lengths, seen.resets)
            value, dy = self._value_and_gradient(y, new, steps.axis, start - first)
            try:
                info = self._update(tape, value, dy)
            except FloatingPointError as error:
                raise self._blamed(error, steps.not_finite(seen, new, self._model.params)) from error
            if k1 == k2:
                state, at = after, stop
            yield Step(self._number, epoch, value, info.grad_norm, info.clipped, targets)
            self._number += 1
        if self._stateful and at < steps.count:
            state = self._moved(steps.cut(at, steps.count), state)
        return state

    def _moved(self, part: Batch, state: Any) -> Any:
        """The state after these steps."""
        return self._model(part.x, state, part.lengths, part.resets)[1]

    def _value_and_gradient(self, y: Any, new: Batch, axis: int, before: int) -> tuple[float, Any]:
        """The loss of all steps of y but the first `before`, and its gradient with respect to all of y."""
        y = y.data if hasattr(y, "batch_sizes") else y
        lead = (slice(None),) * axis
        scored = y[(*lead, slice(before, None))] if before else y
        result = self._loss(scored, new.target) if new.mask is None else self._loss(scored, new.target, new.mask)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(f"fit: loss returned {type(result).__name__}, expected (value, gradient with respect to y)")
        value, dy = result
        if not is_number(value):
            raise TypeError(f"fit: loss returned a value of type {type(value).__name__}, expected a number")
        value = float(value)
        if before:
            dy = np.concatenate([np.zeros_like(y[(*lead, slice(before))]), dy], axis=axis)
        return value, dy

    def _update(self, tape: Tape, value: float, dy: Any) -> StepInfo:
        if not math.isfinite(value):
            raise FloatingPointError(f"loss has the value {value}, expected a finite one; nothing changed")
        self._model.backward(tape, dy, grads=self._grads)
        return self._optimizer.step(self._model.params, self._grads)

    def _blamed(self, error: FloatingPointError, found: str) -> FloatingPointError:
        """The error of an update; `found` says what is not finite in x, target or the parameters."""
        if found:
            expected = f"expected finite {self._model.params.dtype} numbers; nothing changed"
            return FloatingPointError(f"fit: {found} in update {self._number}, {expected}")
        return FloatingPointError(f"fit: {error} (update {self._number}; x, target and parameters are finite)")


def _bar() -> Any:
    from tqdm import tqdm  # imported here, since it takes longer to import than all of bptt

    return tqdm(unit="step")
