# SPDX-License-Identifier: Apache-2.0
"""`bptt forecast`: continue a column of a CSV file, and say how good that would have been so far."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from bptt._terminal import StopRequest
from bptt.cli.files import check_different
from bptt.cli.forecast_files import Outputs
from bptt.cli.options import number, one_of, option, whole
from bptt.cli.output import INTERRUPTED, OK, count, say

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.forecasting import Dates, Forecaster, Judgement, Parts, Table
    from bptt.train import Run

__all__ = ["DESCRIPTION", "add"]

DESCRIPTION = (
    "Train a small recurrent network on a column of a CSV file, compare it on the held-out end with the last value and "
    "the value of a season ago, and write the forecast of what comes next, a picture and the model. Ctrl-C stops the "
    "training and keeps the best model so far (exit code 130); another Ctrl-C, more than a second later, quits at once."
)
# options that a saved model (--use) has settled
OF_TRAINING = (
    *("cell", "hidden", "layers", "length", "season", "least", "seed"),
    *("epochs", "lr", "validation", "test", "model"),
)
MODEL = "forecast.safetensors"
UNLIKE = 30  # times as much variation as in the training


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from bptt._runtime import MAX_THREADS
    from bptt.forecasting import CELLS, Network, Settings
    from bptt.forecasting.table import FILLINGS

    parser.add_argument("file", metavar="FILE", help="a CSV file with a header; separated by comma, semicolon or tab")
    parser.add_argument("--column", metavar="NAME", help="the series (default: the only column of numbers)")
    what = "dates, which must ascend by an even step; 'none' counts rows (default: the first column of dates)"
    parser.add_argument("--date", metavar="NAME", help=what)
    what = "fill missing values and rows: previous repeats, interpolate draws a line (default: they are refused)"
    option(parser, "--missing", one_of(*FILLINGS), None, what, "HOW")
    what = "steps to forecast (default: a season of 4 to 24 steps, else 12, at most a tenth of the series)"
    option(parser, "--horizon", whole(1, 10**5), None, what)
    model = parser.add_argument_group("model")
    option(model, "--cell", one_of(*CELLS), None, f"{', '.join(CELLS)} (default: {Network.cell})")
    option(model, "--hidden", whole(1, 65536), None, f"hidden units per layer (default: {Network.hidden})")
    option(model, "--layers", whole(1, 64), None, f"recurrent layers (default: {Network.layers})")
    option(model, "--length", whole(2, 10**6), None, "steps that it reads (default: two seasons, at least 24)")
    what = "steps of a season, 1 for none (default: found in the dates and by autocorrelation)"
    option(model, "--season", whole(1, 10**6), None, what)
    option(model, "--least", number(-1e300, 1e300), None, "no forecast is below it, such as 0 for counts")
    option(model, "--seed", whole(0, 2**63 - 1), None, "the same seed gives the same model (default: 0)")
    training = parser.add_argument_group("training")
    option(training, "--epochs", whole(1, 10**6), None, f"the most passes (default: {Settings.epochs})")
    rate = number(0, 1000, above=True)
    option(training, "--lr", rate, None, f"first learning rate; falls to 0 (default: {Settings.lr:g})")
    share = number(0, 10**9, above=True)
    what = "share or number of the rows before these that stop the training (default: 0.15)"
    option(training, "--test", share, None, "share or number of the last rows, held out to measure (default: 0.2)")
    option(training, "--validation", share, None, what)
    run = parser.add_argument_group("the run and its files")
    option(run, "--threads", whole(1, MAX_THREADS), None, f"1 to {MAX_THREADS} processor threads (default: all cores)")
    option(run, "--out", str, "forecast.csv", "file for the forecast", "PATH")
    option(run, "--plot", str, None, "file for the picture, .png, .pdf or .svg (default: forecast.png)", "PATH")
    option(run, "--model", str, None, f"file for the model (default: {MODEL})", "PATH")
    option(run, "--use", str, None, "forecast with this model of 'bptt forecast', without training", "PATH")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    import bptt
    from bptt.forecasting import Forecaster, read_table

    for name in _given(args, *OF_TRAINING):
        if args.use is not None:
            raise ValueError(f"--use and --{name} are given, expected one of them: a saved model is not trained")
    model = None if args.use is not None else MODEL if args.model is None else args.model
    names = {"FILE": args.file, "--use": args.use, "--out": args.out, "--plot": args.plot, "--model": model}
    check_different(names)
    outputs = Outputs.checked(args.out, args.plot, model)
    forecaster = None if args.use is None else Forecaster.load(args.use)
    table = read_table(args.file)
    series = _Series(table, args, None if forecaster is None else forecaster.column)
    if args.threads is not None:
        bptt.set_num_threads(args.threads)
    if forecaster is not None:
        _use(series, forecaster, args, outputs)
        return OK
    return _train(series, args, outputs)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The values of those options that the command line has."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


class _Series:
    """The column that was asked for, and its dates."""

    def __init__(self, table: Table, args: argparse.Namespace, known: str | None) -> None:
        from bptt.forecasting import dates_of, with_absent_rows

        column = args.column or (known if known in table.columns else None)
        if column is not None:
            table.cells(column)  # a wrong name is named before a date that is missing
        absent = -len(table.rows)
        if args.missing is not None:
            table = with_absent_rows(table, args.date, column)
        absent += len(table.rows)
        self.dates: Dates = dates_of(table, args.date, column)
        self.column = column or _only_column(table, self.dates.column)
        self.values, filled = table.numbers(self.column, args.missing)
        self.T = len(self.values)
        step = self.dates.step.name
        rows = f"{self.T:,} rows"
        if self.dates.column is not None:
            rows += f" from {self.dates.text(0)} to {self.dates.text(self.T - 1)}, step {step}"
        say(f"Series:   {table.name}, column {self.column!r}, {rows}")
        if filled:
            of = f", {absent:,} of dates without a row" if absent else ""
            say(f"          {count(filled, 'missing value')} filled{of} (--missing {args.missing})")


def _only_column(table: Table, dates: str | None) -> str:
    from bptt._arrays import first_of

    numeric = [name for name in table.columns if name != dates and table.is_numeric(name)]
    if len(numeric) != 1:
        has = f"{table.name} has {len(numeric) or 'no'} columns of numbers"
        raise ValueError(f"{has}, expected --column with one of {first_of(numeric or table.columns, 90)}")
    return numeric[0]


def _train(series: _Series, args: argparse.Namespace, outputs: Outputs) -> int:
    from bptt import get_num_threads
    from bptt.forecasting import Forecaster, Network, Settings, divide, judge

    shares = _given(args, "validation", "test")
    season = _season(series, args, shares)
    parts = divide(series.T, season, args.horizon, args.length, **shares)
    network = Network(parts.length, parts.horizon, **_given(args, "cell", "hidden", "layers"))
    settings = Settings(**_given(args, "epochs", "lr", "seed"))
    step = series.dates.step
    facts = {"season": season, "step": step.name, "seed": settings.seed, "least": args.least}
    forecaster = Forecaster.create(network, series.values[: parts.train], series.column, **facts)
    series.dates.value(series.T + parts.horizon - 1)  # there is such a date, or nothing is trained
    later = f"{parts.test - parts.train:,} to stop the training, the last {series.T - parts.test:,} held out"
    say(f"          {parts.train:,} rows to train on, {later}")
    units = f"{network.layers} x {network.cell} with {count(network.hidden, 'hidden unit')}"
    say(f"Model:    {units}, {count(forecaster.model.params.size, 'weight')}")
    say(f"          reads {count(parts.length, 'step')}, forecasts {_steps(parts.horizon, series.dates)}")
    if outputs.replaced:
        say(f"Replaces: {outputs.replaced}")
    with StopRequest() as stop:
        say(f"Training: up to {count(settings.epochs, 'epoch')} on {count(get_num_threads(), 'thread')}")
        say(_learn(forecaster, series.values, parts, settings, stop))
        judgement = judge(forecaster, series.values, parts)
        _say_judgement(judgement, parts, season)
        say("\nThe forecast is made by this model; it is not trained again on the held-out rows.")
        assert outputs.model is not None
        forecaster.save(outputs.model)
        _write(series, forecaster, parts.horizon, outputs, parts, judgement)
        say(f"Model written to {outputs.model}")
        say(f"With new rows: {shlex.join(_again(args, outputs.model))}")
        return INTERRUPTED if stop.asked else OK


def _again(args: argparse.Namespace, model: str) -> list[str]:
    """The command that forecasts with this model, from a file that is read in the same way."""
    reading = [word for name in ("date", "missing") if (value := getattr(args, name)) for word in (f"--{name}", value)]
    return ["bptt", "forecast", "--use", model, args.file, *reading]


def _season(series: _Series, args: argparse.Namespace, shares: dict[str, float]) -> int:
    """The length of the season that was given, or is found in the training part, and a line about it."""
    from bptt.forecasting import season_of, training_rows

    if args.season is not None:
        season, source = args.season, "given"
    else:
        usual = series.dates.step.season
        train = series.values[: max(0, training_rows(series.T, args.horizon, **shares))]
        season, correlation = season_of(train, usual)
        found = "the dates, confirmed by" if season == usual else "the"
        source = f"from {found} autocorrelation {correlation:.2f} in the training part"
    none = "no season, given" if args.season is not None else "no season found"
    say(f"          {f'season of {_steps(season, series.dates)}, {source}' if season > 1 else none}")
    return int(season)


def _steps(n: int, dates: Dates) -> str:
    """A number of steps, and how long they are."""
    return count(n, "step") if dates.column is None else f"{count(n, 'step')} ({dates.step.times(n)})"


def _learn(forecaster: Forecaster, values: Array, parts: Parts, settings: Any, stop: StopRequest) -> str:
    """Train to the end, or until stopped, with progress; return one line about the run."""
    from bptt import StopTraining
    from bptt.callbacks import LambdaCallback
    from bptt.forecasting import train

    def on_step(step: object) -> None:
        if stop.asked:
            raise StopTraining

    def on_epoch(run: Run) -> None:
        done, each = run.epoch + 1, max(1, settings.epochs // 10)
        if done % each == 0 and not bar:
            loss, validation = run.history.loss[-1], run.history.validation[-1].loss
            text = f"epoch {done:,} of {settings.epochs:,}: loss {loss:.4f}, validation {validation:.4f}"
            print(text, file=sys.stderr, flush=True)

    bar, start = sys.stderr.isatty(), time.perf_counter()
    watch = LambdaCallback(on_epoch=on_epoch)
    try:
        history = train(forecaster, values, parts, settings, on_step=on_step, callbacks=[watch], progress=bar)
    except FloatingPointError as error:
        raise ValueError("the loss grew beyond all numbers, expected a smaller --lr; nothing was written") from error
    verb = "Stopped after" if stop.asked else "Learned in"
    epochs = len(set(history.epoch))
    best = min((each.loss, k + 1) for k, each in enumerate(history.validation))[1] if history.validation else epochs
    kept = f"the weights after epoch {best:,} are kept" if history.validation else "no epoch was complete"
    return f"{verb} {count(epochs, 'epoch')}, {time.perf_counter() - start:.1f} s; {kept}"


def _say_judgement(judgement: Judgement, parts: Parts, season: int) -> None:
    names = {
        "this model": "this model",
        "naive": "naive (the last value)",
        "seasonal naive": f"seasonal naive ({season} steps ago)",
    }
    ahead = "1 step ahead" if parts.horizon == 1 else f"1 to {parts.horizon} steps ahead"
    say(f"\nHeld-out error of {count(len(parts.origins), 'forecast')}, {ahead}:")
    say(f"{'':34}{'mean absolute':>15}{'root mean square':>18}")
    for name, (mae, rmse) in judgement.by_name.items():
        say(f"  {names[name]:32}{mae:>15,.4g}{rmse:>18,.4g}")
    peer, ratio = judgement.best_peer, judgement.ratio
    if ratio < 1:
        say(f"The mean absolute error is {100 * (1 - ratio):.0f} % below that of the {peer} forecast.")
    else:
        above = f"{100 * (ratio - 1):.0f} % above it" if ratio < 10 else "far above it"
        say(f"That is not better than the {peer} forecast: the mean absolute error is {above}. Prefer that one.")


def _use(series: _Series, forecaster: Forecaster, args: argparse.Namespace, outputs: Outputs) -> None:
    """Forecast with a saved model."""
    import numpy as np

    step, H = series.dates.step.name, args.horizon or forecaster.network.horizon
    if step != forecaster.step:
        raise ValueError(f"{args.file} has a step of {step}, expected {forecaster.step}, as {args.use} was trained on")
    if forecaster.network.horizon < H:
        has = f"--horizon has {H}, expected at most {forecaster.network.horizon}"
        raise ValueError(f"{has}, which {args.use} was trained for")
    if forecaster.rows > series.T:
        raise ValueError(
            f"{args.file} has {series.T:,} rows, expected at least {forecaster.rows}, which the model reads"
        )
    say(f"Model:    {args.use}, trained on column {forecaster.column!r}")
    ratio = float(np.std(series.values)) / forecaster.units
    if not 1 / UNLIKE < ratio < UNLIKE:
        say(f"Note:     the series varies {ratio:.2g} times as much as the one of the training; is that the same unit?")
    _write(series, forecaster, H, outputs)


def _write(
    series: _Series,
    forecaster: Forecaster,
    H: int,
    outputs: Outputs,
    parts: Parts | None = None,
    judgement: Judgement | None = None,
) -> None:
    """Write the forecast and the picture."""
    T, dates = series.T, series.dates
    future = forecaster.predict(series.values, [T - 1])[0, :H]
    interval = None if forecaster.interval is None else forecaster.limited(future[:, None] + forecaster.interval[:H])
    labels = [dates.text(T + k) for k in range(H)]
    outputs.write_table(dates.column or "row", labels, future, interval, forecaster.units)
    where = labels[0] if H == 1 else f"{labels[0]} to {labels[-1]}"
    within = "" if interval is None else ", with 10 % and 90 % quantiles from the held-out errors,"
    say(f"Forecast of {count(H, 'step')}, {where}{within} written to {outputs.table}")
    held_out = None if judgement is None else judgement.forecasts
    say(outputs.write_picture(series.column, series.values, dates, future, interval, parts, held_out))
