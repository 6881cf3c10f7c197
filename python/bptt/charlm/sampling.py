# SPDX-License-Identifier: Apache-2.0
"""Text from a character model, one character at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bptt._arrays import check_number, check_seed, check_size

if TYPE_CHECKING:
    from bptt.charlm.model import CharLM

__all__ = ["sample"]


def sample(
    lm: CharLM, prompt: str = "", *, length: int = 400, temperature: float = 0.8, seed: int | None = None
) -> Iterator[str]:
    """Return an iterator over `length` characters that continue `prompt` (which is not repeated).

    Each is drawn from softmax(logits / temperature). Temperature 1 uses the model's own probabilities, lower ones
    favour likely characters, and 0 always takes the likeliest. An empty prompt means the start of a paragraph.

    - `seed`: the same seed gives the same text; None draws a new one each time.

    Raises: ValueError where the prompt has characters that the model does not know (they are named).

    >>> from bptt.charlm import Architecture, CharLM
    >>> from bptt.textdata import Vocabulary
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
