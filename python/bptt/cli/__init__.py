# SPDX-License-Identifier: Apache-2.0
"""The `bptt` command. Each command has its module here: options and messages; charlm and forecasting do the work.

Results go to stdout, progress and errors to stderr; a stream that the caller has closed becomes /dev/null. Exit codes:
0 done; 2 something is wrong with the request (one line on stderr, nothing overwritten); 130 stopped by Ctrl-C or
SIGTERM (`train` and `forecast` have then saved their model); 141 the reader of the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from bptt._startup import set_interrupt_handler
from bptt._terminal import flush_streams, open_missing_streams
from bptt.cli import diagnose, forecast, info, sample, train
from bptt.cli.output import CLOSED, INTERRUPTED, OK, WRONG, complain

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the program's own) and return its exit code.

    Raises: SystemExit, as argparse does, for --help, --version and invalid options.
    """
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # escapes instead of a crash on a terminal without UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(argv)
    finally:
        flush_streams()
        set_interrupt_handler(signal.SIG_IGN)  # at its exit Python would print a traceback


def _run(argv: Sequence[str] | None) -> int:
    program = "bptt"
    try:
        try:
            args = _arguments(argv)
            set_interrupt_handler(signal.default_int_handler)
            program = args.parser.prog
            code: int = args.run(args)
            return code
        finally:
            sys.stdout.flush()  # here, where a failure is still reported
    except BrokenPipeError:  # `bptt sample ... | head`: the reader has gone
        return CLOSED
    except KeyboardInterrupt:
        complain(program, "stopped")
        return INTERRUPTED
    except MemoryError:
        complain(program, "not enough memory, expected a shorter text or smaller sizes")
    except OSError as error:
        unexpected = error.errno is not None  # the library's own errors have no errno; this one comes from stdout
        reason = f"cannot write the output ({error.strerror}), expected room for it"
        complain(program, reason if unexpected else str(error))
    except (ValueError, FloatingPointError) as error:
        complain(program, str(error))
    return WRONG


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        hint = "" if "expected" in message else f", expected the options of '{self.prog} --help'"
        complain(self.prog, message + hint)  # argparse of Python 3.11.2 fails where nobody reads stderr
        self.exit(WRONG)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    args, unknown = _parser().parse_known_args(argv)
    if unknown:  # parse_args would name bptt in its message, not the command
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _parser() -> argparse.ArgumentParser:
    from bptt import __version__

    parser = _Parser(
        prog="bptt",
        allow_abbrev=False,
        description="On the CPU: train a character-level language model and let it write; continue a column of a CSV "
        "file; look into saved models.",
        epilog="Start with 'bptt train'. 'bptt COMMAND --help' lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"bptt {__version__}")
    parser.set_defaults(run=_help, parser=parser)  # each command has its own
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, module, text in (
        ("train", train, "learn a text"),
        ("sample", sample, "write like the text"),
        ("forecast", forecast, "continue a column of a CSV file"),
        ("info", info, "what a model holds; without one: version, compiler and processor"),
        ("diagnose", diagnose, "why a model does not learn"),
    ):
        module.add(commands.add_parser(name, help=text, description=module.DESCRIPTION, allow_abbrev=False))
    return parser


def _help(args: argparse.Namespace) -> int:
    args.parser.print_help()
    return OK
