# SPDX-License-Identifier: Apache-2.0
"""The `bptt` command: train, sample, info. Options, messages and exit codes; the work itself is in charlm.py.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 2 something is wrong with what was asked (one
line on stderr, nothing overwritten); 130 stopped by Ctrl-C or SIGTERM (`bptt train` has then saved what it learned);
141 nobody reads the output any more (`| head`).
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, NoReturn

from bptt._terminal import Progress, StopRequest

if TYPE_CHECKING:
    from bptt.charlm import Step

__all__ = ["main"]

OK, WRONG, INTERRUPTED, CLOSED = 0, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the program's own) and return its exit code.

    Raises: SystemExit, as argparse does, for --help, --version and options that make no sense.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without UTF-8 gets escapes, not a crash
            stream.reconfigure(errors="backslashreplace")
    args, unknown = _parser().parse_known_args(argv)
    if unknown:  # parse_args would complain in the name of bptt, not of the command
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    program = args.parser.prog
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `bptt sample ... | head`: the reader has gone; keep the exit's flush quiet as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        print(f"{program}: not enough memory, expected smaller sizes", file=sys.stderr)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    return WRONG


class _Parser(argparse.ArgumentParser):
    """One line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        hint = "" if "expected" in message else f", expected what '{self.prog} --help' describes"
        self.exit(WRONG, f"{self.prog}: {message}{hint}\n")


def _parser() -> argparse.ArgumentParser:
    from bptt import __version__

    parser = _Parser(
        prog="bptt",
        allow_abbrev=False,
        description="Train a small character-level language model on the CPU and let it write.",
        epilog="Start with 'bptt train'. 'bptt COMMAND --help' lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"bptt {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_train(commands.add_parser("train", help="learn a text", description=_TRAIN, allow_abbrev=False))
    _add_sample(commands.add_parser("sample", help="write like the text", description=_SAMPLE, allow_abbrev=False))
    info = commands.add_parser(
        "info", help="version, compiler and processor", description="Print how this bptt was built and runs."
    )
    info.set_defaults(run=_info, parser=info)
    return parser


_TRAIN = (
    "Learn to continue a text, character by character. The last tenth of the text is held out; the loss on it is "
    "reported at the end, with a sample. Ctrl-C stops after the current step and saves what has been learned (exit "
    "code 130); a second Ctrl-C quits at once."
)
_SAMPLE = "Let a trained model write. It goes on from the prompt, one character at a time."


def _add_train(parser: argparse.ArgumentParser) -> None:
    from bptt.charlm import LEARNING_RATES, Architecture, Settings

    rates = ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items())
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="a UTF-8 text (default: the manual that ships inside Python)")
    _option(parser, "--cell", _one_of("lstm", "gru", "rnn"), Architecture.cell, "lstm, gru or rnn")
    _option(parser, "--hidden", _whole(1, 65536), Architecture.hidden, "hidden units per layer")
    _option(parser, "--layers", _whole(1, 64), Architecture.layers, "recurrent layers")
    _option(parser, "--embedding", _whole(1, 65536), Architecture.embedding, "numbers per character")
    _option(parser, "--seq-len", _whole(1, 10**6), Settings.seq_len, "characters between two updates")
    _option(parser, "--batch-size", _whole(1, 10**6), Settings.batch_size, "places of the text read side by side")
    duration = parser.add_mutually_exclusive_group()
    _option(duration, "--steps", _whole(1, 10**9), Settings.steps, "number of updates")
    _option(duration, "--epochs", _whole(1, 10**6), None, "passes over the text, instead of --steps")
    _option(parser, "--lr", _number(0, 1000, above=True), None, f"first learning rate; falls to 0 (default: {rates})")
    _option(parser, "--clip-norm", _number(0, 1e6), Settings.clip_norm, "largest gradient norm, 0 for no limit")
    _option(parser, "--optimizer", _one_of("adam", "sgd"), Settings.optimizer, "adam, or sgd with momentum 0.9")
    _option(parser, "--seed", _whole(0, 2**63 - 1), 0, "the same seed gives the same model")
    _option(parser, "--threads", _whole(1, 1024), None, "processor threads (default: all that we may use)")
    add("--out", default="model.safetensors", metavar="PATH", help="where the model goes (default: %(default)s)")
    parser.set_defaults(run=_train, parser=parser)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that 'bptt train' wrote")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what to go on from (default: a new paragraph)")
    _option(parser, "--length", _whole(1, 10**9), 500, "characters to write")
    _option(
        parser, "--temperature", _number(0, 1000), 0.8, "1 as learned, lower is more careful, 0 takes the likeliest"
    )
    _option(parser, "--seed", _whole(0, 2**63 - 1), None, "the same seed gives the same text (default: a new one)")
    parser.set_defaults(run=_sample, parser=parser)


