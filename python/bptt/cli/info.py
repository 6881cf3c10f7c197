# SPDX-License-Identifier: Apache-2.0
"""`bptt info`: how this bptt was built and runs, or what a model's file holds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from bptt._arrays import cut
from bptt.cli.files import written_at
from bptt.cli.models import CHARACTERS, FORECASTER, STATE, ModelFile
from bptt.cli.output import OK, count

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["DESCRIPTION", "add"]

DESCRIPTION = "Print how this bptt was built and runs or, with MODEL, what a file holds that bptt wrote."


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a file of 'bptt train', 'bptt forecast' or bptt.save"
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    rows = list(_build() if args.model is None else _file(args.model))  # complete before the first line is printed
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())
    return OK


def _build() -> Iterator[tuple[str, str]]:
    import bptt

    built = sorted(m.name.removeprefix("_core_") for m in iter_modules(bptt.__path__) if m.name.startswith("_core_"))
    for name, value in bptt.config().items():
        yield name, f"{value} (this build has {', '.join(built)})" if name == "level" else str(value)


def _file(path: str) -> Iterator[tuple[str, str]]:
    file = ModelFile.read(path)
    yield "file", path
    yield "kind", file.kind
    yield "written", written_at(path)
    yield "size", count(os.path.getsize(path), "byte")
    if file.kind == STATE:
        yield from _state(file)
        return
    yield from _model(file)
    if file.kind == CHARACTERS:
        characters = str(file.config.get("vocabulary"))
        yield "characters", f"{len(characters)}: {cut(repr(characters)[1:-1], 80)}"
    if file.kind == FORECASTER:
        from bptt.forecasting import facts_of

        facts = facts_of(file.extra)
        season = f", season of {facts.get('season')} steps" if facts.get("season") != 1 else ""
        yield "series", cut(f"column {facts.get('column')!r}, step {facts.get('step')}{season}", 80)
    if file.extra:
        yield "extra", ", ".join(file.extra)


def _model(file: ModelFile) -> Iterator[tuple[str, str]]:
    """The layers and their parameters."""
    import bptt

    model = bptt.load(file.path)
    for k, layer in enumerate(model.layers if isinstance(model, bptt.Sequential) else [model]):
        yield "" if k else "layers", f"{k} {layer!r}"
    yield "parameters", f"{model.params.size:,} numbers of {model.params.dtype} in {count(len(model.params), 'array')}"
    yield from _arrays(model.params)


def _state(file: ModelFile) -> Iterator[tuple[str, str]]:
    """How far the run is, and the parameters."""
    from bptt.train.state import PARAM, saved_run

    run = saved_run(file.path, file.config)
    yield "updates", f"{run.updates:,}"
    if run.stop_reason:
        yield "stopped", run.stop_reason
    own = {name.removeprefix(PARAM): each for name, each in file.arrays.items() if name.startswith(PARAM)}
    yield "parameters", f"{sum(each.size for each in own.values()):,} numbers in {count(len(own), 'array')}"
    yield from _arrays(own)


def _arrays(arrays: Mapping[str, Array]) -> Iterator[tuple[str, str]]:
    rows: list[tuple[Any, ...]] = [(name, str(list(each.shape)), f"{each.size:,}") for name, each in arrays.items()]
    widths = [max((len(row[k]) for row in rows), default=0) for k in range(3)]
    for name, shape, size in rows:
        yield "", f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}"
