# SPDX-License-Identifier: Apache-2.0
"""Forecasts of one column of a CSV file: the work of `bptt forecast` without the terminal.

Nothing is printed here and no signal is handled. table.py reads the file, dates.py and steps.py its dates; peers.py has
the forecasts to compare with and finds the season; model.py is the forecaster, training.py trains and measures it;
picture.py draws.
"""

from bptt.forecasting.dates import Dates, dates_of, with_absent_rows
from bptt.forecasting.model import CELLS, Forecaster, Network, facts_of
from bptt.forecasting.peers import season_of
from bptt.forecasting.table import Table, read_table
from bptt.forecasting.training import Judgement, Parts, Settings, divide, judge, train, training_rows, windows_of

__all__ = [
    "CELLS",
    "Dates",
    "Forecaster",
    "Judgement",
    "Network",
    "Parts",
    "Settings",
    "Table",
    "dates_of",
    "divide",
    "facts_of",
    "judge",
    "read_table",
    "season_of",
    "train",
    "training_rows",
    "windows_of",
    "with_absent_rows",
]
