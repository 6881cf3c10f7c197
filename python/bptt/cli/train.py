# SPDX-License-Identifier: Apache-2.0
"""`bptt train`: learn a text."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import time
from typing import TYPE_CHECKING

from bptt._terminal import Progress, StopRequest
from bptt.cli.options import number, one_of, option, whole
from bptt.cli.output import INTERRUPTED, OK, count, say
from bptt.cli.text import read_ids, require_memory

if TYPE_CHECKING:
    from bptt.charlm import Architecture, CharLM, Settings
    from bptt.textdata import Streams
    from bptt.train import Step

__all__ = ["DESCRIPTION", "add"]

DESCRIPTION = (
    "Train a model to continue a text, character by character. The last tenth of the text is held out; the loss on it "
    "is printed at the end, with a sample. Ctrl-C stops after the current step and saves the model (exit code 130); "
    "another Ctrl-C, more than a second later, quits at once."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from bptt._runtime import MAX_THREADS
    from bptt.charlm import CELLS, LEARNING_RATES, Architecture, Settings

    rates = ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items())
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="a UTF-8 text (default: the manual shipped with Python)")
    option(parser, "--cell", one_of(*CELLS), Architecture.cell, "lstm, gru or rnn")
    option(parser, "--hidden", whole(1, 65536), Architecture.hidden, "hidden units per layer")
    option(parser, "--layers", whole(1, 64), Architecture.layers, "recurrent layers")
    option(parser, "--embedding", whole(1, 65536), Architecture.embedding, "numbers per character")
    option(parser, "--seq-len", whole(1, 10**6), Settings.seq_len, "characters between two updates")
    option(parser, "--batch-size", whole(1, 10**6), Settings.batch_size, "places of the text read in parallel")
    duration = parser.add_mutually_exclusive_group()
    option(duration, "--steps", whole(1, 10**9), Settings.steps, "number of updates")
    option(duration, "--epochs", whole(1, 10**6), None, "passes over the text, instead of --steps")
    option(parser, "--lr", number(0, 1000, above=True), None, f"first learning rate; falls to 0 (default: {rates})")
    option(parser, "--clip-norm", number(0, 1e6), Settings.clip_norm, "largest gradient norm, 0 for no limit")
    option(parser, "--optimizer", one_of("adam", "sgd"), Settings.optimizer, "adam, or sgd with momentum 0.9")
    option(parser, "--seed", whole(0, 2**63 - 1), 0, "the same seed gives the same model")
    option(
        parser, "--threads", whole(1, MAX_THREADS), None, f"1 to {MAX_THREADS} processor threads (default: all cores)"
    )
    add(
        "--out",
        default="model.safetensors",
        metavar="PATH",
        help="file for the model; a model of 'bptt train' is replaced (default: %(default)s)",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    import bptt
    from bptt import charlm
    from bptt.textdata import Streams, split_tail

    replaced = _replaced(args.out)
    source, vocabulary, ids = read_ids(args.file, args.batch_size, args.seq_len)
    head, tail = split_tail(ids)
    streams = Streams(head, args.batch_size, args.seq_len)
    architecture = charlm.Architecture(args.cell, args.hidden, args.layers, args.embedding)
    steps = args.steps if args.epochs is None else args.epochs * len(streams)
    settings = charlm.Settings(args.batch_size, args.seq_len, steps, args.lr, args.clip_norm or None, args.optimizer)
    require_memory(charlm.memory_needed(architecture, len(vocabulary), settings), ids.nbytes, source)
    if args.threads is not None:
        bptt.set_num_threads(args.threads)
    lm = charlm.CharLM.create(architecture, vocabulary, args.seed)

    weights = architecture.parameters(len(vocabulary))
    say(f"Text:     {source}, {count(len(ids), 'character')}, {len(vocabulary)} different")
    say(f"          {len(head):,} to learn from, the last {len(tail):,} held out")
    say(f"Model:    {_sizes(architecture)}, {count(weights, 'weight')}")
    if replaced:
        say(f"Replaces: {replaced}")
    with StopRequest() as stop:
        say(
            f"Training: {count(steps, 'step')} of {args.batch_size} x {count(args.seq_len, 'character')} "
            f"on {count(bptt.get_num_threads(), 'thread')}"
        )
        say(_learn(lm, streams, settings, stop, args.out))
        say(f"Model written to {args.out}")
        nats = charlm.evaluate(lm, tail)
        say(f"Validation loss on the held-out text: {nats:.3f} nats = {nats / math.log(2):.3f} bits per character")
        if nats > math.log(len(vocabulary)):
            say("That is worse than guessing. A smaller --lr may help.")
        if stop.asked:
            return INTERRUPTED
    opening = vocabulary.decode(tail[:200])  # the model has not seen the continuation
    paragraph = "".join(charlm.sample(lm, opening, length=400, seed=args.seed))
    say(f"\nA sample, going on from the held-out {opening[-30:]!r}:\n\n{paragraph}\n")
    say(f"For more: bptt sample {shlex.quote(args.out)}")
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


def _sizes(architecture: Architecture) -> str:
    return f"{architecture.layers} x {architecture.cell} with {count(architecture.hidden, 'hidden unit')}"
