# SPDX-License-Identifier: Apache-2.0
"""What precision of products does to training: `python -m benchmarks.precision_losses [TEXT]`, a few minutes.

Each seed trains with each precision, on the same data and from the same weights: the adding problem at T = 20 (mean
squared error on 1,000 held-out rows, LSTM of 64 units) and, where a file is named, the characters of a text (nats for
each character of its held-out end, `bptt.charlm` as it is). Printed are the final losses as a Markdown table, and the
means.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import bptt
from bptt import charlm, textdata

PRECISIONS = ("highest", "high", "medium")
STEPS, BATCH = 20, 50


def rows(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
    """x [T,count,2]: a number and a mark; target [count,1]: the sum of the two marked numbers."""
    x = np.zeros((STEPS, count, 2), np.float32)
    x[:, :, 0] = rng.random((STEPS, count))
    every = np.arange(count)
    marked = rng.integers(0, STEPS // 2, count), rng.integers(STEPS // 2, STEPS, count)
    for steps in marked:
        x[steps, every, 1] = 1
    return x, sum(x[steps, every, 0] for steps in marked)[:, np.newaxis]


def adding(seed: int, updates: int) -> float:
    def batches() -> Iterator[tuple[Any, Any]]:
        rng = np.random.default_rng(seed)
        for _ in range(updates):
            yield rows(rng, BATCH)

    model = bptt.Sequential(bptt.LSTM(2, 64, seed=seed), bptt.Last(), bptt.Linear(64, 1, seed=seed + 1000))
    bptt.fit(model, batches(), loss=bptt.losses.mse, optimizer=bptt.optim.Adam(2e-3, clip_norm=1.0))
    x, target = rows(np.random.default_rng(99), 1000)
    return float(bptt.losses.mse(model(x)[0], target)[0])


def characters(seed: int, updates: int, text: str) -> float:
    vocabulary = textdata.Vocabulary.of(text)
    ids, held_out = textdata.split_tail(vocabulary.encode(text))
    lm = charlm.CharLM.create(charlm.Architecture(), vocabulary, seed=seed)
    settings = charlm.Settings(steps=updates)
    charlm.train(lm, textdata.Streams(ids, settings.batch_size, settings.seq_len), settings)
    return charlm.evaluate(lm, held_out[:20_000])


def table(name: str, run: Any, seeds: int) -> None:
    print(f"\n| {name}, seed | {' | '.join(PRECISIONS)} |\n|---|---|---|---|")
    found = []
    for seed in range(seeds):
        losses = []
        for precision in PRECISIONS:
            with bptt.matmul_precision(precision):
                losses.append(run(seed))
        found.append(losses)
        print(f"| {seed} | {' | '.join(f'{loss:.5f}' for loss in losses)} |", flush=True)
    mean, spread = np.mean(found, 0), np.std(found, 0, ddof=1)
    print(f"| mean | {' | '.join(f'{each:.5f}' for each in mean)} |")
    print(f"| standard deviation | {' | '.join(f'{each:.5f}' for each in spread)} |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", help="a file of UTF-8 text")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, nargs=2, default=[800, 300], help="of the adding problem, of the text")
    args = parser.parse_args(arguments)
    print(", ".join(f"{each}: {bptt.config()[f'{each}_products']}" for each in PRECISIONS[1:]))
    table("adding problem", lambda seed: adding(seed, args.updates[0]), args.seeds)
    if args.text:
        text = textdata.read_text(args.text)
        table("characters", lambda seed: characters(seed, args.updates[1], text), args.seeds)


if __name__ == "__main__":
    main()
