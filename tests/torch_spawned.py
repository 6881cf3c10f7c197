# SPDX-License-Identifier: Apache-2.0
"""What new processes import, for test_torch_loops.py: a data set that runs a layer, and the work of a process."""

from __future__ import annotations

from typing import Any

import torch

import bptt.torch


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.out = torch.nn.GRU(4, 8), torch.nn.Linear(8, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(x)[0])


class Rows(torch.utils.data.Dataset):
    """Row i is what the model makes of a constant i, and whether that ran on the kernels."""

    def __init__(self) -> None:
        self.model = Model()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        bptt.torch.explain(reset=True)
        with torch.no_grad():
            y = self.model(torch.full((5, 1, 4), float(i)))
        return torch.cat([y.flatten(), torch.tensor([float(sum(bptt.torch.explain().taken.values()))])])


def enable(worker: int = 0) -> None:
    """What a new process does first: `enable` concerns one process."""
    torch.set_num_threads(1)
    bptt.torch.enable()


def trained(model: Any, x: Any) -> Any:
    """Make five updates; return the model."""
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        sgd.zero_grad()
        model(x).square().mean().backward()
        sgd.step()
    return model


def train(rank: int, model: Any, x: Any, folder: str) -> None:
    """The work of a process of `torch.multiprocessing.spawn`; the model's weights are shared with the parent."""
    enable()
    trained(model, x)
    assert not bptt.torch.explain().left
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
