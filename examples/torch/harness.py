# SPDX-License-Identifier: Apache-2.0
"""Runs a training with PyTorch's own operations and with bptt's, compares what it finds, and prints both times.

The programs beside this file use it. A training is a function of a number of steps that returns its losses and outputs;
each run begins with the same seeds. `compare` takes 3 steps for the results and more for the times: on one thread it
shows processor time, on two the time that passes, each the least of several runs that take turns.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

import bptt.torch

THREADS = (1, 2)
Train = Callable[[int], Iterable[Any]]


class Compared(NamedTuple):
    """The largest relative difference, what `explain` counted, and (PyTorch's, ours) seconds by number of threads."""

    difference: float
    explained: bptt.torch.Explanation
    seconds: dict[int, tuple[float, float]]


def lightning(callback: type, steps: int) -> tuple[list[Any], dict[str, Any]]:
    """A list that gets the gradients and the loss of each step, and a trainer's arguments. callback: Lightning's."""
    found: list[Any] = []

    class Losses(callback):  # type: ignore[misc]
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            gradients = [each.grad.flatten() for each in module.parameters() if each.grad is not None]
            found.append(torch.cat(gradients).clone())

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
            found.append(outputs["loss"].detach().clone())

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return found, {"accelerator": "cpu", "max_steps": steps, "callbacks": [Losses()], **quiet}


def seeded(train: Train, steps: int, ours: bool) -> list[np.ndarray]:
    """What a training finds, from the same seeds each time."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    inside: AbstractContextManager[None] = bptt.torch.enabled() if ours else nullcontext()
    with inside:
        return [np.asarray(each.detach() if isinstance(each, torch.Tensor) else each) for each in train(steps)]


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference of any two arrays, relative to the largest element."""
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def compare(
    name: str, train: Train, theirs: Train | None = None, *, timed_steps: int = 20, repeats: int = 3
) -> Compared:
    """Run, print, return. theirs: the training without bptt, where it is another function; timed_steps: 0 for none."""
    theirs = theirs or train
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = seeded(theirs, 3, False)
    bptt.torch.explain(reset=True)
    found = difference(seeded(train, 3, True), expected)
    print(f"{name}: differs by {found:.1e}")
    explained, seconds = bptt.torch.explain(), {}
    print("    " + str(explained).replace("\n", "; "))
    for n in THREADS if timed_steps else ():
        clock = time.process_time if n == 1 else time.perf_counter
        torch.set_num_threads(n)
        best = [float("inf")] * 2
        for _ in range(repeats):
            for i, run in enumerate((theirs, train)):
                start = clock()
                seeded(run, timed_steps, bool(i))
                best[i] = min(best[i], clock() - start)
        seconds[n] = best[0], best[1]
        print(f"    threads: {n}  PyTorch {best[0]:.3f} s  bptt {best[1]:.3f} s  {best[0] / best[1]:.2f}x", flush=True)
    torch.set_num_threads(threads)
    return Compared(found, explained, seconds)
