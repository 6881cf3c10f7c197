# SPDX-License-Identifier: Apache-2.0
"""What a long run needs from its terminal: progress on stderr, and Ctrl-C as a request instead of an exception.

Used by cli.py only; nothing here knows of models.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt.charlm import Step

__all__ = ["Progress", "StopRequest"]


class StopRequest:
    """While entered, the first Ctrl-C (or SIGTERM) sets `asked`; the second raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses to set handlers
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Progress:
    """A bar on a terminal; elsewhere (a log file) a plain line for each tenth of the run, or one per minute."""

    def __init__(self, steps: int) -> None:
        self.bar: Any = None
        self.steps, self.characters, self.loss, self.start = steps, 0, 0.0, time.perf_counter()
        self._shown = self.start
        if sys.stderr.isatty():
            from tqdm import tqdm

            # some terminals say that they have no columns and no rows; tqdm would then print nothing
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            self.bar = tqdm(
                total=steps,
                bar_format="{percentage:3.0f}% |{bar}| {remaining} left{postfix}",
                dynamic_ncols=columns > 0,
                ncols=80,
                nrows=24,
                file=sys.stderr,
            )

    def show(self, step: Step) -> None:
        """Take in one step; `loss` is shown averaged over about the last 20."""
        self.characters += step.characters
        self.loss += (step.loss - self.loss) * max(1 / step.number, 0.05)
        if self.bar is not None:
            self.bar.set_postfix_str(self._figures(step), refresh=False)
            self.bar.update()
        elif self._is_due(step.number):
            print(f"step {step.number:,} of {self.steps:,}: {self._figures(step)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    def summary(self, verb: str) -> str:
        """Return one line about the run so far."""
        time_s = time.perf_counter() - self.start
        return f"{verb} {self.characters:,} characters in {time_s:.1f} s ({self.characters / time_s:,.0f} characters/s)"

    def _is_due(self, number: int) -> bool:
        now = time.perf_counter()
        due = number * 10 // self.steps > (number - 1) * 10 // self.steps or now - self._shown > 60
        if due:
            self._shown = now
        return due

    def _figures(self, step: Step) -> str:
        rate = self.characters / (time.perf_counter() - self.start)
        return f"loss {self.loss:.3f}, grad norm {step.grad_norm:.2f}, {rate:,.0f} characters/s"
