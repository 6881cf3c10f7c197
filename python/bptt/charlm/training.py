# SPDX-License-Identifier: Apache-2.0
"""The training of a character model, which is one call of `fit`, and its evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from bptt import losses, optim
from bptt._arrays import brief, check_size
from bptt._dispatch import core
from bptt.charlm.model import KERNELS
from bptt.textdata import Streams
from bptt.train import History, Step, fit

if TYPE_CHECKING:
    from bptt.callbacks import Callback
    from bptt.charlm.model import Architecture, CharLM
    from bptt.textdata import Watch

__all__ = ["OPTIMIZERS", "SCHEDULES", "VALIDATED", "Settings", "evaluate", "memory_needed", "train"]

# characters of the held-out text that a validation during training reads at most: all of it for the default text, where
# ten of them take 9 % of a run's time
VALIDATED = 2**16


class _Method(NamedTuple):
    """An optimizer: how it is made, its default learning rate, and how many arrays it keeps for each weight."""

    make: Callable[..., optim.Optimizer]
    lr: float
    moments: int


# The rates were tried on the default text (docs/command_line.md); somewhat larger ones are better for one layer of 192
# units, but leave no room for larger models: rmsprop starts badly with 0.004 and two layers of 384.
OPTIMIZERS = {
    "adam": _Method(optim.Adam, 6e-3, 2),
    "adamw": _Method(optim.AdamW, 6e-3, 2),
    "nadam": _Method(optim.NAdam, 6e-3, 2),
    "rmsprop": _Method(optim.RMSprop, 3e-3, 1),
    "adagrad": _Method(optim.Adagrad, 5e-2, 1),
    "lion": _Method(optim.Lion, 3e-3, 1),
    "sgd": _Method(partial(optim.SGD, momentum=0.9, nesterov=True), 1.0, 1),
}
# name -> schedule of (lr, steps); optim.schedules is imported when it is first asked for
SCHEDULES: dict[str, Callable[[float, int], Callable[[int], float]]] = {
    "cosine": lambda lr, steps: optim.schedules.cosine(lr, steps),
    "constant": lambda lr, _: optim.schedules.constant(lr),
    "linear": lambda lr, steps: optim.schedules.linear(lr, steps),
    "exponential": lambda lr, steps: optim.schedules.exponential(lr, 0.01 ** (1 / steps)),
    "one-cycle": lambda lr, steps: optim.schedules.one_cycle(lr, steps),
}


@dataclass(frozen=True)
class Settings:
    """How to train; see `train`.

    - `batch_size`: B streams read in parallel. `seq_len`: T characters between two updates (truncated BPTT).
    - `steps`: number of updates. `lr`: the largest learning rate, None for the optimizer's default.
    - `clip_norm`: largest gradient norm, None for no limit.
    - `optimizer`: a name in `OPTIMIZERS`; sgd has momentum 0.9 (Nesterov). `weight_decay`: None for its own default.
    - `schedule`: how the learning rate goes. "cosine" and "linear": from lr to 0. "exponential": from lr to lr / 100.
      "one-cycle": up from lr / 25 in the first 30 % of the steps, then down to almost 0. "constant": lr.
    - `validate_every`: updates from one validation to the next, None for a tenth of the run.
    - `patience`: the run ends, with the best weights, after this many validations without a better one; None: it does
      not.
    """

    batch_size: int = 32
    seq_len: int = 64
    steps: int = 800
    lr: float | None = None
    clip_norm: float | None = 1.0
    optimizer: str = "adam"
    weight_decay: float | None = None
    schedule: str = "cosine"
    validate_every: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "steps"):
            check_size("Settings", name, getattr(self, name))
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value: Any = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"Settings: {name} has value {brief(value)}, expected one of {', '.join(known)}")


def memory_needed(architecture: Architecture, vocabulary: int, settings: Settings) -> int:
    """Return how many bytes a training run takes at least; nothing is allocated.

    Counted are the weights with their gradients and moments, what the recurrent layers hold, their input and output,
    and the logits with their gradient.
    """
    E, H, L = architecture.embedding, architecture.hidden, architecture.layers
    T, B = settings.seq_len, settings.batch_size
    stack = core.Stack(KERNELS[architecture.cell], "float32", E, H, True, 0, L)
    copies = 2 + OPTIMIZERS[settings.optimizer].moments
    masks = 2 * L * H if architecture.dropout else 0  # and what they leave
    arrays = copies * architecture.parameters(vocabulary) + T * B * (E + H + 2 * vocabulary + masks)
    return stack.memory(T, B, None, True) + 4 * arrays


def train(
    lm: CharLM,
    streams: Streams,
    settings: Settings,
    on_step: Callable[[Step], object] | None = None,
    *,
    held_out: NDArray[Any] | None = None,
    watch: Watch = iter,
    callbacks: Sequence[Callback] = (),
    history: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
) -> History:
    """Train with one call of `fit` by truncated backpropagation through time.

    The state is carried from batch to batch and starts from zeros at each new pass over the text.

    - `streams`: batches (x, y), each [T,B], of the text to learn from. `settings.steps` updates are made.
    - `held_out`: [N] ids of a text of which the first 65,536 characters are the validation; None: there is none.
    - `watch`: what goes through the batches of a validation, and may show how far it is; such as `tqdm.tqdm`.
    - `on_step`, `callbacks`, `history`, `resume`, `save_every`: as of `fit`.

    Returns: the `History` of `fit`.

    Raises: FloatingPointError where loss or gradient is no longer finite; the weights are then those of the step
    before. ValueError where `settings.patience` has no text to look at.

    Source: Williams & Peng 1990 (truncated BPTT); Loshchilov & Hutter 2017 (cosine decay).

    >>> from bptt.charlm import Architecture, CharLM
    >>> from bptt.textdata import Vocabulary
    >>> lm = CharLM.create(Architecture(hidden=8), Vocabulary("ab"), seed=0)
    >>> streams = Streams(lm.vocabulary.encode("ab" * 50), batch_size=2, seq_len=8)
    >>> history = train(lm, streams, Settings(steps=20), held_out=lm.vocabulary.encode("abab"))
    >>> len(history), len(history.validation), history.loss[-1] < history.loss[0]
    (20, 10, True)
    """
    steps, method = settings.steps, OPTIMIZERS[settings.optimizer]
    lr = settings.lr if settings.lr is not None else method.lr
    decay = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
    validation = None if held_out is None else _Watched(_read_in_parallel(held_out[:VALIDATED]), watch)
    stopping = []
    if settings.patience is not None:
        from bptt.callbacks import EarlyStopping  # imported here, since most runs need none

        stopping = [EarlyStopping(settings.patience)]
    # each pass over the text makes at least one update, so there are never more passes than updates
    return fit(
        lm.model,
        streams,
        loss=losses.cross_entropy,
        optimizer=method.make(lr=lr, clip_norm=settings.clip_norm, **decay),
        epochs=steps,
        max_steps=steps,
        stateful=True,
        schedule=SCHEDULES[settings.schedule](lr, steps),
        validation=validation,
        validate_every=None if validation is None else settings.validate_every or max(1, -(-steps // 10)),
        callbacks=[*callbacks, *stopping],
        on_step=on_step,
        history=history,
        resume=resume,
        save_every=save_every,
    )


def evaluate(lm: CharLM, ids: NDArray[Any], *, streams: int = 16, seq_len: int = 256, watch: Watch = iter) -> float:
    """Return the mean loss over a text in nats per character (bits: divide by ln 2), with the state carried along.

    The text is read as up to `streams` parallel streams of at least 256 characters, each from a zero state. A single
    stream would be exact, but slower. The zero states make the result slightly too high on average.

    - `ids`: [N] from `lm.vocabulary.encode`, N >= 2. `watch`: as of `train`, for the batches of this text.

    >>> import numpy as np
    >>> from bptt.charlm import Architecture, CharLM
    >>> from bptt.textdata import Vocabulary
    >>> lm = CharLM.create(Architecture(hidden=8), Vocabulary("abcd"), seed=0)
    >>> bool(abs(evaluate(lm, lm.vocabulary.encode("abcd" * 50)) - np.log(4)) < 0.3)
    True
    """
    total, count, state = 0.0, 0, None
    for x, y in watch(_read_in_parallel(ids, streams, seq_len)):
        logits, state = lm.model(x, state)
        loss, _ = losses.cross_entropy(logits, y)
        total, count = total + loss * x.size, count + x.size
    return total / count


def _read_in_parallel(ids: NDArray[Any], streams: int = 16, seq_len: int = 256) -> Streams:
    batch_size = max(1, min(streams, len(ids) // 256))
    return Streams(ids, batch_size, min(seq_len, (len(ids) - 1) // batch_size))


class _Watched:
    """Batches that `watch` goes through each time."""

    def __init__(self, batches: Streams, watch: Watch) -> None:
        self._batches, self._watch = batches, watch

    def __iter__(self) -> Iterator[Any]:
        return iter(self._watch(self._batches))
