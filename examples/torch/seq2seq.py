# SPDX-License-Identifier: Apache-2.0
"""Two loops over PyTorch's LSTMCell, an encoder and a decoder with teacher forcing, that learn to reverse digits.

python examples/torch/seq2seq.py
"""

from __future__ import annotations

from typing import Any

import torch
from classifying import learned
from harness import Compared, compare

DIGITS, B, T, HIDDEN = 10, 32, 12, 128


class Reverser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(DIGITS + 1, 32)  # the last one begins an answer
        self.encoder, self.decoder = torch.nn.LSTMCell(32, HIDDEN), torch.nn.LSTMCell(32, HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, DIGITS)

    def forward(self, digits: Any) -> Any:
        state = None
        for x in self.embedding(digits):
            state = self.encoder(x, state)
        first = torch.full_like(digits[:1], DIGITS)
        scores = []
        for x in self.embedding(torch.cat([first, digits.flip(0)[:-1]])):
            state = self.decoder(x, state)
            scores.append(self.head(state[0]))
        return torch.stack(scores)


def train(steps: int) -> list[Any]:
    model = Reverser()

    def batch() -> tuple[Any, Any]:
        digits = torch.randint(0, DIGITS, (T, B))
        return model(digits), digits.flip(0)

    return learned(model, batch, steps)


def main(timed_steps: int = 20) -> list[Compared]:
    return [compare("seq2seq, LSTMCell", train, timed_steps=timed_steps)]


if __name__ == "__main__":
    main()
