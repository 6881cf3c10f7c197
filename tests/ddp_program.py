# SPDX-License-Identifier: Apache-2.0
"""Trains a model of PyTorch's layers on bptt's kernels, alone or under torchrun; test_distributed.py starts it.

Its argument is the beginning of the name of a file for the weights; it prints how many calls ran on the kernels.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist

import bptt.torch


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(5, 8, num_layers=2, bidirectional=True)
        self.gru = torch.nn.GRU(16, 8)
        self.out = torch.nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(self.lstm(x)[0])[0])


def main() -> None:
    torch.set_num_threads(1)
    together = "RANK" in os.environ
    if together:
        dist.init_process_group("gloo")
    rank, count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    torch.manual_seed(0)
    model: Any = Model()
    x, target = torch.randn(12, 6, 5), torch.randn(12, 6, 2)
    if together:
        model = torch.nn.parallel.DistributedDataParallel(model)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    bptt.torch.enable()
    for _ in range(10):
        sgd.zero_grad()
        torch.nn.functional.mse_loss(model(x[:, rank::count]), target[:, rank::count]).backward()
        sgd.step()
    found = bptt.torch.explain()
    assert not found.left, found
    torch.save([each.detach() for each in model.parameters()], f"{sys.argv[1]}.{rank}.pt")
    print(f"{sum(found.taken.values())} calls")
    if together:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
