# SPDX-License-Identifier: Apache-2.0
"""Who speaks? Nine men say the same two vowels: sequences of 7 to 29 steps with 12 features (Kudo et al. 1999).

A bidirectional LSTM of 100 units learns from 270 utterances. Of 370 others, recorded on other occasions, it names the
speaker of 98.3 % (mean of five seeds, 97.6 to 98.9 %), in a quarter of a minute each. Kudo et al. report 94.1 % for
their classifier and 96.2 % for a hidden Markov model. MathWorks' example of sequence classification, with the same
layer, gives 95.4 % in the run of one of its readers (HelloWorld-1017.github.io). Dropout and learning rate were chosen
with --validate, not on the test utterances.

    pip install --no-deps aeon && python examples/japanese_vowels.py
    python examples/japanese_vowels.py --validate     # learns from 180 of the 270, measures on the other 90
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import bptt
from bptt.data import Scaler, batches
from bptt.optim import schedules

HIDDEN, SPEAKERS, LR = 100, 9, 3e-3


def read(part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences [T_n,12] and speakers [N], 0 to 8, of "TRAIN" or "TEST", from the file in the package aeon.

    The package is not imported, which would need all that it depends on.
    """
    package = find_spec("aeon")
    if package is None or package.origin is None:
        raise SystemExit("japanese_vowels.py: the data come with the package aeon: pip install --no-deps aeon")
    path = Path(package.origin).parent / f"datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"
    rows = [row.split(":") for row in path.read_text("utf-8").split("@data")[1].split()]  # 12 features, then the class
    sequences = [np.array([feature.split(",") for feature in row[:-1]], np.float32).T for row in rows]
    return sequences, np.array([int(row[-1]) - 1 for row in rows])


def parts(validate: bool, seed: int) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Sequences and speakers to learn from, and those to measure with."""
    x, speakers = read("TRAIN")
    if not validate:
        return [(x, speakers), read("TEST")]
    order = np.argsort(speakers + np.random.default_rng(seed).random(len(x))).reshape(SPEAKERS, 30)
    return [([x[n] for n in rows.flat], speakers[rows.ravel()]) for rows in (order[:, 10:], order[:, :10])]


def accuracy(y: np.ndarray, target: np.ndarray) -> float:
    return float((y.argmax(-1) == target).mean())


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--validate", action="store_true")
    args = parser.parse_args(arguments)
    reached = []
    for seed in range(args.seeds):
        (x, speakers), (x_out, speakers_out) = parts(args.validate, seed)
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
            schedule=schedules.cosine(LR, args.epochs * len(feed)),
            epochs=args.epochs,
            validation=batches(x_out, speakers_out, len(x_out)),
            validate_every=args.epochs * len(feed),  # at the end
            metric=accuracy,
        )
        end = history.validation[-1]
        reached.append(end.metrics["metric"])
        print(f"seed {seed}: accuracy {reached[-1]:.4f}, cross-entropy {end.loss:.4f}")
    print(f"accuracy on {len(x_out)} utterances: mean {np.mean(reached):.4f}, {min(reached):.4f} to {max(reached):.4f}")
    return reached


if __name__ == "__main__":
    main()
