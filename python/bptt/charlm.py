# SPDX-License-Identifier: Apache-2.0
"""A character-level language model: Embedding -> recurrent layers -> Linear, its training, evaluation and sampling.

The work of `bptt train` and `bptt sample` without the terminal: nothing is printed here and no signal is handled. Ids
are [T,B] int64, logits [T,B,V] float32, losses are in nats per character.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import checkpoint, losses, optim, saving
from bptt._arrays import brief, check_number, check_seed, check_size
from bptt._dispatch import core
from bptt.init import Stored
from bptt.layers import GRU, LSTM, RNN, Embedding, Linear, Sequential
from bptt.textdata import Streams, Vocabulary
from bptt.train import History, Step, fit

__all__ = ["Architecture", "CharLM", "Settings", "architecture_of", "evaluate", "sample", "train"]

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
KERNELS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # the names of these cells in core.cells()
LEARNING_RATES = {"adam": 6e-3, "sgd": 1.0}
KIND = "charlm"


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model.

    - `cell`: "lstm", "gru" or "rnn". `hidden`: H units in each of `layers` recurrent layers.
    - `embedding`: numbers per character.

    Raises: ValueError where a size is below 1 or the cell is unknown, TypeError where a size is no integer.

    >>> Architecture(hidden=64).parameters(vocabulary=100)
    34532
    """

    cell: str = "lstm"
    hidden: int = 192
    layers: int = 1
    embedding: int = 32

    def __post_init__(self) -> None:
        """Check the sizes, which may come from a file."""
        if not isinstance(self.cell, str) or self.cell not in CELLS:
            raise ValueError(f"Architecture: cell has {reprlib.repr(self.cell)}, expected one of {', '.join(CELLS)}")
        for name in ("hidden", "layers", "embedding"):
            check_size("Architecture", name, getattr(self, name))

    def parameters(self, vocabulary: int) -> int:
        """Return the number of weights for a vocabulary of V characters."""
        cell = core.cell_info(KERNELS[self.cell])
        G, P, H = len(cell.gates), sum(rows for _, rows in cell.vectors), self.hidden
        E, L, V = self.embedding, self.layers, vocabulary
        inputs = E + (L - 1) * H  # of all layers
        return V * E + G * H * (inputs + L * (H + 1)) + L * P * H + V * (H + 1)


@dataclass(frozen=True)
class Settings:
    """How to train; see `train`.

    - `batch_size`: B streams read in parallel. `seq_len`: T characters between two updates (truncated BPTT).
    - `steps`: number of updates. `lr`: the first step's learning rate, None for the optimizer's default.
    - `clip_norm`: largest gradient norm, None for no limit. `optimizer`: "adam" or "sgd" (momentum 0.9, Nesterov).
    """

    batch_size: int = 32
    seq_len: int = 64
    steps: int = 800
    lr: float | None = None
    clip_norm: float | None = 1.0
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "steps"):
            check_size("Settings", name, getattr(self, name))
        if self.optimizer not in LEARNING_RATES:
            has = f"optimizer has value {brief(self.optimizer)}"
            raise ValueError(f"Settings: {has}, expected one of {', '.join(LEARNING_RATES)}")


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
        # one independent seed per layer: equal seeds would make layers of equal shape start as copies of each other
        seeds = np.random.SeedSequence(seed).generate_state(architecture.layers + 2).tolist()
        sizes = [architecture.embedding] + [H] * (architecture.layers - 1)
        cell = CELLS[architecture.cell]
        recurrent = [cell(size, H, seed=s) for size, s in zip(sizes, seeds[2:], strict=True)]
        embedding = Embedding(V, architecture.embedding, seed=seeds[0])
        return cls(architecture, vocabulary, Sequential(embedding, *recurrent, Linear(H, V, seed=seeds[1])))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file (see `checkpoint.save`), which `bptt.load` reads as well.

        Raises: OSError where the file cannot be written; FloatingPointError where a weight is NaN or infinite.
        """
        config = {
            "kind": KIND,
            "architecture": asdict(self.architecture),
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
    Architecture(cell='gru', hidden=8, layers=1, embedding=4)
    """
    if config.get("kind") != KIND:
        raise ValueError(f"its kind is {reprlib.repr(config.get('kind'))}, expected {KIND!r}")
    sizes = config.get("architecture")
    names = [field.name for field in fields(Architecture)]
    if not isinstance(sizes, dict) or sorted(sizes) != sorted(names):
        raise ValueError(f"its architecture is {reprlib.repr(sizes)}, expected {', '.join(names)}")
    return Architecture(**sizes)


def memory_needed(architecture: Architecture, vocabulary: int, settings: Settings) -> int:
    """Return how many bytes a training run takes at least; nothing is allocated.

    Counted are the weights with their gradients and moments, what the recurrent layers hold, their input and output,
    and the logits with their gradient.
    """
    E, H, L = architecture.embedding, architecture.hidden, architecture.layers
    T, B = settings.seq_len, settings.batch_size
    stack = core.Stack(KERNELS[architecture.cell], "float32", E, H, True, 0, L)
    copies = 4 if settings.optimizer == "adam" else 3  # Adam has two moments, SGD one
    arrays = copies * architecture.parameters(vocabulary) + T * B * (E + H + 2 * vocabulary)
    return stack.memory(T, B, None, True) + 4 * arrays


