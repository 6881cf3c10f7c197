# SPDX-License-Identifier: Apache-2.0
"""A CSV file as columns of text, and a column as numbers. Every error names the file and the line.

The file has a header; the separator is a comma, a semicolon or a tab; numbers have a decimal point; the text is UTF-8,
with or without a byte order mark. Lines are counted from 1, as editors do: line 1 is usually the header.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import brief, cut, first_of

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["FILLINGS", "Table", "read_table"]

MISSING = {"", "na", "n/a", "nan", "null", "none"}  # a cell that says that there is no value, in any case
FILLINGS = ("previous", "interpolate")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # float() also takes "1_000" and "infinity"
FIGURES = re.compile(r"[\d.,:/ TZ+-]*\d[\d.,:/ TZ+-]*([eE][+-]?\d+)?")  # a number or a date, but no name of a column
LARGEST = 1e150  # the squares of larger numbers are infinite


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    - `name`: of the file, for messages. `columns`: names from the header, in order.
    - `rows`: for each row its cells, as many as there are columns. `lines`: for each row the line on which it ends.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def cells(self, column: str) -> list[str]:
        """The cells [T] of a column, without surrounding spaces.

        Raises: ValueError for a name that the header does not have or has more than once; it says which there are.
        """
        count = self.columns.count(column)
        if count != 1:
            has = f"{self.name} has {count or 'no'} column{'s' * (count > 1)} {brief(column)}"
            near = difflib.get_close_matches(column, self.columns, 1, 0.5) if not count else []
            nearest = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"{has}, expected one of {first_of(self.columns, 80)}{nearest}")
        k = self.columns.index(column)
        return [row[k].strip() for row in self.rows]

    def numbers(self, column: str, missing: str | None = None) -> tuple[Array, int]:
        """The values [T] of a column, float64, and how many of them were missing and are filled.

        Args: missing: None refuses missing values; "previous" repeats the last value before; "interpolate" draws a
            straight line between the values before and after. Both need a value in the first row, "interpolate" in the
            last row too: a guess at an end would be a forecast.
        Raises: ValueError, which names the line, for text that is not a number and for missing values.
        """
        cells = self.cells(column)
        absent = np.array([cell.lower() in MISSING for cell in cells])
        values = np.full(len(cells), np.nan)
        for k, cell in enumerate(cells):
            if not absent[k]:
                values[k] = self._number(column, k, cell)
        if absent.all():
            raise ValueError(f"{self.name} has no value in column {brief(column)}, expected numbers")
        if absent.any():
            self._check_missing(column, absent, missing)
            values = _filled(values, absent, missing)
        return values, int(absent.sum())

    def is_numeric(self, column: str) -> bool:
        """Whether a column has numbers and, apart from missing values, nothing else."""
        there = [cell for cell in self.cells(column) if cell.lower() not in MISSING]
        return bool(there) and all(NUMBER.fullmatch(cell) for cell in there)

    def _number(self, column: str, k: int, cell: str) -> float:
        number = float(cell) if NUMBER.fullmatch(cell) else np.nan
        if not abs(number) <= LARGEST:
            has = f"{self.name} has {brief(cell)} in line {self.lines[k]}, column {brief(column)}"
            comma = re.fullmatch(r"[+-]?[\d.]*,\d+", cell)
            expected = "a number, or nothing where it is missing"
            if comma:
                expected = "a decimal point: 3.5, not 3,5"
            elif NUMBER.fullmatch(cell):
                expected = f"a number between {-LARGEST:g} and {LARGEST:g}"
            raise ValueError(f"{has}, expected {expected}")
        return number

    def _check_missing(self, column: str, absent: Array, missing: str | None) -> None:
        count, first = int(absent.sum()), int(absent.argmax())
        values = f"{count:,} missing value{'s' * (count > 1)}"
        has = f"{self.name} has {values} in column {brief(column)}, the first in line {self.lines[first]}"
        if missing is None:
            raise ValueError(f"{has}, expected none, or --missing previous or interpolate to fill them")
        if absent[0]:
            raise ValueError(
                f"{has}, expected a value in the first row for --missing {missing}: remove the rows before"
            )
        if missing == "interpolate" and absent[-1]:
            expected = "expected a value in the last row for --missing interpolate: remove the rows after it"
            raise ValueError(f"{has}, {expected}")


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a CSV file.

    Empty lines are left out. Raises: OSError where the file cannot be read; ValueError, which names the line, for what
    is not UTF-8, has no header, no rows, or rows of another length than the header.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "wind.csv")
    >>> _ = path.write_text("day;wind\\n2024-01-01;3.5\\n2024-01-02;4.0\\n")
    >>> table = read_table(path)
    >>> table.columns, table.numbers("wind")[0].tolist()
    (('day', 'wind'), [3.5, 4.0])
    """
    name = os.fspath(path)
    lines = _lines(path, name)
    # strict: a quote that nothing closes would silently take all rows after it into one cell
    reader = csv.reader(lines, delimiter=_separator(lines), skipinitialspace=True, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row) and len(row) < 2:
                continue
            if not columns:
                columns = _columns(name, reader.line_num, row)
            elif len(row) != len(columns):
                has = f"{name} has {len(row)} cells in line {reader.line_num}"
                raise ValueError(
                    f"{has}, expected {len(columns)}, as the header has, separated by {reader.dialect.delimiter!r}"
                )
            else:
                rows.append(row)
                numbers.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{name} has no readable line {reader.line_num} ({error}), expected a CSV file") from error
    if not rows:
        raise ValueError(
            f"{name} has {'a header only' if columns else 'no text'}, expected a header and rows of numbers"
        )
    return Table(name, columns, rows, numbers)


def _lines(path: str | os.PathLike[str], name: str) -> list[str]:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise type(error)(f"cannot read {name!r} ({error.strerror}), expected a CSV file") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{name} has bytes in line {line} that are not UTF-8, expected a UTF-8 text") from error
    if "\0" in text:
        raise ValueError(f"{name} has zero bytes, expected a UTF-8 text: a CSV file")
    return list(io.StringIO(text, newline=""))  # not splitlines, which also splits at rare characters


def _separator(lines: list[str]) -> str:
    """The separator that gives the header and the first row the most cells, the same number of them."""
    first = [line for line in lines if line.strip()][:100]  # cells in quotes may have line ends

    def cells(separator: str) -> tuple[bool, int]:
        counts = []
        with suppress(csv.Error):  # which reading the rows reports
            counts += [len(row) for row in islice(csv.reader(first, delimiter=separator, skipinitialspace=True), 2)]
        count = counts[0] if counts else 0
        return count > 1 and len(set(counts)) == 1, count

    return max(",;\t", key=cells)


def _columns(name: str, line: int, row: list[str]) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in row)
    if all(FIGURES.fullmatch(cell) for cell in columns):
        has = f"{name} begins with figures in line {line} ({cut(', '.join(columns), 40)})"
        raise ValueError(f"{has}, expected a header: a line with the names of the columns")
    return columns


def _filled(values: Array, absent: Array, missing: str | None) -> Array:
    there = np.flatnonzero(~absent)
    if missing == "interpolate":
        filled: Array = np.interp(np.arange(len(values)), there, values[there])
    else:
        filled = values[there[np.searchsorted(there, np.arange(len(values)), side="right") - 1]]
    return filled
