# SPDX-License-Identifier: Apache-2.0
"""What the kernels ran and what was left to PyTorch, counted and named."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

__all__ = ["Explanation", "explain"]

_taken: Counter[str] = Counter()
_left: Counter[tuple[str, str]] = Counter()
_again: Counter[str] = Counter()


class Explanation(NamedTuple):
    """Counts of calls since the start or the last `explain(reset=True)`.

    taken: by operation, those that ran on the kernels. left: by operation and reason, those that ran on PyTorch's own
    operation. again: by reason, forward passes that ran a second time because backward needed them.
    """

    taken: dict[str, int]
    left: dict[tuple[str, str], int]
    again: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{name}: {count} on bptt" for name, count in sorted(self.taken.items())]
        lines += [f"{name}: {count} left to PyTorch ({why})" for (name, why), count in sorted(self.left.items())]
        lines += [f"forward ran again: {count} ({why})" for why, count in sorted(self.again.items())]
        return "\n".join(lines) or "no calls yet"


def explain(reset: bool = False) -> Explanation:
    """Return how many calls ran on the kernels, how many were left to PyTorch, and why; `print` it for a short text.

    Args: reset, whether to begin again at 0 (default False). With several threads the counts may miss a few calls.

    >>> import torch, bptt.torch
    >>> _ = bptt.torch.explain(reset=True)
    >>> with bptt.torch.enabled():
    ...     y, h = torch.nn.GRU(3, 4)(torch.ones(5, 1, 3))
    ...     y, h = torch.nn.GRU(3, 4).bfloat16()(torch.ones(5, 1, 3).bfloat16())
    >>> print(bptt.torch.explain())
    gru: 1 on bptt
    gru: 1 left to PyTorch (dtype bfloat16)
    """
    found = Explanation(dict(_taken), dict(_left), dict(_again))
    if reset:
        for each in (_taken, _left, _again):
            each.clear()
    return found


def count_taken(name: str) -> None:
    """Count a call that runs on the kernels."""
    _taken[name] += 1


def count_left(name: str, why: str) -> None:
    """Count a call that runs on PyTorch's own operation."""
    _left[name, why] += 1


def count_again(why: str) -> None:
    """Count a forward pass that runs again."""
    _again[why] += 1
