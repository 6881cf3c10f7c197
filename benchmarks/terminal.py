# SPDX-License-Identifier: Apache-2.0
"""The table that grows while the benchmark runs, with a line of progress below it on a terminal."""

import shutil
import sys
import time

from benchmarks.results import Pair

HEADER = (
    f"{'case':<40} {'peer':<20} {'thr':>3} {'ours':>10} {'peer':>10} {'ratio':>8}  {'95 % interval':<15} "
    f"{'GF/s':>6} {'floor':>10} {'of limit':>8}"
)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    unit, scale = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if seconds >= s), ("us", 1e-6))
    value = seconds / scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


class Screen:
    """Rows go to stdout; progress only where that is a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._start = time.monotonic()
        self._live = sys.stdout.isatty()
        self._what = ""

    def note(self, text: str) -> None:
        """A line among the rows."""
        self._clear()
        print(text, flush=True)
        self._draw()

    def header(self) -> None:
        """Above the first row."""
        self.note(HEADER)

    def row(self, pair: Pair, flops: int, floor_s: float | None) -> None:
        """One pair, of one process."""
        ours_s = pair.ours_s[1]
        floor = f"{duration(floor_s):>10} {floor_s / ours_s:>8.2f}" if floor_s else f"{'':>10} {'':>8}"
        self.note(
            f"{pair.case:<40} {pair.peer:<20} {pair.threads:>3} {duration(ours_s):>10} {duration(pair.peer_s[1]):>10} "
            f"{pair.ratio:>7.2f}x  [{pair.interval[0]:.2f}, {pair.interval[1]:.2f}]".ljust(112)
            + f"{flops / ours_s / 1e9:>6.1f} {floor}"
        )

    def progress(self, what: str, done: int = 0) -> None:
        """Show what runs now; `done` more of the work is done."""
        self._done += done
        self._what = what
        self._draw()

    def close(self) -> None:
        """Leave the terminal clean."""
        self._clear()
        self._live = False

    def _draw(self) -> None:
        if not self._live or not self._what:
            return
        spent = time.monotonic() - self._start
        share = min(1.0, self._done / max(1, self._total))
        bar = "#" * int(20 * share)
        line = f"[{bar:<20}] {100 * share:3.0f} %  {spent / 60:4.1f} min  {self._what}"
        sys.stdout.write("\r\x1b[2K" + line[: shutil.get_terminal_size().columns - 1])
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._live:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()
