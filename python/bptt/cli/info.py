# SPDX-License-Identifier: Apache-2.0
"""`bptt info`: how this bptt was built and runs."""

from __future__ import annotations

import argparse
from pkgutil import iter_modules

from bptt.cli.output import OK

__all__ = ["DESCRIPTION", "add"]

DESCRIPTION = "Print how this bptt was built and runs."


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    import bptt

    built = sorted(m.name.removeprefix("_core_") for m in iter_modules(bptt.__path__) if m.name.startswith("_core_"))
    rows = {name: str(value) for name, value in bptt.config().items()}
    rows["level"] += f" (this build has {', '.join(built)})"
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return OK
