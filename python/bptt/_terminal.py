# SPDX-License-Identifier: Apache-2.0
"""The terminal of the command line: streams, progress on stderr, Ctrl-C as a request instead of an exception.

Used by the command line only; knows nothing of models.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt.train import Step

__all__ = ["Progress", "StopRequest", "flush_streams", "open_missing_streams"]

SAME_REQUEST_S = 1.0


def open_missing_streams() -> None:
    """Redirect an output that the caller has closed (`>&-`) to /dev/null.

    Python has no stream for a closed output, and the next file to be opened would get its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process


def flush_streams() -> None:
    """Flush stdout and stderr, or drop their contents: at its exit Python would try again and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class StopRequest:
    """While entered, the first Ctrl-C (or SIGTERM) sets `asked`; one more than a second later raises KeyboardInterrupt.

    Further signals within that second count as the same request: people press twice, and tools send two signals.
    """

    def __init__(self) -> None:
        self.asked = False
        self._since_s = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers in the main thread only
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if not self.asked:
            self.asked = True
            self._since_s = now_s
        elif now_s - self._since_s > SAME_REQUEST_S:
            raise KeyboardInterrupt


class Progress:
    """A bar on a terminal; otherwise (a log file) a line for each tenth of the run and at least every minute."""

    def __init__(self, steps: int) -> None:
        self.bar: Any = None
        self.steps, self.characters, self.loss, self.start = steps, 0, 0.0, time.perf_counter()
        self._shown = self.start
        if sys.stderr.isatty():
            from tqdm import tqdm

            # some terminals report no columns and no rows; tqdm would print nothing there
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
        """Count one step and show it; `loss` is shown as an average over about the last 20."""
        done = step.number + 1
        self.characters += step.targets
        self.loss += (step.loss - self.loss) * max(1 / done, 0.05)
        with suppress(OSError):  # training goes on where nobody reads stderr any more
            if self.bar is not None:
                self.bar.set_postfix_str(self._figures(step), refresh=False)
                self.bar.update()
            elif self._is_due(done):
                print(f"step {done:,} of {self.steps:,}: {self._figures(step)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()

    def summary(self, verb: str) -> str:
        """Return one line about the run so far."""
        time_s = time.perf_counter() - self.start
        return f"{verb} {self.characters:,} characters in {time_s:.1f} s ({self.characters / time_s:,.0f} characters/s)"

    def _is_due(self, done: int) -> bool:
        now = time.perf_counter()
        due = done * 10 // self.steps > (done - 1) * 10 // self.steps or now - self._shown > 60
        if due:
            self._shown = now
        return due

    def _figures(self, step: Step) -> str:
        rate = self.characters / (time.perf_counter() - self.start)
        return f"loss {self.loss:.3f}, grad norm {step.grad_norm:.2f}, {rate:,.0f} characters/s"
