# SPDX-License-Identifier: Apache-2.0
"""The dates of a table: which column and form they have, whether they ascend by an even step, and which come next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from bptt._arrays import brief
from bptt.forecasting.steps import Step, step_of, steps_between
from bptt.forecasting.table import NUMBER as FLOAT
from bptt.forecasting.table import Table

__all__ = ["Dates", "dates_of", "with_absent_rows"]

NO_DATES = "none"  # instead of a column: count the rows
ISO, QUARTER, NUMBER = "ISO 8601", "quarters", "row numbers"
# Of strptime. ISO 8601 with dashes is apart: it may have a time, fractions of seconds and an offset from UTC.
FORMS = (
    "%Y", "%Y%m", "%Y%m%d", "%Y-%m", "%Y/%m", "%YM%m", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%m.%Y", "%m/%Y",
    "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S",
    "%d-%m-%Y", "%d-%m-%Y %H:%M", "%d-%m-%Y %H:%M:%S", "%m-%d-%Y", "%m-%d-%Y %H:%M", "%m-%d-%Y %H:%M:%S",
    "%b %Y", "%B %Y", "%b-%Y", "%b-%d-%Y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y",
)  # fmt: skip
DIGITS = {"%Y": 4, "%Y%m": 6, "%Y%m%d": 8}  # strptime takes fewer
QUARTERS = re.compile(r"(\d{4})([- ]?[Qq])([1-4])")
# Columns of whole numbers are dates only if they have such a name. (Sales of 1990 pieces are no year.)
DATE_NAMES = {"date", "datetime", "day", "ds", "month", "period", "time", "timestamp", "year", "yyyymmdd", "yyyymm"}
COUNTING_NAMES = {"", "index", "row", "step", "t"}


@dataclass(frozen=True)
class Dates:
    """The dates [T] of a series.

    - `column`: their name, None where the rows are counted. `values`: datetime (in UTC where they have an offset) or
      int. `form`: of their text. `example`: the last of them as text.
    """

    column: str | None
    values: Sequence[Any]
    step: Step
    form: str
    example: str

    def value(self, k: int) -> Any:
        """The date of row k; after the last row, the steps go on."""
        T = len(self.values)
        if k < T:
            return self.values[k]
        try:
            return self.step.after(self.values[-1], k - T + 1)
        except (OverflowError, ValueError):
            raise ValueError("the forecast goes beyond the year 9999, expected a smaller --horizon") from None

    def text(self, k: int) -> str:
        """The date of row k in the form that the file has."""
        value = self.value(k)
        if self.form == NUMBER:
            return str(value)
        if self.form == QUARTER:
            match = QUARTERS.fullmatch(self.example)
            return f"{value.year}{match[2] if match else 'Q'}{(value.month + 2) // 3}"
        return _iso_text(value, self.example) if self.form == ISO else value.strftime(self.form)


def dates_of(table: Table, column: str | None = None, without: str | None = None) -> Dates:
    """The dates of a table, which ascend by an even step.

    Args: column: their name; "none": count the rows from 1; None: the first column but `without` that begins with a
        date (with a number only where its name says so, as "year" does), else count the rows.
    Raises: ValueError, which names the first line that is not a date or not one step after the line before.

    >>> table = Table("wind.csv", ("day", "wind"), [["2024-01-31", "3"], ["2024-02-29", "4"]], [2, 3])
    >>> dates = dates_of(table)
    >>> dates.step.name, dates.text(2), dates.text(3)
    ('1 month', '2024-03-31', '2024-04-30')
    """
    column = _column(table, column, without)
    if column is None:
        return Dates(None, range(1, len(table.rows) + 1), Step(count=1), NUMBER, "")
    cells = table.cells(column)
    if len(cells) < 2:
        raise ValueError(f"{table.name} has one row, expected a series")
    return _even(table, column, cells, _readings(table, column, cells))


def with_absent_rows(table: Table, column: str | None = None, without: str | None = None) -> Table:
    """The table with an empty row for each date that is absent, where all dates are whole steps apart.

    Any other table is returned as it is, and so is one of which more rows would be empty than not: `dates_of` then says
    what is wrong. An empty row has the line number of the row that follows it.

    Args: as of `dates_of`.

    >>> table = Table("wind.csv", ("day", "wind"), [[f"2024-01-0{day}", "3"] for day in (1, 2, 4)], [2, 3, 4])
    >>> with_absent_rows(table).rows
    [['2024-01-01', '3'], ['2024-01-02', '3'], ['2024-01-03', ''], ['2024-01-04', '3']]
    """
    column = _column(table, column, without)
    if column is None or len(table.rows) < 2:
        return table
    cells = table.cells(column)
    fitting = []
    for form, values in _readings(table, column, cells).items():
        step = step_of(values)[0]
        counts = _counts(step, values)
        if counts is not None:
            fitting.append((Dates(column, values, step, form, cells[-1]), counts))
    if len(fitting) != 1:
        return table
    dates, counts = fitting[0]
    k, rows, lines = table.columns.index(column), [table.rows[0]], [table.lines[0]]
    for row, line, count, before in zip(table.rows[1:], table.lines[1:], counts, dates.values, strict=False):
        for n in range(1, count):
            text = replace(dates, values=[before]).text(n)
            rows.append([text if j == k else "" for j in range(len(table.columns))])
            lines.append(line)
        rows.append(row)
        lines.append(line)
    return replace(table, rows=rows, lines=lines)


def _counts(step: Step, values: Sequence[Any]) -> list[int] | None:
    """The steps from each date to the next.

    None where one of them is not a whole number of steps, forward, or where more dates would be absent than there are.
    """
    counts: list[int] = []
    for before, after in pairwise(values):
        try:
            counts.append(steps_between(step, before, after))
        except (OverflowError, ValueError):
            return None
        if not counts[-1]:
            return None
    return counts if sum(counts) <= 2 * len(values) else None


def _column(table: Table, column: str | None, without: str | None) -> str | None:
    """The column of the dates; None where the rows are counted."""
    if column is None:
        others = [name for name in table.columns if name != without and table.columns.count(name) == 1]
        dated = [name for name in others if _begins_with_date(table, name)]
        return next(iter(dated or [name for name in others if _named_date(table, name)]), None)
    return None if column == NO_DATES and NO_DATES not in table.columns else column


def _begins_with_date(table: Table, name: str) -> bool:
    cell = table.cells(name)[0]
    if cell.isdecimal():
        return name.lower() in DATE_NAMES | COUNTING_NAMES
    if FLOAT.fullmatch(cell) and name.lower() not in DATE_NAMES:  # 1.0823 is no month of the year 823
        return False
    return any(_read(cell, form) is not None for form in (ISO, QUARTER, *FORMS))


def _named_date(table: Table, name: str) -> bool:
    """Whether a column has the name and the looks of dates; where they cannot be read, that must not be silent."""
    return name.lower() in DATE_NAMES and not FLOAT.fullmatch(table.cells(name)[0])


def _readings(table: Table, column: str, cells: list[str]) -> dict[str, list[Any]]:
    """The values in each form that all cells have; ValueError where there is none."""
    found: dict[str, list[Any]] = {}
    read = 0  # rows that some form can read
    for form in (
        (NUMBER,) if column.lower() in COUNTING_NAMES and cells[0].isdecimal() else (ISO, QUARTER, *FORMS, NUMBER)
    ):
        if form == NUMBER and found:
            break
        values: list[Any] = []
        for cell in cells:
            value = _read(cell, form)
            if value is None or (form == ISO and values and (value.tzinfo is None) != (values[0].tzinfo is None)):
                break  # a time with an offset from UTC and one without cannot be compared
            values.append(value)
        if len(values) == len(cells):
            found[form] = values
        read = max(read, len(values))
    if not found:
        has = f"{table.name} has {brief(cells[read])} in line {table.lines[read]}, column {brief(column)}"
        raise ValueError(f"{has}, expected dates of one form, such as 2024-12-31; --date {NO_DATES} counts the rows")
    return found


def _even(table: Table, column: str, cells: list[str], found: dict[str, list[Any]]) -> Dates:
    """The reading with an even step; ValueError where there is none, or more than one."""
    steps = {form: step_of(values) for form, values in found.items()}
    even = [form for form, (_, uneven) in steps.items() if uneven is None]
    if len(even) > 1:
        forms = " and ".join(each.replace("%d", "DD").replace("%m", "MM").replace("%Y", "YYYY") for each in even[:2])
        has = f"{table.name} has dates in column {brief(column)} that can be read as {forms}"
        raise ValueError(f"{has}, expected dates such as 2024-12-31; --date {NO_DATES} counts the rows")
    form = even[0] if even else next(iter(found))
    step, k = steps[form]
    if k is not None:
        has = f"{table.name} has {brief(cells[k])} after {brief(cells[k - 1])} in line {table.lines[k]}"
        usual = f"an even step ({step.name})" if step.unit[0] else "dates that ascend"
        fill = " --missing fills absent rows," if _counts(step, found[form]) is not None else ""
        raise ValueError(f"{has}, column {brief(column)}, expected {usual};{fill} --date {NO_DATES} counts the rows")
    return Dates(column, found[form], step, form, cells[-1])


def _read(cell: str, form: str) -> Any:
    """The value of a cell, None where it does not have the form."""
    try:
        if form == ISO:
            if cell[4:5] != "-" or len(cell) < 10:
                return None
            value = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", cell))
            return value.astimezone(timezone.utc) if value.tzinfo is not None else value
        if form == QUARTER:
            match = QUARTERS.fullmatch(cell)
            return datetime(int(match[1]), 3 * int(match[3]) - 2, 1) if match else None
        if form == NUMBER:
            return int(cell)
        if form in DIGITS and not (cell.isdecimal() and len(cell) == DIGITS[form]):
            return None
        return datetime.strptime(cell, form)
    except (OverflowError, ValueError):
        return None


def _iso_text(value: datetime, example: str) -> str:
    """A date as ISO 8601, with the separator, the precision and the offset of another one."""
    if len(example) == 10:
        return value.date().isoformat()
    like = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", example))
    if like.tzinfo is not None:
        value = value.astimezone(like.tzinfo)
    parts = re.fullmatch(r"[\d-]{10}(.)(\d\d(:\d\d)?(:\d\d)?)(\.\d+)?.*", example)
    separator, time = (parts[1], parts[2]) if parts else ("T", "00:00:00")
    fraction = len(parts[5]) - 1 if parts and parts[5] else 0
    if value.microsecond % 1000 or fraction > 3:
        precision = "microseconds"
    elif value.microsecond or fraction:
        precision = "milliseconds"
    else:
        precision = "minutes" if len(time) <= 5 and not value.second else "seconds"
    text = value.isoformat(separator, precision)
    return text.removesuffix("+00:00") + "Z" if example[-1] in "Zz" else text
