# SPDX-License-Identifier: Apache-2.0
"""A tagger, a bidirectional GRU on packed sentences of any order: it says of each letter whether it was there before.

python examples/torch/tagger.py
"""

from __future__ import annotations

from typing import Any

import torch
from classifying import learned
from harness import Compared, compare
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LETTERS, B, T, HIDDEN = 30, 32, 50, 96


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(LETTERS, 32)
        self.gru = torch.nn.GRU(32, HIDDEN, num_layers=2, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(2 * HIDDEN, 2)

    def forward(self, letters: Any, lengths: Any) -> Any:
        rows = pack_padded_sequence(self.embedding(letters), lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.gru(rows)[0], batch_first=True, total_length=T)[0])


def train(steps: int) -> list[Any]:
    model = Tagger()

    def batch() -> tuple[Any, Any]:
        letters, lengths = torch.randint(0, LETTERS, (B, T)), torch.randint(1, T + 1, (B,))
        seen = (letters[:, :, None] == letters[:, None, :]).tril(-1).any(-1).long()
        seen[torch.arange(T) >= lengths[:, None]] = -100  # no letter
        return model(letters, lengths), seen

    return learned(model, batch, steps)


def main(timed_steps: int = 20) -> list[Compared]:
    return [compare("tagger, GRU", train, timed_steps=timed_steps)]


if __name__ == "__main__":
    main()
