# SPDX-License-Identifier: Apache-2.0
"""The training loop of the two classifiers beside this file, the tagger and the seq2seq loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def learned(model: torch.nn.Module, batch: Callable[[], tuple[Any, Any]], steps: int) -> list[Any]:
    """The losses of some steps of a classifier, and the last scores. batch: makes (scores [...,K], classes [...])."""
    losses, optimizer = [], torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        scores, classes = batch()
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, scores]
