# SPDX-License-Identifier: Apache-2.0
"""Carbon dioxide at Mauna Loa (Keeling & Whorf 2004), weekly, with gaps: 104 weeks are read, the next 52 predicted.

The last 7 years, 1995 to 2001, are the test; the 7 years before them lower the learning rate and stop the training.
The model reads and predicts differences to the last value that it knows, since the trend leads out of the range of the
training data. Mean absolute error on the test in ppm, 1 week ahead and over all 52 weeks (there is no published figure
for this split):

    the last value                             0.402  2.632
    a year ago                                 1.694  1.758
    a year ago and the last year's growth      0.468  0.903
    a GRU of 32 units, mean of three seeds     0.302  0.655      (0.287 to 0.319, 0.633 to 0.683; 3 seconds each)

    pip install --no-deps statsmodels && python examples/co2.py
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import bptt
from bptt.callbacks import EarlyStopping, ReduceLROnPlateau
from bptt.data import batches, split, windows

YEAR, LENGTH, HORIZON, HIDDEN = 52, 104, 52, 32


def read() -> np.ndarray:
    """Weekly means in ppm [2284], NaN where there is none, from the file in the package, which is not imported."""
    package = find_spec("statsmodels")
    if package is None or package.origin is None:
        raise SystemExit("co2.py: the data come with the package statsmodels: pip install --no-deps statsmodels")
    path = Path(package.origin).parent / "datasets/co2/co2.csv"
    return np.genfromtxt(path, delimiter=",", skip_header=1, usecols=1)


def differences(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [104,N,1] and target [N,52], both less the last value of x; the test part has no gaps."""
    x, target = windows(part, LENGTH, HORIZON, missing="previous")
    return (x - x[-1]).astype(np.float32), (target - x[-1]).astype(np.float32)


def train(
    seed: int, epochs: int, data: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray]
) -> bptt.Sequential:
    model = bptt.Sequential(bptt.GRU(1, HIDDEN, seed=seed), bptt.Last(), bptt.Linear(HIDDEN, HORIZON, seed=seed + 1))
    bptt.fit(
        model,
        batches(*data, 32, shuffle=True, seed=seed),
        loss=bptt.losses.mae,
        optimizer=bptt.optim.Adam(5e-3, clip_norm=1.0),
        epochs=epochs,
        validation=held_out,
        callbacks=[ReduceLROnPlateau(factor=0.3, patience=4), EarlyStopping(patience=10)],
    )
    return model


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60, help="at most")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(arguments)
    rest, test = split(read(), 7 * YEAR)
    earlier, validation = split(rest, 7 * YEAR)
    (x, target), held_out, (x_test, target_test) = map(differences, (earlier, validation, test))
    scale = x.std()
    scaled = [(each[0] / scale, each[1] / scale) for each in ((x, target), held_out)]
    models = [train(seed, args.epochs, *scaled) for seed in range(args.seeds)]
    last_year = x_test[-YEAR:, :, 0].T  # [N,52]: the same weeks a year ago
    growth = -x_test[-YEAR - 1]  # [N,1]: over the last year
    forecasts = {
        "the last value": np.zeros_like(target_test),
        "a year ago": last_year,
        "a year ago and the last year's growth": last_year + growth,
        **{f"GRU, seed {seed}": model(x_test / scale)[0] * scale for seed, model in enumerate(models)},
    }
    errors = {}
    print(f"mean absolute error in ppm over {len(target_test)} windows of the test: 1 week ahead, all {HORIZON} weeks")
    for name, forecast in forecasts.items():
        off = np.abs(forecast - target_test)
        errors[name] = float(off[:, 0].mean()), float(off.mean())
        print(f"  {name:40s}{errors[name][0]:.3f}  {errors[name][1]:.3f}")
    return errors


if __name__ == "__main__":
    main()
