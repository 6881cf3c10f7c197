# SPDX-License-Identifier: Apache-2.0
"""LSTM and GRU of pytorch-forecasting, subclasses of PyTorch's that pack rows of any length, 0 too: an encoder and a
decoder, as in its forecasters.

    pip install 'bptt[torch-programs]' && python examples/torch/pytorch_forecasting_layers.py
"""

from __future__ import annotations

from typing import Any

import torch
from harness import Compared, compare
from pytorch_forecasting.models.nn.rnn import GRU, LSTM

B, T, HORIZON, FEATURES, HIDDEN = 64, 60, 12, 8, 64


def training(kind: Any) -> Any:
    def train(steps: int) -> list[Any]:
        encoder = kind(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        decoder = kind(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        head = torch.nn.Linear(HIDDEN, 1)
        parameters = [each for module in (encoder, decoder, head) for each in module.parameters()]
        optimizer, losses = torch.optim.Adam(parameters, lr=1e-3), []
        for _ in range(steps):
            past, future = torch.randn(B, T, FEATURES), torch.randn(B, HORIZON, FEATURES)
            target, lengths = future.cumsum(1).mean(-1, keepdim=True), torch.randint(0, T + 1, (B,))
            _, state = encoder(past, lengths=lengths, enforce_sorted=False)
            y, _ = decoder(future, hx=state, lengths=torch.full((B,), HORIZON), enforce_sorted=False)
            loss = (head(y) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return [*losses, head(y)]

    return train


def main(timed_steps: int = 10) -> list[Compared]:
    return [
        compare(f"pytorch-forecasting {kind.__name__}", training(kind), timed_steps=timed_steps) for kind in (LSTM, GRU)
    ]


if __name__ == "__main__":
    main()
