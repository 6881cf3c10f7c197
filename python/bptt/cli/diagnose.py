# SPDX-License-Identifier: Apache-2.0
"""`bptt diagnose`: how gradients, memory and units of a saved model do on data, in figures and in words."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from bptt.cli.files import check_different, check_picture
from bptt.cli.models import CHARACTERS, FORECASTER, MODEL, ModelFile
from bptt.cli.options import one_of, option, whole
from bptt.cli.output import OK, complain, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt._arrays import Array

__all__ = ["DESCRIPTION", "Batch", "add"]

LOSSES = ("mse", "mae", "huber", "cross_entropy", "bce_with_logits", "gaussian_nll", "quantile")
STEPS, ROWS = 256, 8
DESCRIPTION = (
    "Say how the gradients, the memory and the units of a saved model do on one batch: does the gradient vanish or "
    "explode, how long does the state remember, which units are dead or saturated. docs/insight.md has each figure."
)


class Batch(NamedTuple):
    """What a model is diagnosed on: its arguments, and a line that says what they are."""

    model: Any
    x: Array
    target: Array
    loss: Callable[..., Any]
    lengths: Array | None
    text: str


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", metavar="MODEL", help="a file of 'bptt train', 'bptt forecast' or bptt.save")
    what = (
        "for a character model a UTF-8 text, of which the last tenth is used (default: the manual shipped with Python);"
        " for a forecaster a CSV file with its column;"
        " for another model an .npz file of the arrays x and target, and lengths where rows have them"
    )
    parser.add_argument("--data", metavar="FILE", help=what)
    what = f"loss of a model that is no character model: {', '.join(LOSSES)}"
    option(parser, "--loss", one_of(*LOSSES), None, f"{what} (default: cross_entropy for integer targets, else mse)")
    option(parser, "--steps", whole(2, 10**6), None, f"time steps of a text (default: {STEPS})")
    option(
        parser,
        "--rows",
        whole(1, 10**6),
        None,
        f"places of the text read in parallel, or windows of a series (default: {ROWS})",
    )
    option(parser, "--plot", str, None, "draw the report as one page (.png, .pdf or .svg)", "PATH")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    import bptt

    check_different({"MODEL": args.model, "--data": args.data, "--plot": args.plot})
    check_picture(args.plot)
    file = ModelFile.read(args.model)
    if file.kind not in BATCHES:
        raise ValueError(f"{args.model!r} is a {file.kind}, expected a model")
    batch = BATCHES[file.kind](file, args)
    say(f"Model: {args.model}, a {file.kind} of {batch.model.params.size:,} numbers")
    say(f"Data:  {batch.text}")
    if sys.stderr.isatty():
        complain(args.parser.prog, "measuring, which takes as long as some 40 to 90 training steps on this batch ...")
    try:
        report = bptt.diagnose(batch.model, batch.x, batch.target, batch.loss, batch.lengths)
    except TypeError as error:  # the file's arrays: a wrong request
        raise ValueError(str(error)) from error
    say(f"\n{report}")
    if args.plot is not None:
        report.plot(args.plot)
        say(f"\nPicture written to {args.plot}")
    return OK


def _of_text(file: ModelFile, args: argparse.Namespace) -> Batch:
    """The held-out part of a text, for a character model."""
    from bptt import charlm, losses
    from bptt.cli.text import read_text
    from bptt.textdata import Streams, split_tail

    if args.loss not in (None, "cross_entropy"):
        raise ValueError(f"--loss has 'a character model' and {args.loss!r}, expected cross_entropy")
    lm = charlm.CharLM.load(file.path)
    name, text = read_text(args.data)
    try:
        ids = lm.vocabulary.encode(text, name)
    except ValueError as error:
        raise ValueError(f"{error}; --data names another text") from error
    _, tail = split_tail(ids)
    T, B = args.steps or STEPS, args.rows or ROWS
    if len(tail) < Streams.shortest(B, T):
        has = f"{name} has {len(tail):,} characters in its last tenth"
        raise ValueError(f"{has}, expected at least {Streams.shortest(B, T):,} for --steps {T} and --rows {B}")
    x, target = next(iter(Streams(tail, B, T)))
    return Batch(lm.model, x, target, losses.cross_entropy, None, f"{name}, {T} steps of {B} rows, loss cross_entropy")


def _of_arrays(file: ModelFile, args: argparse.Namespace) -> Batch:
    """The arrays of a file, for any model."""
    import numpy as np

    import bptt
    from bptt.cli.arrays import read_arrays

    if args.data is None:
        raise ValueError(f"{file.path!r} is no character model, expected --data FILE.npz with the arrays x and target")
    for name in ("steps", "rows"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is given for arrays, expected a text: arrays are taken as they are")
    found = read_arrays(args.data, ("x", "target"), ("lengths",))
    target = found["target"]
    loss = args.loss or ("cross_entropy" if np.issubdtype(target.dtype, np.integer) else "mse")
    text = f"{args.data}, x {found['x'].shape}, target {target.shape}, loss {loss}"
    return Batch(bptt.load(file.path), found["x"], target, getattr(bptt.losses, loss), found.get("lengths"), text)


def _of_series(file: ModelFile, args: argparse.Namespace) -> Batch:
    """Windows of a column of a CSV file, for a forecaster; arrays are taken as for any model."""
    import numpy as np

    from bptt import losses
    from bptt.forecasting import Forecaster, read_table, windows_of

    if args.data is not None and args.data.endswith(".npz"):
        return _of_arrays(file, args)
    if args.data is None:
        raise ValueError(f"{file.path!r} is a forecaster, expected --data FILE.csv with the series")
    if args.steps is not None or args.loss not in (None, "mse"):
        raise ValueError("--steps or --loss is given for a forecaster, expected neither: it was trained with its own")
    forecaster = Forecaster.load(file.path)
    values, filled = read_table(args.data).numbers(forecaster.column, "previous")
    least = forecaster.rows + forecaster.network.horizon
    if len(values) < least:
        raise ValueError(f"{args.data} has {len(values):,} rows, expected at least {least:,}, a window and its targets")
    x, target = windows_of(forecaster, values)
    chosen = np.unique(np.linspace(0, x.shape[1] - 1, args.rows or ROWS).round().astype(int))
    text = f"{args.data}, column {forecaster.column!r}, {len(chosen)} windows of {len(x)} steps, loss mse"
    text += f", {filled:,} missing values filled with the previous one" if filled else ""
    return Batch(forecaster.model, x[:, chosen], target[:, chosen], losses.mse, None, text)


# The batch of each kind of model.
BATCHES = {CHARACTERS: _of_text, MODEL: _of_arrays, FORECASTER: _of_series}
