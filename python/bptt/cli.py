# SPDX-License-Identifier: Apache-2.0
"""The `bptt` command: train, sample, info. Options, messages and exit codes; the work itself is in charlm.py.

Results go to stdout, progress and errors to stderr; a stream that the caller has closed becomes /dev/null. Exit codes:
0 done; 2 something is wrong with the request (one line on stderr, nothing overwritten); 130 stopped by Ctrl-C or
SIGTERM (`bptt train` has then saved its model); 141 the reader of the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, NoReturn

from bptt._memory import memory_limit
from bptt._startup import set_interrupt_handler
from bptt._terminal import Progress, StopRequest, flush_streams, open_missing_streams

if TYPE_CHECKING:
    from bptt.charlm import Architecture, CharLM, Settings
    from bptt.textdata import Ids, Streams, Vocabulary
    from bptt.train import Step

__all__ = ["main"]

OK, WRONG, INTERRUPTED, CLOSED = 0, 2, 130, 141


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
        _complain(program, "stopped")
        return INTERRUPTED
    except MemoryError:
        _complain(program, "not enough memory, expected a shorter text or smaller sizes")
    except OSError as error:
        unexpected = error.errno is not None  # the library's own errors have no errno; this one comes from stdout
        reason = f"cannot write the output ({error.strerror}), expected room for it"
        _complain(program, reason if unexpected else str(error))
    except (ValueError, FloatingPointError) as error:
        _complain(program, str(error))
    return WRONG


def _complain(program: str, message: str) -> None:
    with suppress(OSError):  # nobody reads stderr
        print(f"{program}: {message}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        hint = "" if "expected" in message else f", expected the options of '{self.prog} --help'"
        _complain(self.prog, message + hint)  # argparse of Python 3.11.2 fails where nobody reads stderr
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
        description="Train a small character-level language model on the CPU and let it write.",
        epilog="Start with 'bptt train'. 'bptt COMMAND --help' lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"bptt {__version__}")
    parser.set_defaults(run=_help, parser=parser)  # each command has its own
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_train(commands.add_parser("train", help="learn a text", description=_TRAIN, allow_abbrev=False))
    _add_sample(commands.add_parser("sample", help="write like the text", description=_SAMPLE, allow_abbrev=False))
    info = commands.add_parser(
        "info", help="version, compiler and processor", description="Print how this bptt was built and runs."
    )
    info.set_defaults(run=_info, parser=info)
    return parser


_TRAIN = (
    "Train a model to continue a text, character by character. The last tenth of the text is held out; the loss on it "
    "is printed at the end, with a sample. Ctrl-C stops after the current step and saves the model (exit code 130); "
    "another Ctrl-C, more than a second later, quits at once."
)
_SAMPLE = "Let a trained model write. It continues the prompt, one character at a time."


def _add_train(parser: argparse.ArgumentParser) -> None:
    from bptt._runtime import MAX_THREADS
    from bptt.charlm import CELLS, LEARNING_RATES, Architecture, Settings

    rates = ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items())
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="a UTF-8 text (default: the manual shipped with Python)")
    _option(parser, "--cell", _one_of(*CELLS), Architecture.cell, "lstm, gru or rnn")
    _option(parser, "--hidden", _whole(1, 65536), Architecture.hidden, "hidden units per layer")
    _option(parser, "--layers", _whole(1, 64), Architecture.layers, "recurrent layers")
    _option(parser, "--embedding", _whole(1, 65536), Architecture.embedding, "numbers per character")
    _option(parser, "--seq-len", _whole(1, 10**6), Settings.seq_len, "characters between two updates")
    _option(parser, "--batch-size", _whole(1, 10**6), Settings.batch_size, "places of the text read in parallel")
    duration = parser.add_mutually_exclusive_group()
    _option(duration, "--steps", _whole(1, 10**9), Settings.steps, "number of updates")
    _option(duration, "--epochs", _whole(1, 10**6), None, "passes over the text, instead of --steps")
    _option(parser, "--lr", _number(0, 1000, above=True), None, f"first learning rate; falls to 0 (default: {rates})")
    _option(parser, "--clip-norm", _number(0, 1e6), Settings.clip_norm, "largest gradient norm, 0 for no limit")
    _option(parser, "--optimizer", _one_of("adam", "sgd"), Settings.optimizer, "adam, or sgd with momentum 0.9")
    _option(parser, "--seed", _whole(0, 2**63 - 1), 0, "the same seed gives the same model")
    _option(
        parser, "--threads", _whole(1, MAX_THREADS), None, f"1 to {MAX_THREADS} processor threads (default: all cores)"
    )
    add(
        "--out",
        default="model.safetensors",
        metavar="PATH",
        help="file for the model; a model of 'bptt train' is replaced (default: %(default)s)",
    )
    parser.set_defaults(run=_train, parser=parser)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that 'bptt train' wrote")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue (default: a new paragraph)")
    _option(parser, "--length", _whole(1, 10**9), 500, "characters to write")
    _option(
        parser, "--temperature", _number(0, 1000), 0.8, "1 as learned, lower prefers likely ones, 0 takes the likeliest"
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


def _help(args: argparse.Namespace) -> int:
    args.parser.print_help()
    return OK


def _train(args: argparse.Namespace) -> int:
    import bptt
    from bptt import charlm
    from bptt.textdata import Streams, split_tail

    replaced = _replaced(args.out)
    source, vocabulary, ids = _read(args)
    head, tail = split_tail(ids)
    streams = Streams(head, args.batch_size, args.seq_len)
    architecture = charlm.Architecture(args.cell, args.hidden, args.layers, args.embedding)
    steps = args.steps if args.epochs is None else args.epochs * len(streams)
    settings = charlm.Settings(args.batch_size, args.seq_len, steps, args.lr, args.clip_norm or None, args.optimizer)
    _require_memory(charlm.memory_needed(architecture, len(vocabulary), settings), ids.nbytes, source)
    if args.threads is not None:
        bptt.set_num_threads(args.threads)
    lm = charlm.CharLM.create(architecture, vocabulary, args.seed)

    weights = architecture.parameters(len(vocabulary))
    _say(f"Text:     {source}, {_count(len(ids), 'character')}, {len(vocabulary)} different")
    _say(f"          {len(head):,} to learn from, the last {len(tail):,} held out")
    _say(f"Model:    {_sizes(architecture)}, {_count(weights, 'weight')}")
    if replaced:
        _say(f"Replaces: {replaced}")
    with StopRequest() as stop:
        _say(
            f"Training: {_count(steps, 'step')} of {args.batch_size} x {_count(args.seq_len, 'character')} "
            f"on {_count(bptt.get_num_threads(), 'thread')}"
        )
        _say(_learn(lm, streams, settings, stop, args.out))
        _say(f"Model written to {args.out}")
        nats = charlm.evaluate(lm, tail)
        _say(f"Validation loss on the held-out text: {nats:.3f} nats = {nats / math.log(2):.3f} bits per character")
        if nats > math.log(len(vocabulary)):
            _say("That is worse than guessing. A smaller --lr may help.")
        if stop.asked:
            return INTERRUPTED
    opening = vocabulary.decode(tail[:200])  # the model has not seen the continuation
    paragraph = "".join(charlm.sample(lm, opening, length=400, seed=args.seed))
    _say(f"\nA sample, going on from the held-out {opening[-30:]!r}:\n\n{paragraph}\n")
    _say(f"For more: bptt sample {shlex.quote(args.out)}")
    return OK


def _learn(lm: CharLM, streams: Streams, settings: Settings, stop: StopRequest, out: str) -> str:
    """Train to the end, or until stopped, with progress, and save; return one line about the run."""
    from bptt import StopTraining, charlm

    progress = Progress(settings.steps)

    def on_step(step: Step) -> None:
        progress.show(step)
        if stop.asked:
            raise StopTraining

    try:
        history = charlm.train(lm, streams, settings, on_step)
        summary = progress.summary("Stopped after" if history.stopped else "Learned from")
        lm.save(out)
    except FloatingPointError as error:
        raise ValueError("the loss grew beyond all numbers, expected a smaller --lr; nothing was written") from error
    finally:
        progress.close()
    return summary


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


def _replaced(out: str) -> str:
    """Describe the model that a run will replace, "" where there is none; ValueError for other files."""
    from bptt import charlm, checkpoint

    config = checkpoint.check_writable(out)
    if config is None:
        return ""
    try:
        architecture = charlm.architecture_of(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{out!r} exists and holds no character model ({error}), expected another name") from error
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(out)))
    return f"{out} ({_sizes(architecture)}, written {written})"


def _read(args: argparse.Namespace) -> tuple[str, Vocabulary, Ids]:
    """Return the name, the characters and the ids [N] of the text; ValueError where it is too short or too long."""
    from bptt.textdata import HELD_OUT, Streams, Vocabulary, default_text, read_text

    name = "the manual of this Python" if args.file is None else args.file
    # in memory at once: the file's bytes and the text, which takes 2 bytes for a character of up to 3
    _require_memory(0, 0 if args.file is None else _size(args.file) * 5 // 3, name)
    try:
        text = default_text() if args.file is None else read_text(args.file)
        # the text without the held-out part must fill the streams once; 20 leaves two characters for validation
        shortest = max(20, math.ceil((Streams.shortest(args.batch_size, args.seq_len) + 0.5) / (1 - HELD_OUT)))
        if len(text) < shortest:
            raise ValueError(
                f"{name} has {_count(len(text), 'character')}, expected at least {shortest:,} "
                f"for --batch-size {args.batch_size} and --seq-len {args.seq_len}"
            )
        vocabulary = Vocabulary.of(text)
        return name, vocabulary, vocabulary.encode(text)
    except MemoryError:
        raise ValueError(f"{name} takes more memory than this process may use, expected a shorter text") from None


def _size(path: str) -> int:
    """Return the size of a file in bytes; 0 where it is unknown (reading a missing file will report that)."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _require_memory(sizes: int, text: int, name: str) -> None:
    """Raise ValueError unless memory can hold `sizes` bytes for model and batches and `text` bytes for the text."""
    limit = memory_limit()
    if limit is None or sizes + text <= limit:  # where the system gives no limit, an allocation fails instead
        return
    expected = f"expected at most the {limit / 1e9:,.1f} GB that this process may use"
    if text > limit:
        raise ValueError(f"{name} takes at least {text / 1e9:,.1f} GB of memory, {expected}; give a shorter text")
    raise ValueError(
        f"these sizes take at least {sizes / 1e9:,.1f} GB of memory and the text {text / 1e9:,.1f} GB, {expected}; "
        "make --hidden, --layers, --batch-size or --seq-len smaller"
    )


def _sizes(architecture: Architecture) -> str:
    return f"{architecture.layers} x {architecture.cell} with {_count(architecture.hidden, 'hidden unit')}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _say(line: str) -> None:
    print(line, flush=True)  # in order with the progress on stderr
