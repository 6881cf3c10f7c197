# SPDX-License-Identifier: Apache-2.0
"""What precision of products does to training: `python -m benchmarks.precision_losses --jobs 16`, a few minutes.

Each seed trains with each precision, on the same data and from the same weights, one run a process with one thread:

- adding: the adding problem at T = 150 as in examples/adding_problem.py (GRU of 100 units, chrono initialisation)
- vowels: the speakers of JapaneseVowels as in examples/japanese_vowels.py (bidirectional LSTM of 100 units); the data
  are in the package aeon, which is not imported, or in a folder that is named
- text: the character model of `bptt train` (`bptt.charlm` as it is) on the manual shipped with CPython or another text

Printed is a Markdown table for each figure, and whether the means of "high" and "medium" are within one standard
deviation, over the seeds, of that of "highest".
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import bptt
from benchmarks.machine import describe
from bptt import charlm, textdata
from bptt.data import Scaler, batches
from bptt.optim import schedules

PRECISIONS = ("highest", "high", "medium")
HIDDEN, SPEAKERS, SOLVED, EVERY, LAST = 100, 9, 0.01, 50, 5
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BPTT_NUM_THREADS")


@dataclass(frozen=True)
class Options:
    """Of all tasks; `updates` 0: the usual number, of epochs for vowels."""

    updates: int = 0
    steps: int = 150
    text: str = ""
    vowels: str = ""


def rows(rng: np.random.Generator, T: int, B: int) -> tuple[Any, Any]:
    """x [T,B,2]: a number and a mark; target [B,1]: the sum of the two marked numbers."""
    x = np.zeros((T, B, 2), np.float32)
    x[:, :, 0] = rng.random((T, B))
    every = np.arange(B)
    marked = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B)
    for steps in marked:
        x[steps, every, 1] = 1
    return x, sum(x[steps, every, 0] for steps in marked)[:, np.newaxis]


def adding(seed: int, options: Options) -> dict[str, float]:
    """When the error of 1,000 held-out rows is first below 0.01 (at most all updates), and its mean at the end."""
    T, updates = options.steps, options.updates or 2000

    def endless() -> Iterator[tuple[Any, Any]]:
        rng = np.random.default_rng(seed)
        while True:
            yield rows(rng, T, 50)

    gru = bptt.GRU(2, HIDDEN, init={"bias": bptt.init.chrono(T)}, seed=seed)
    history = bptt.fit(
        bptt.Sequential(gru, bptt.Last(), bptt.Linear(HIDDEN, 1, seed=seed + 1000)),
        endless(),
        loss=bptt.losses.mse,
        optimizer=bptt.optim.Adam(1e-3, clip_norm=1.0),
        max_steps=updates,
        validation=rows(np.random.default_rng(99), T, 1000),
        validate_every=EVERY,
    )
    errors = [each.loss for each in history.validation]
    solved = next((EVERY * (k + 1) for k, error in enumerate(errors) if error < SOLVED), updates)
    return {"updates until the error is below 0.01": solved, "mean squared error": float(np.mean(errors[-LAST:]))}


def read_vowels(folder: str, part: str) -> tuple[list[Any], Any]:
    """Sequences [T_n,12] and speakers [N] of "TRAIN" or "TEST"."""
    path = Path(folder)
    if not folder:
        package = find_spec("aeon")
        if package is None or package.origin is None:
            raise FileNotFoundError(
                "vowels: `pip install --no-deps aeon`, or --vowels FOLDER with JapaneseVowels_TRAIN.ts"
            )
        path = Path(package.origin).parent / "datasets/data/JapaneseVowels"
    lines = (path / f"JapaneseVowels_{part}.ts").read_text("utf-8").split("@data")[1].split()
    parts = [line.split(":") for line in lines]  # 12 features, then the class
    x = [np.array([feature.split(",") for feature in each[:-1]], np.float32).T for each in parts]
    return x, np.array([int(each[-1]) - 1 for each in parts])


def accuracy(y: Any, target: Any) -> float:
    return float((y.argmax(-1) == target).mean())


def vowels(seed: int, options: Options) -> dict[str, float]:
    """On the 370 test utterances."""
    epochs = options.updates or 100
    (x, speakers), (x_out, speakers_out) = (read_vowels(options.vowels, part) for part in ("TRAIN", "TEST"))
    scaler = Scaler().fit(np.concatenate(x))
    x, x_out = ([scaler.transform(each) for each in sequences] for sequences in (x, x_out))
    feed = batches(x, speakers, 27, shuffle=True, bucket_by_length=True, seed=seed)
    model = bptt.Sequential(
        bptt.LSTM(12, HIDDEN, bidirectional=True, recurrent_dropout=0.5, seed=seed),
        bptt.Last(bidirectional=True),
        bptt.Linear(2 * HIDDEN, SPEAKERS, seed=seed + 1),
    )
    history = bptt.fit(
        model,
        feed,
        loss=bptt.losses.cross_entropy,
        optimizer=bptt.optim.Adam(clip_norm=1.0),
        schedule=schedules.cosine(3e-3, epochs * len(feed)),
        epochs=epochs,
        validation=batches(x_out, speakers_out, len(x_out)),
        validate_every=epochs * len(feed),
        metric=accuracy,
    )
    end = history.validation[-1]
    return {"accuracy": end.metrics["metric"], "cross-entropy": end.loss}


def text(seed: int, options: Options) -> dict[str, float]:
    """Nats a character of 20,000 held-out ones."""
    whole = textdata.read_text(options.text) if options.text else textdata.default_text()
    vocabulary = textdata.Vocabulary.of(whole)
    ids, held_out = textdata.split_tail(vocabulary.encode(whole))
    lm = charlm.CharLM.create(charlm.Architecture(), vocabulary, seed=seed)
    settings = charlm.Settings(steps=options.updates) if options.updates else charlm.Settings()
    charlm.train(lm, textdata.Streams(ids, settings.batch_size, settings.seq_len), settings)
    return {"nats a character": charlm.evaluate(lm, held_out[:20_000])}


TASKS: dict[str, Callable[[int, Options], dict[str, float]]] = {"text": text, "adding": adding, "vowels": vowels}


def run(task: str, seed: int, precision: str, options: Options) -> dict[str, float]:
    """One run, in a process of the pool."""
    bptt.set_num_threads(1)
    with bptt.matmul_precision(precision):
        return TASKS[task](seed, options)


def table(task: str, figure: str, found: dict[tuple[int, str], float], seeds: list[int]) -> list[str]:
    """A row for each seed, the means, and what they say."""
    values = np.array([[found[seed, precision] for precision in PRECISIONS] for seed in seeds])
    lines = ["", f"| {task}, {figure}: seed | {' | '.join(PRECISIONS)} |", "|---|---|---|---|"]
    named = [(str(seed), row) for seed, row in zip(seeds, values, strict=True)]
    named.append(("mean", values.mean(0)))
    if len(seeds) > 1:
        named.append(("standard deviation", values.std(0, ddof=1)))
    lines += [f"| {name} | {' | '.join(f'{each:.5g}' for each in row)} |" for name, row in named]
    lines.append("")
    for k, precision in enumerate(PRECISIONS[1:] if len(seeds) > 1 else (), 1):
        difference = float(values[:, k].mean() - values[:, 0].mean())
        paired = float(np.abs(values[:, k] - values[:, 0]).max())
        spread = float(values[:, 0].std(ddof=1))
        place = "inside the seed spread" if abs(difference) <= spread else "outside the seed spread"
        lines.append(
            f"- {precision}: mean {difference:+.2g} from highest, whose standard deviation over the seeds is "
            f"{spread:.2g}: {place}; a seed differs by at most {paired:.2g}"
        )
    return lines


def seeds_of(value: str) -> list[int]:
    """`0-4` or `0,2`."""
    found: list[int] = []
    for part in value.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision_losses", description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0-4"), help="such as 0-4 or 0,2")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--updates", type=int, default=0, help="default 2000 (adding), 800 (text); 100 epochs (vowels)")
    parser.add_argument("--steps", type=int, default=150, help="T of the adding problem")
    parser.add_argument("--text", default="", metavar="FILE", help="UTF-8; default: the manual shipped with CPython")
    parser.add_argument("--vowels", default="", metavar="FOLDER", help="with JapaneseVowels_TRAIN.ts and _TEST.ts")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    options = Options(args.updates, args.steps, args.text, args.vowels)
    try:
        if "vowels" in args.task:
            read_vowels(args.vowels, "TEST")
        if "text" in args.task and args.text:
            textdata.read_text(args.text)
    except (OSError, ValueError) as error:
        sys.exit(f"precision_losses: {error}")
    config = bptt.config()
    kinds = {precision: config[f"{precision}_products"] for precision in PRECISIONS[1:]}
    print(f"{describe()['processor']}, level {config['level']}; {', '.join(f'{k}: {v}' for k, v in kinds.items())}")
    same = [precision for precision, kind in kinds.items() if kind == "fma"]
    if same:
        print(f"{' and '.join(same)} multiply as highest on this processor: their columns are the same")
    found: dict[tuple[str, str], dict[tuple[int, str], float]] = {}
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")  # so that bptt starts with one thread in each
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        runs = {
            pool.submit(run, task, seed, precision, options): (task, seed, precision)
            for task in TASKS
            if task in args.task  # those that take longest first
            for seed in args.seeds
            for precision in PRECISIONS
        }
        for done, future in enumerate(as_completed(runs), 1):
            task, seed, precision = runs[future]
            for figure, value in future.result().items():
                found.setdefault((task, figure), {})[seed, precision] = value
            spent = time.monotonic() - start
            print(
                f"{done} of {len(runs)}, {spent:.0f} s: {task}, seed {seed}, {precision}", file=sys.stderr, flush=True
            )
    for task, figure in sorted(found):
        print("\n".join(table(task, figure, found[task, figure], args.seeds)), flush=True)


if __name__ == "__main__":
    main()
