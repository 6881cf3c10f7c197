# SPDX-License-Identifier: Apache-2.0
"""`bptt train`: learn a text."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from typing import TYPE_CHECKING, Any

from bptt._terminal import Progress, StopRequest, watched
from bptt.cli.files import check_different, check_log, check_picture, written_at
from bptt.cli.options import number, one_of, option, whole
from bptt.cli.output import INTERRUPTED, OK, count, say
from bptt.cli.text import read_ids, require_memory

if TYPE_CHECKING:
    from bptt.charlm import Architecture, CharLM, Settings
    from bptt.cli.resume import Options
    from bptt.textdata import Ids, Streams
    from bptt.train import History, Step
    from bptt.train.state import SavedRun

__all__ = ["DESCRIPTION", "add"]

# what a run that goes on must have in common with the one before, and --steps
COMPARED = (
    *("cell", "hidden", "layers", "embedding", "dropout", "seed", "seq_len", "batch_size", "optimizer", "lr"),
    *("schedule", "weight_decay", "clip_norm", "validate_every", "patience"),
)
DESCRIPTION = (
    "Train a model to continue a text, character by character. The last tenth of the text is held out; the loss on it "
    "is printed at the end, with a sample. Ctrl-C stops after the current step and saves the model (exit code 130); "
    "another Ctrl-C, more than a second later, quits at once."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from bptt._runtime import MAX_THREADS
    from bptt.charlm import CELLS, VALIDATED, Architecture, Settings

    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a UTF-8 text (default: the manual shipped with Python)"
    )
    model = parser.add_argument_group("model")
    option(model, "--cell", one_of(*CELLS), Architecture.cell, ", ".join(CELLS))
    option(model, "--hidden", whole(1, 65536), Architecture.hidden, "hidden units per layer")
    option(model, "--layers", whole(1, 64), Architecture.layers, "recurrent layers")
    option(model, "--embedding", whole(1, 65536), Architecture.embedding, "numbers per character")
    what = "probability of dropping an output of a recurrent layer in training"
    option(model, "--dropout", number(0, 0.99), Architecture.dropout, what)
    option(model, "--seed", whole(0, 2**63 - 1), 0, "the same seed gives the same model")
    _add_training(parser.add_argument_group("training"))
    validation = parser.add_argument_group(f"validation, on up to {VALIDATED:,} characters of the held-out text")
    what = "updates from one to the next (default: a tenth of the run)"
    option(validation, "--validate-every", whole(1, 10**9), Settings.validate_every, what)
    what = "end the run, with the best weights, after this many without a better one"
    option(validation, "--patience", whole(1, 10**6), Settings.patience, what)
    run = parser.add_argument_group("the run and its files")
    option(run, "--threads", whole(1, MAX_THREADS), None, f"1 to {MAX_THREADS} processor threads (default: all cores)")
    what = "file for the model; a model of 'bptt train' is replaced"
    option(run, "--out", str, "model.safetensors", what, "PATH")
    what = "keep the training state in PATH.state of --out, and go on from it where it exists: the same command again"
    run.add_argument("--resume", action="store_true", help=what)
    what = "updates between two writes of that file, besides one every 30 seconds"
    option(run, "--save-every", whole(1, 10**9), None, what)
    option(run, "--log", str, None, "write each update and validation to this file, one JSON object a line", "PATH")
    option(run, "--plot", str, None, "draw losses, gradient norm and learning rate (.png, .pdf or .svg)", "PATH")
    parser.set_defaults(run=_run, parser=parser)


def _add_training(group: Any) -> None:
    from bptt.charlm import OPTIMIZERS, SCHEDULES, Settings

    option(group, "--seq-len", whole(1, 10**6), Settings.seq_len, "characters between two updates")
    option(group, "--batch-size", whole(1, 10**6), Settings.batch_size, "places of the text read in parallel")
    duration = group.add_mutually_exclusive_group()
    option(duration, "--steps", whole(1, 10**9), Settings.steps, "number of updates")
    option(duration, "--epochs", whole(1, 10**6), None, "passes over the text, instead of --steps")
    option(group, "--optimizer", one_of(*OPTIMIZERS), Settings.optimizer, ", ".join(OPTIMIZERS))
    rates = ", ".join(f"{method.lr:g} for {name}" for name, method in OPTIMIZERS.items())
    option(group, "--lr", number(0, 1000, above=True), None, f"largest learning rate (default: {rates})")
    option(group, "--schedule", one_of(*SCHEDULES), Settings.schedule, ", ".join(SCHEDULES))
    what = "weight decay of the optimizer (default: 0.01 for adamw, 0 for the others)"
    option(group, "--weight-decay", number(0, 1000), None, what)
    option(group, "--clip-norm", number(0, 1e6), Settings.clip_norm, "largest gradient norm, 0 for no limit")


def _run(args: argparse.Namespace) -> int:
    import bptt
    from bptt import charlm
    from bptt.textdata import Streams, split_tail

    args.state = args.out + ".state"
    replaced = _check_files(args)
    source, vocabulary, ids = read_ids(args.file, args.batch_size, args.seq_len)
    head, tail = split_tail(ids)
    streams = Streams(head, args.batch_size, args.seq_len)
    architecture = charlm.Architecture(args.cell, args.hidden, args.layers, args.embedding, args.dropout)
    settings = _settings(args, len(streams))
    require_memory(charlm.memory_needed(architecture, len(vocabulary), settings), ids.nbytes, source)
    if args.threads is not None:
        bptt.set_num_threads(args.threads)
    lm = charlm.CharLM.create(architecture, vocabulary, args.seed)
    options, before = _earlier_run(args, lm, ids, settings)

    weights = architecture.parameters(len(vocabulary))
    say(f"Text:     {source}, {count(len(ids), 'character')}, {len(vocabulary)} different")
    say(f"          {len(head):,} to learn from, the last {len(tail):,} held out")
    say(f"Model:    {_sizes(architecture)}, {count(weights, 'weight')}")
    if replaced:
        say(f"Replaces: {replaced}")
    if before is not None:
        say(f"Resumes:  {args.state}, after {count(before.updates, 'step')}")
    with StopRequest() as stop:
        say(
            f"Training: {count(settings.steps, 'step')} of {args.batch_size} x {count(args.seq_len, 'character')} "
            f"on {count(bptt.get_num_threads(), 'thread')}"
        )
        history = _learn(lm, streams, settings, stop, args, tail, options)
        say(f"Model written to {args.out}")
        nats = charlm.evaluate(lm, tail, watch=watched("validation"))
        say(f"Validation loss on the held-out text: {nats:.3f} nats = {nats / math.log(2):.3f} bits per character")
        if nats > math.log(len(vocabulary)):
            say("That is worse than guessing. A smaller --lr may help.")
        if args.plot is not None:
            history.plot(args.plot)
            say(f"Picture written to {args.plot}")
        if stop.asked:
            if args.resume:
                say("To go on, give the same command again.")
            return INTERRUPTED
    opening = vocabulary.decode(tail[:200])  # the model has not seen the continuation
    paragraph = "".join(charlm.sample(lm, opening, length=400, seed=args.seed))
    say(f"\nA sample, going on from the held-out {opening[-30:]!r}:\n\n{paragraph}\n")
    say(f"For more: bptt sample {shlex.quote(args.out)}")
    return OK


def _check_files(args: argparse.Namespace) -> str:
    """Describe the model that a run will replace; raise where a file cannot be written, before hours of training."""
    named = {"FILE": args.file, "--out": args.out, "the training state": args.state}
    check_different({**named, "--log": args.log, "--plot": args.plot})
    if args.save_every is not None and not args.resume:
        raise ValueError("--save-every is given without --resume, expected both")
    replaced = _replaced(args.out)
    check_log(args.log)
    check_picture(args.plot)
    return replaced


def _settings(args: argparse.Namespace, batches: int) -> Settings:
    from bptt import charlm

    return charlm.Settings(
        args.batch_size,
        args.seq_len,
        args.steps if args.epochs is None else args.epochs * batches,
        args.lr,
        args.clip_norm or None,
        args.optimizer,
        args.weight_decay,
        args.schedule,
        args.validate_every,
        args.patience,
    )


def _earlier_run(
    args: argparse.Namespace, lm: CharLM, ids: Ids, settings: Settings
) -> tuple[Options | None, SavedRun | None]:
    """Return what the training state keeps of this command, and the run to go on with; ValueError where they differ."""
    from bptt.cli.resume import Options, saved

    if not args.resume:
        if os.path.exists(args.state):
            say(f"Note:     {args.state} of an earlier run stays as it is; --resume goes on with that run")
        return None, None
    options = {f"--{name.replace('_', '-')}": getattr(args, name) for name in COMPARED}
    if settings.schedule != "constant":  # others depend on the length of the run
        options["--steps"] = settings.steps
    found = saved(args.state)
    kept = Options(options, lm.vocabulary, ids)
    if found is not None:
        kept.check(found, args.state)
    return kept, found


def _learn(
    lm: CharLM,
    streams: Streams,
    settings: Settings,
    stop: StopRequest,
    args: argparse.Namespace,
    held_out: Ids,
    options: Options | None,
) -> History:
    """Train to the end, or until stopped, with progress, say how it went, and save."""
    from bptt import StopTraining, charlm
    from bptt.callbacks import LambdaCallback

    progress = Progress(settings.steps)
    show = LambdaCallback(
        on_train_begin=lambda run: progress.begin(run.steps), on_validation=lambda _, each: progress.validated(each)
    )

    def on_step(step: Step) -> None:
        progress.show(step)
        if stop.asked:
            raise StopTraining("stopped by a signal", pause=True)

    try:
        history = charlm.train(
            lm,
            streams,
            settings,
            on_step,
            held_out=held_out,
            watch=watched("validation"),
            callbacks=[show] if options is None else [show, options],
            history=args.log,
            resume=args.state if args.resume else None,
            save_every=args.save_every,
        )
        summary = _summary(progress, history, stop)
        lm.save(args.out)
    except FloatingPointError as error:
        raise ValueError("the loss grew beyond all numbers, expected a smaller --lr; no model was written") from error
    finally:
        progress.close()
    say(summary)
    return history


def _summary(progress: Progress, history: History, stop: StopRequest) -> str:
    """One line about the run."""
    if not progress.made:
        reason = history.stop_reason or f"it has made all its {count(len(history), 'step')}"
        return f"This run had ended before: {reason}"
    if stop.asked:
        return progress.summary("Stopped after")
    line = progress.summary("Learned from")
    return f"{line}; {history.stop_reason}" if history.stopped else line


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
    return f"{out} ({_sizes(architecture)}, written {written_at(out)})"


def _sizes(architecture: Architecture) -> str:
    return f"{architecture.layers} x {architecture.cell} with {count(architecture.hidden, 'hidden unit')}"