def train(lm: CharLM, streams: Streams, settings: Settings, on_step: Callable[[Step], object] | None = None) -> History:
    """Train with `fit` by truncated backpropagation through time.

    The state is carried from batch to batch and starts from zeros at each new pass over the text. The learning rate
    falls from `settings.lr` to zero over the run along half a cosine: lr(k) = lr/2 * (1 + cos(pi * k / steps)).

    - `streams`: batches (x, y), each [T,B], of the text to learn from. `settings.steps` updates are made.
    - `on_step`: called after each update, as by `fit`; it may raise `StopTraining` to stop early.

    Returns: the `History` of `fit`.

    Raises: FloatingPointError where loss or gradient is no longer finite; the weights are then those of the step
    before.

    Source: Williams & Peng 1990 (truncated BPTT); Loshchilov & Hutter 2017 (cosine decay).

    >>> lm = CharLM.create(Architecture(hidden=8), Vocabulary("ab"), seed=0)
    >>> streams = Streams(lm.vocabulary.encode("ab" * 50), batch_size=2, seq_len=8)
    >>> history = train(lm, streams, Settings(steps=20))
    >>> len(history), history.loss[-1] < history.loss[0]
    (20, True)
    """
    steps = settings.steps
    lr = settings.lr if settings.lr is not None else LEARNING_RATES[settings.optimizer]
    optimizer: optim.Adam | optim.SGD
    if settings.optimizer == "adam":
        optimizer = optim.Adam(lr=lr, clip_norm=settings.clip_norm)
    else:
        optimizer = optim.SGD(lr=lr, momentum=0.9, nesterov=True, clip_norm=settings.clip_norm)

    def after(step: Step) -> None:
        optimizer.lr = lr / 2 * (1 + math.cos(math.pi * (step.number + 1) / steps))
        if on_step is not None:
            on_step(step)

    # each pass over the text makes at least one update, so there are never more passes than updates
    return fit(
        lm.model,
        streams,
        loss=losses.cross_entropy,
        optimizer=optimizer,
        epochs=steps,
        max_steps=steps,
        stateful=True,
        on_step=after,
    )


def evaluate(lm: CharLM, ids: NDArray[Any], *, streams: int = 16, seq_len: int = 256) -> float:
    """Return the mean loss over a text in nats per character (bits: divide by ln 2), with the state carried along.

    The text is read as up to `streams` parallel streams of at least 256 characters, each from a zero state. A single
    stream would be exact, but slower. The zero states make the result slightly too high on average.

    - `ids`: [N] from `lm.vocabulary.encode`, N >= 2.

    >>> lm = CharLM.create(Architecture(hidden=8), Vocabulary("abcd"), seed=0)
    >>> bool(abs(evaluate(lm, lm.vocabulary.encode("abcd" * 50)) - np.log(4)) < 0.3)
    True
    """
    batch_size = max(1, min(streams, len(ids) // 256))
    batches = Streams(ids, batch_size, min(seq_len, (len(ids) - 1) // batch_size))
    total, count, state = 0.0, 0, None
    for x, y in batches:
        logits, state = lm.model(x, state)
        loss, _ = losses.cross_entropy(logits, y)
        total, count = total + loss * x.size, count + x.size
    return total / count


def sample(
    lm: CharLM, prompt: str = "", *, length: int = 400, temperature: float = 0.8, seed: int | None = None
) -> Iterator[str]:
    """Return an iterator over `length` characters that continue `prompt` (which is not repeated).

    Each is drawn from softmax(logits / temperature). Temperature 1 uses the model's own probabilities, lower ones
    favour likely characters, and 0 always takes the likeliest. An empty prompt means the start of a paragraph.

    - `seed`: the same seed gives the same text; None draws a new one each time.

    Raises: ValueError where the prompt has characters that the model does not know (they are named).

    >>> lm = CharLM.create(Architecture(hidden=8), Vocabulary("ab"), seed=0)
    >>> len("".join(sample(lm, "ab", length=20, seed=1)))
    20
    """
    length, temperature = check_size("sample", "length", length, 0), check_number("sample", "temperature", temperature)
    if seed is not None:
        seed = check_seed("sample", seed)
    start = "\n\n" if "\n" in lm.vocabulary.characters else lm.vocabulary.characters[0]
    ids = lm.vocabulary.encode(prompt or start, "prompt").astype(np.int64)
    generator = np.random.Generator(np.random.Philox(seed))

    def draw() -> Iterator[str]:
        logits, state = lm.model(ids[:, None], None)
        for _ in range(length):
            chosen = _choose(logits[-1, 0].astype(np.float64), temperature, generator)
            yield lm.vocabulary.characters[chosen]
            logits, state = lm.model(np.array([[chosen]], np.int64), state)

    return draw()


def _choose(logits: NDArray[np.float64], temperature: float, generator: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore", under="ignore"):  # with a tiny temperature exp(-inf) = 0 is right
        cumulative = np.cumsum(np.exp((logits - logits.max()) / temperature))
    # side="right": a character of probability zero is never drawn, not even for a draw of exactly 0
    drawn = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return min(drawn, len(logits) - 1)
