# SPDX-License-Identifier: Apache-2.0
"""`fit`: the arguments of a run, checked. The course of a run is in loop.py, its updates are in updates.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from bptt._arrays import brief, check_bool, check_number, check_size, check_tuple, kind_of
from bptt.train.batch import Batch, as_batches
from bptt.train.history import History, Step
from bptt.train.hooks import Callback
from bptt.train.loop import Loop, Plan
from bptt.train.model_and_loss import check_loss, check_model
from bptt.train.outputs import JSONLLogger, Log, OnStep, Progress
from bptt.train.updates import Task

if TYPE_CHECKING:
    from bptt.layers.recurrent import Recurrent
    from bptt.layers.sequential import Sequential
    from bptt.optim import Optimizer
    from bptt.train.model_and_loss import Loss
    from bptt.train.state import StateFile

    BatchIn: TypeAlias = Batch | tuple[Any, ...] | list[Any]
    Metric: TypeAlias = Callable[..., float]

__all__ = ["fit"]

_NONFINITE = ("raise", "skip", "stop")


def fit(
    model: Sequential | Recurrent,
    batches: Iterable[BatchIn] | BatchIn,
    *,
    loss: Loss,
    optimizer: Optimizer,
    # how long
    epochs: int | None = None,
    max_steps: int | None = None,
    max_time_s: float | None = None,
    # through time
    tbptt: int | tuple[int, int] | None = None,
    stateful: bool = False,
    # each update
    schedule: Callable[[int], float] | None = None,
    on_nonfinite: str = "raise",
    all_reduce: Callable[[Any], object] | None = None,
    # validation
    validation: Iterable[BatchIn] | BatchIn | None = None,
    validate_every: int | None = None,
    metric: Metric | Mapping[str, Metric] | None = None,
    # to watch
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
    on_step: Callable[[Step], object] | None = None,
    log: Any = None,
    history: str | os.PathLike[str] | None = None,
    # to continue
    resume: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    save_every_s: float | None = 30.0,
    # to try out
    fast_dev_run: int = 0,
    overfit_batches: int | None = None,
) -> History:
    """Train `model`, one update per batch, or per chunk of a batch.

        y, state = model(x, state);   loss, dy = loss(y, target);   grads = backward(dy);   step(params, grads)

    Args:
        model: a `Sequential` or one recurrent layer.
        batches: one (x, target) or (x, target, mask) of arrays, a `Batch`, which also has lengths and resets, or a
            list or other iterable of these, such as a DataLoader of PyTorch. Arrays are [T,B,...] ([B,T,...] with
            batch_first) or `Packed` rows; lists of arrays [T_b,...] inside a batch are padded, see `Batch`. Each epoch
            goes through them once, so that an iterator is enough for one epoch only.
        loss: function of (y, target), or of (y, target, mask) where the batch has a mask or lengths, that returns
            (value, dy), such as `bptt.losses.cross_entropy`. Packed rows reach it as arrays [sum,...]. A model whose
            output has no time axis gets no mask made of lengths.
        optimizer: such as `bptt.optim.Adam(1e-3)`.

        How long: the run ends with the first limit that is reached.
        epochs: the number of passes through batches. Default None: 1, or no limit where max_steps or max_time_s is
            given and batches can be gone through again.
        max_steps: the largest number of updates, default None: no limit. The run may end inside an epoch.
        max_time_s: seconds; the run ends after the update that passes them. Default None: no limit.

        Through time:
        tbptt: (k1, k2), k2 >= k1: an update every k1 time steps, whose loss is that of these k1 steps (the last may be
            fewer) and whose gradient goes back over the last k2. Where k2 > k1 the steps before these k1 are run again,
            from the state k2 steps ago, computed with the parameters in force then. k alone means (k, k): the state
            is carried from chunk to chunk, the gradient is not. Default None: whole sequences, the same as (T, T);
            (k, T) is the full gradient of each k steps' loss. Lengths and resets are cut like x: a row that has ended
            keeps its state.
        stateful: whether the state is also carried from batch to batch of an epoch, so that each row is one long
            stream; default False: each batch starts from zeros.

        Each update:
        schedule: function of the number of the update, from 0, that returns its learning rate, which is assigned to
            `optimizer.lr`; see `bptt.optim`. Default None: the optimizer's own.
        on_nonfinite: what happens where a loss or gradient is not finite. "raise" (default): FloatingPointError;
            "stop": the run ends without that update, `History.stop_reason` says why; "skip": the update is left out and
            counted in `History.skipped`, and the state goes on as it was before it. It changes nothing in any case.
            With "raise", a validation loss that is not finite is an error too. An optimizer with nonfinite="skip" needs
            "skip" here too.
        all_reduce: function that adds an array over all processes that train this model together, each on its own
            batches: it gets a 1-D array of float32 or float64 and leaves the sum in it, such as
            `lambda a: comm.Allreduce(MPI.IN_PLACE, a)`. Each update is then that of the joined batch: gradients, losses
            and metrics are means weighted by the steps that count. All processes decide alike: see
            docs/distributed.md. Default None: one process.

        Validation:
        validation: batches in the same forms, which are only evaluated. Default None. The validation loss is the mean
            of the losses of all batches, weighted by the steps that lengths and mask let count: what a loss leaves out
            or weighs by itself, as with ignore_index and class_weights, is not seen here, so that steps to be left out
            belong in the mask. With stateful, the state is carried from batch to batch. An evaluation changes nothing:
            a run with validation has the bits of one without.
        validate_every: updates from one validation to the next. Default None: one at the end of each epoch. In both
            cases there is one at the end of the run, unless it was stopped.
        metric: function of (y, target), or (y, target, mask) as the loss, that returns a number; or a dict of such
            functions by name. Evaluated on the y of each update and on validation, and averaged there like the loss.
            A single function is named "metric".

        To watch a run:
        progress: whether to show a bar on stderr, default False.
        callbacks: objects of `bptt.callbacks`, or of classes derived from `bptt.callbacks.Callback`.
        on_step: called with a `Step` after each update, when parameters and optimizer are whole. It may read and save
            them, set hyperparameters of the optimizer for the next update, and raise `StopTraining` to end the run.
            What it returns is ignored; what else it raises ends `fit`.
        log: function of (values, step), values a dict from names to numbers, or an object with
            `add_scalar(name, value, step)`, such as a SummaryWriter. Called for each update and validation.
        history: path of a file to which each update and validation is written as it happens; `History.read` reads it.
            An older file is replaced.

        To continue a run that was interrupted:
        resume: path of a file that keeps the training state. Where it exists, the run goes on from it, with the bits of
            a run that was never interrupted; a run that had ended returns at once, unless a limit is higher now. The
            call must be the same: model, loss, optimizer and its options, whether there is a schedule, metrics, tbptt,
            stateful and callbacks, which are compared; and batches that come in the same order in each process, of
            which the first one and the one in which the run goes on are compared. A source with `state()`, the place
            of its next batch in JSON's types, and `restore(state)`, such as `bptt.data.batches` makes, is put where the
            run goes on. Another one that is no list is gone through again up to there, so that sources which draw from
            a seed of their own are at that place, too; for a run that had ended in its first epoch it is not compared.
            The file's learning rate and parameters replace those of the arguments.
        save_every: updates between two writes of that file, default None: time alone decides.
        save_every_s: seconds between two writes, default 30; None: no such rule. The end of a run is always written.

        To try out:
        fast_dev_run: n > 0 (True is 1): one epoch of the first n batches of training and validation, where no file is
            read or written: callbacks that write, history, log and resume are left out. Default 0: a whole run.
        overfit_batches: n: train on the first n batches only, the same in each epoch. Default None: all.

    Lengths and masks: a step counts in the loss where it is within its row's length and the mask is True. A chunk in
    which no step counts moves the state and makes no update. A masked step is still an input. The exception is a
    bidirectional model, whose reverse direction would read padding first: without lengths, a mask that is False only at
    the last steps of rows is taken as padding and gives the lengths; a mask that is also False elsewhere is refused.
    `lengths=[T] * B` says that all steps are inputs.

    Returns: `History`.
    Raises: TypeError and ValueError for arguments that do not fit, such as tbptt or stateful with a bidirectional
        layer, whose reverse direction needs the future; FloatingPointError for a loss or gradient that is not finite,
        which names x, target or a parameter if one of them is not finite; whatever the layers, the loss, the optimizer
        and the callbacks raise; KeyboardInterrupt. The model is then as the last complete update left it.
    Source: Williams & Peng 1990 (truncated backpropagation through time, BPTT(k2; k1)).

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.RNN(1, 8, seed=0), bptt.Linear(8, 1, seed=0))
    >>> x = np.sin(np.arange(100.0)).reshape(100, 1, 1)
    >>> adam = bptt.optim.Adam(1e-2)
    >>> train, test = (x[:60], x[1:61]), (x[60:-1], x[61:])
    >>> history = fit(model, train, loss=bptt.losses.mse, optimizer=adam, epochs=50, tbptt=20, validation=test)
    >>> len(history), len(history.validation), history.loss[-1] < 0.1 * history.loss[0]
    (150, 50, True)
    """
    batches = as_batches("batches", batches)
    _check_all_reduce(all_reduce)
    _check_arguments(model, batches, loss, optimizer, on_step, stateful=stateful, progress=progress)
    _check_nonfinite(optimizer, on_nonfinite)
    window = _window(tbptt)
    _check_direction(model, window, stateful)
    task = Task(
        model, loss, optimizer, window, stateful, _schedule(schedule), _metrics(metric), on_nonfinite, all_reduce
    )
    plan = _plan(batches, epochs, max_steps, max_time_s, _validation(validation), validate_every)
    chosen = _checked_callbacks(callbacks, on_step, log, history)
    state_file = None
    most = int(fast_dev_run) if isinstance(fast_dev_run, bool) else check_size("fit", "fast_dev_run", fast_dev_run, 0)
    if most:
        plan = plan._replace(epochs=1, most=most, most_validation=most)
        chosen = [each for each in chosen if not each.writes]
    elif resume is not None:
        state_file = _state_file(resume, save_every, save_every_s, optimizer)
    if overfit_batches is not None:
        count = check_size("fit", "overfit_batches", overfit_batches)
        plan = plan._replace(batches=list(islice(plan.batches, count)))
    loop = Loop(task, plan, state_file)
    return loop.run([*chosen, Progress(loop.total)] if progress else chosen)


def _check_arguments(model: Any, batches: Any, loss: Any, optimizer: Any, on_step: Any, **flags: Any) -> None:
    check_model("fit", model)
    _check_iterable("batches", batches)
    check_loss("fit", loss)
    if isinstance(optimizer, type) or not hasattr(optimizer, "step"):
        raise TypeError(f"fit: optimizer {kind_of(optimizer)}, expected an object such as bptt.optim.Adam(lr=1e-3)")
    for name, value in flags.items():
        check_bool("fit", name, value)
    if on_step is not None and not callable(on_step):
        raise TypeError(f"fit: on_step has type {type(on_step).__name__}, expected a function of a Step")


def _check_nonfinite(optimizer: Any, on_nonfinite: Any) -> None:
    if on_nonfinite not in _NONFINITE:
        raise ValueError(f"fit: on_nonfinite has value {brief(on_nonfinite)}, expected 'raise', 'skip' or 'stop'")
    if getattr(optimizer, "nonfinite", "raise") == "skip" and on_nonfinite != "skip":
        both = f"optimizer has nonfinite='skip' and fit on_nonfinite={on_nonfinite!r}"
        raise ValueError(f"fit: {both}, expected on_nonfinite='skip', which also skips a loss that is not finite")


def _check_all_reduce(all_reduce: Any) -> None:
    if all_reduce is not None and not callable(all_reduce):
        expected = "a function that leaves the sum over all processes in an array"
        raise TypeError(f"fit: all_reduce has type {type(all_reduce).__name__}, expected {expected}")


def _check_iterable(name: str, value: Any) -> None:
    if not (hasattr(value, "__iter__") or hasattr(value, "__getitem__")):
        raise TypeError(f"fit: {name} has type {type(value).__name__}, expected a list or other iterable of batches")


def _plan(batches: Any, epochs: Any, max_steps: Any, max_time_s: Any, validation: Any, validate_every: Any) -> Plan:
    """The limits, checked."""
    once = isinstance(batches, Iterator)
    if epochs is not None and check_size("fit", "epochs", epochs) > 1 and once:
        raise ValueError("fit: batches is an iterator, which ends after one epoch, expected a list or other iterable")
    if epochs is None and (once or (max_steps is None and max_time_s is None)):
        epochs = 1
    if max_steps is not None:
        max_steps = check_size("fit", "max_steps", max_steps)
    if max_time_s is not None:
        max_time_s = check_number("fit", "max_time_s", max_time_s)
    if validate_every is not None:
        validate_every = check_size("fit", "validate_every", validate_every)
        if validation is None:
            raise ValueError("fit: validate_every is given without validation, expected both")
    return Plan(batches, epochs, max_steps, max_time_s, validation, validate_every)


def _validation(given: Any) -> Any:
    """The validation batches, checked."""
    if given is None:
        return None
    batches = as_batches("validation", given)
    _check_iterable("validation", batches)
    if isinstance(batches, Iterator):
        raise ValueError("fit: validation is an iterator, which ends after one pass, expected a list or other iterable")
    return batches


def _schedule(schedule: Any) -> Callable[[int], float] | None:
    if schedule is not None and not callable(schedule):
        raise TypeError(f"fit: schedule has type {type(schedule).__name__}, expected a function of the update's number")
    return schedule  # type: ignore[no-any-return]


def _metrics(metric: Any) -> dict[str, Callable[..., float]]:
    """The metrics by name."""
    if metric is None:
        return {}
    metrics = dict(metric) if isinstance(metric, Mapping) else {"metric": metric}
    for name, function in metrics.items():
        if not isinstance(name, str) or not callable(function):
            has = f"has {brief(name)} of type {type(function).__name__}"
            raise TypeError(f"fit: metric {has}, expected a function of (y, target) or a dict of them by name")
        if name in _COLUMNS or name.startswith("validation"):
            raise ValueError(f"fit: metric has the name {brief(name)}, expected one that the history does not use")
    return metrics


_COLUMNS = {*Step(0, 0, 0.0, 0.0, False, 0).row(), "event", "number"}


def _checked_callbacks(callbacks: Any, on_step: Any, log: Any, history: Any) -> list[Callback]:
    """All callbacks of a run, in the order in which they are called."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks has type {type(callbacks).__name__}, expected a list of callbacks")
    given = list(callbacks)
    for callback in given:
        if not isinstance(callback, Callback):
            raise TypeError(f"fit: callback {kind_of(callback)}, expected an object such as EarlyStopping()")
    if log is not None:
        if not (callable(log) or callable(getattr(log, "add_scalar", None))):
            expected = "a function of (dict, step) or an object with add_scalar"
            raise TypeError(f"fit: log has type {type(log).__name__}, expected {expected}")
        given.append(Log(log))
    if history is not None:
        given.append(JSONLLogger(history))
    return given if on_step is None else [OnStep(on_step), *given]


def _state_file(path: Any, every_steps: Any, every_s: Any, optimizer: Any) -> StateFile:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"fit: resume has type {type(path).__name__}, expected the path of a file")
    if not (hasattr(optimizer, "state_dict") or hasattr(optimizer, "_moments")):
        expected = "one with state_dict and load_state_dict, for resume"
        raise TypeError(f"fit: optimizer has type {type(optimizer).__name__}, expected {expected}")
    if every_steps is not None:
        every_steps = check_size("fit", "save_every", every_steps)
    if every_s is not None:
        every_s = check_number("fit", "save_every_s", every_s)
    from bptt.train.state import StateFile  # imported here, since most runs keep no state

    return StateFile(path, every_steps, every_s)


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
