# SPDX-License-Identifier: Apache-2.0
"""`bptt sample`: let a model write."""

from __future__ import annotations

import argparse
import sys

from bptt.cli.options import number, option, whole
from bptt.cli.output import OK

__all__ = ["DESCRIPTION", "add"]

DESCRIPTION = "Let a trained model write. It continues the prompt, one character at a time."


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", metavar="MODEL", help="a file that 'bptt train' wrote")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue (default: a new paragraph)")
    option(parser, "--length", whole(1, 10**9), 500, "characters to write")
    option(
        parser, "--temperature", number(0, 1000), 0.8, "1 as learned, lower prefers likely ones, 0 takes the likeliest"
    )
    option(parser, "--seed", whole(0, 2**63 - 1), None, "the same seed gives the same text (default: a new one)")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    from bptt import charlm

    lm = charlm.CharLM.load(args.model)
    characters = charlm.sample(lm, args.prompt, length=args.length, temperature=args.temperature, seed=args.seed)
    sys.stdout.write(args.prompt)
    for character in characters:
        sys.stdout.write(character)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")
    return OK