def _option(parser: Any, name: str, kind: Callable[[str], Any], default: Any, text: str) -> None:
    shown = "" if default is None else " (default: %(default)s)"
    parser.add_argument(name, type=kind, default=default, help=text + shown)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"has {text!r}, expected a whole number from {low} to {high}")
        return value

    return parse


def _number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            limits = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"has {text!r}, expected a number {limits}")
        return value

    return parse


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"has {text!r}, expected {' or '.join(names)}")
        return text

    return parse


def _train(args: argparse.Namespace) -> int:
    import bptt
    from bptt import charlm, checkpoint
    from bptt.textdata import Streams, Vocabulary, split_tail

    checkpoint.check_writable(args.out)
    source, text = _read(args)
    vocabulary = Vocabulary.of(text)
    head, tail = split_tail(vocabulary.encode(text))
    streams = Streams(head, args.batch_size, args.seq_len)
    architecture = charlm.Architecture(args.cell, args.hidden, args.layers, args.embedding)
    steps = args.steps if args.epochs is None else args.epochs * len(streams)
    settings = charlm.Settings(args.batch_size, args.seq_len, steps, args.lr, args.clip_norm or None, args.optimizer)
    _require_memory(charlm.memory_needed(architecture, len(vocabulary), settings))
    if args.threads is not None:
        bptt.set_num_threads(args.threads)
    lm = charlm.CharLM.create(architecture, vocabulary, args.seed)

    weights = architecture.parameters(len(vocabulary))
    _say(f"Text:     {source}, {len(text):,} characters, {len(vocabulary)} different ones")
    _say(f"          {len(head):,} to learn from, the last {len(tail):,} held out")
    _say(f"Model:    {args.layers} x {args.cell} with {args.hidden} hidden units, {weights:,} weights")
    with StopRequest() as stop:
        _say(f"Training: {steps:,} steps of {args.batch_size} x {args.seq_len} characters on {_threads()}")
        summary = _learn(charlm.train(lm, streams, settings), steps, stop)
        lm.save(args.out)
        _say(summary)
        _say(f"Model written to {args.out}")
        nats = charlm.evaluate(lm, tail)
        _say(f"Validation loss on the held-out text: {nats:.3f} nats = {nats / math.log(2):.3f} bits per character")
        if nats > math.log(len(vocabulary)):
            _say("That is worse than guessing. A smaller --lr may help.")
        if stop.asked:
            return INTERRUPTED
    opening = text[len(head) :][:200]  # of the held-out text: the model has not seen how it goes on
    paragraph = "".join(charlm.sample(lm, opening, length=400, seed=args.seed))
    _say(f"\nA sample, going on from the held-out {opening[-30:]!r}:\n\n{paragraph}\n")
    _say(f"For more: bptt sample {shlex.quote(args.out)}")
    return OK


def _learn(run: Iterator[Step], steps: int, stop: StopRequest) -> str:
    """Go through a training run, or as far as is wanted, showing its progress; return one line about it."""
    progress = Progress(steps)
    try:
        for step in run:
            progress.show(step)
            if stop.asked:
                return progress.summary("Stopped after")
    except FloatingPointError as error:
        raise ValueError("the loss grew beyond all numbers, expected a smaller --lr; nothing was written") from error
    finally:
        progress.close()
    return progress.summary("Learned from")


def _sample(args: argparse.Namespace) -> int:
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


def _info(args: argparse.Namespace) -> int:
    import bptt

    built = sorted(m.name.removeprefix("_core_") for m in iter_modules(bptt.__path__) if m.name.startswith("_core_"))
    rows = {name: str(value) for name, value in bptt.config().items()}
    rows["level"] += f" (this build has {', '.join(built)})"
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return OK


def _read(args: argparse.Namespace) -> tuple[str, str]:
    """Return the name and the contents of the text to learn; ValueError where it is too short for the options."""
    from bptt.textdata import HELD_OUT, Streams, default_text, read_text

    name, text = (
        ("the manual of this Python", default_text()) if args.file is None else (args.file, read_text(args.file))
    )
    # the part that is not held out must fill the streams once; 20 leaves two characters to validate on
    shortest = max(20, math.ceil((Streams.shortest(args.batch_size, args.seq_len) + 0.5) / (1 - HELD_OUT)))
    if len(text) < shortest:
        raise ValueError(
            f"{name} has {len(text):,} characters, expected at least {shortest:,} "
            f"for --batch-size {args.batch_size} and --seq-len {args.seq_len}"
        )
    return name, text


def _require_memory(needed: int) -> None:
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows cannot say; there an allocation fails instead
        return
    if needed > present:
        raise ValueError(
            f"these sizes take at least {needed / 1e9:,.1f} GB of memory, expected at most the {present / 1e9:,.1f} GB "
            "of this machine; make --hidden, --layers, --batch-size or --seq-len smaller"
        )


def _threads() -> str:
    import bptt

    n = bptt.get_num_threads()
    return f"{n} thread{'s' * (n > 1)}"


def _say(line: str) -> None:
    print(line, flush=True)  # in order with the progress on stderr
