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
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt.train import Step, Validation

__all__ = ["Progress", "StopRequest", "flush_streams", "open_missing_streams", "watched"]

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
    """A bar on a terminal; otherwise (a log file) a line for each validation and at least every minute."""

    def __init__(self, steps: int) -> None:
        self.steps, self.made, self.characters, self.loss = steps, 0, 0, 0.0
        self.start = self._shown = time.perf_counter()
        self._bar: Any = None
        self._last: Step | None = None
        self._validation, self._validating_s = "", 0.0

    def begin(self, done: int) -> None:
        """Start, after `done` steps of an earlier call."""
        self.start = self._shown = time.perf_counter()
        self._bar = _bar(self.steps, "{percentage:3.0f}% |{bar}| {remaining} left{postfix}", initial=done)

    def show(self, step: Step) -> None:
        """Count one step and show it; `loss` is shown as an average over about the last 20."""
        self._last = step
        self.made += 1
        self.characters += step.targets
        self.loss += (step.loss - self.loss) * max(1 / self.made, 0.05)
        with suppress(OSError):  # training goes on where nobody reads stderr any more
            if self._bar is not None:
                self._bar.set_postfix_str(self._figures(), refresh=False)
                self._bar.update()
            elif time.perf_counter() - self._shown > 60:
                self._print_line()

    def validated(self, validation: Validation) -> None:
        """Show the loss on the held-out text from now on."""
        self._validation = f"validation {validation.loss:.3f}, "
        self._validating_s += validation.time_s
        if self._bar is None:
            with suppress(OSError):
                self._print_line()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()

    def summary(self, verb: str) -> str:
        """Return one line about the run so far, its validations left out."""
        return f"{verb} {self.characters:,} characters in {self._time_s():.1f} s ({self._rate()} characters/s)"

    def _print_line(self) -> None:
        if self._last is not None:
            self._shown = time.perf_counter()
            done = f"step {self._last.number + 1:,} of {self.steps:,}"
            print(f"{done}: {self._figures()}, {self._rate()} characters/s", file=sys.stderr, flush=True)

    def _figures(self) -> str:
        norm = 0.0 if self._last is None else self._last.grad_norm
        return f"loss {self.loss:.3f}, {self._validation}grad norm {norm:.2f}"

    def _rate(self) -> str:
        return f"{self.characters / self._time_s():,.0f}"

    def _time_s(self) -> float:
        return time.perf_counter() - self.start - self._validating_s


def watched(what: str) -> Callable[[Any], Iterator[Any]]:
    """A function that goes through something of known length and shows how far it is, once that has taken a second.

    On a terminal it is a bar that goes away at the end, otherwise a line after ten seconds and then every minute.
    """

    def go_through(parts: Any) -> Iterator[Any]:
        total, start = len(parts), time.perf_counter()
        shown, bar = start - 50, None
        for done, part in enumerate(parts):
            now = time.perf_counter()
            with suppress(OSError):
                if bar is None and now - start > 1 and sys.stderr.isatty():
                    form = what + " {percentage:3.0f}% |{bar}| {remaining} left"
                    bar = _bar(total, form, initial=done, leave=False)
                elif bar is not None:
                    bar.update()
                elif now - shown > 60:
                    shown = now
                    print(f"{what}: {done / total:.0%}", file=sys.stderr, flush=True)
            yield part
        if bar is not None:
            with suppress(OSError):
                bar.close()

    return go_through


def _bar(total: int, form: str, *, initial: int = 0, leave: bool = True) -> Any:
    """A bar where stderr is a terminal, else None."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    # some terminals report no columns and no rows; tqdm would print nothing there
    columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return tqdm(
        total=total,
        initial=initial,
        leave=leave,
        bar_format=form,
        dynamic_ncols=columns > 0,
        ncols=80,
        nrows=24,
        file=sys.stderr,
    )
