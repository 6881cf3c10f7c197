# SPDX-License-Identifier: Apache-2.0
"""The files of `bptt forecast`, a table, a picture and the model: checked before the work, written after it."""

from __future__ import annotations

import csv
import io
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bptt._atomic_file import check_replaceable, replace_file
from bptt._pictures import written
from bptt.cli.files import can_draw, check_picture, written_at

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["Outputs"]

PICTURE = "forecast.png"
COLUMNS = ("forecast", "low", "high")
DIGITS = 8  # of a number in the table


@dataclass(frozen=True)
class Outputs:
    """The names of the files to write: `picture` is None without matplotlib, `model` with --use.

    `replaced`: the model that is replaced, "" where there is none.
    """

    table: str
    picture: str | None
    model: str | None
    replaced: str = ""

    @classmethod
    def checked(cls, table: str, picture: str | None, model: str | None) -> Outputs:
        """The names, after a check that no file of another kind would be replaced.

        Raises: ValueError or OSError for a file that cannot or must not be written, and for a picture that was asked
            for without matplotlib.
        """
        if picture is None:
            picture = PICTURE if can_draw() else None
        check_picture(picture)
        check_replaceable(table)
        _check_table(table)
        return cls(table, picture, model, "" if model is None else _replaced(model))

    def write_table(self, date: str, labels: list[str], future: Array, interval: Array | None, scale: float) -> None:
        """Write a CSV file: the date, the forecast and, where there is an interval [H,2], its bounds.

        scale: how much the series varies. A number has 8 digits, and more where it is large beside the scale.
        """
        digits = min(17, DIGITS + max(0, math.ceil(math.log10(max(abs(future).max() / scale, 1.0)))))
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow([date, *COLUMNS[: 1 if interval is None else 3]])
        for k, label in enumerate(labels):
            numbers = [future[k]] if interval is None else [future[k], *interval[k]]
            rows.writerow([label, *(f"{value:.{digits}g}" for value in numbers)])
        replace_file(self.table, text.getvalue().encode())

    def write_picture(self, *facts: Any) -> str:
        """Draw `facts` with `forecasting.picture.draw`, and return a line that says where."""
        if self.picture is None:
            return "No picture: matplotlib is not installed (pip install 'bptt[plot]')"
        from bptt.forecasting.picture import draw

        written("bptt forecast", draw(*facts), self.picture)
        return f"Picture written to {self.picture}"


def _check_table(path: str) -> None:
    """A file that is there must be empty or a forecast."""
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            start = file.read(10_000)
        header: list[str] = []
        with suppress(csv.Error):
            header = next(csv.reader(io.StringIO(start, newline="")), [])
        if start and tuple(header[1:]) not in (COLUMNS, COLUMNS[:1]):
            raise ValueError(f"{path!r} exists and is no table of 'bptt forecast', expected another name for --out")


def _replaced(path: str) -> str:
    """Describe the forecaster that will be replaced, "" where there is none; ValueError for other files."""
    from bptt import checkpoint
    from bptt.forecasting import facts_of

    config = checkpoint.check_writable(path)
    if config is None:
        return ""
    try:
        column = facts_of(config.get("extra") or {}).get("column")
    except ValueError:
        raise ValueError(f"{path!r} exists and holds no forecaster, expected another name for --model") from None
    return f"{path} (a forecaster of column {column!r}, written {written_at(path)})"
