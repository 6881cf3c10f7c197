# SPDX-License-Identifier: Apache-2.0
"""What several machines would bring to training: `python -m benchmarks.distributed`, two minutes.

It measures the update of one process on one thread, for whole batches and for shares of them, and adds the time of an
all-reduce by a model: n processes in a ring send 2 (n - 1) messages one after the other, and 2 (n - 1) / n of all
bytes. The result is a prediction: it leaves out that processes wait for the slowest, and that they may share memory.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import bptt
from bptt.train import Step


class Network(NamedTuple):
    """A message takes latency_s + bytes / bandwidth. bandwidth: bytes in a second, in each direction."""

    name: str
    latency_s: float
    bandwidth: float


class Case(NamedTuple):
    """An LSTM with I = H and a linear layer, on batches of B rows and T steps."""

    H: int
    B: int
    T: int

    def __str__(self) -> str:
        return f"H={self.H} B={self.B} T={self.T}"


# Assumed, of TCP and Gloo; 100 Gbit/s with RDMA.
NETWORKS = [
    Network("1 Gbit/s", 50e-6, 0.11e9),
    Network("10 Gbit/s", 30e-6, 1.1e9),
    Network("100 Gbit/s", 5e-6, 11e9),
]
CASES = [Case(128, 64, 50), Case(256, 64, 50), Case(512, 64, 20)]
ROUNDS = 4
PROCESSES = (1, 2, 4, 8, 16, 32, 64)


def all_reduce_s(n: int, size_bytes: int, network: Network) -> float:
    """Seconds of a ring of n processes."""
    return 2 * (n - 1) * (network.latency_s + size_bytes / n / network.bandwidth)


def update_s(case: Case, B: int, budget_s: float) -> tuple[float, int]:
    """The least processor time of an update with B rows on one thread, and the bytes of the gradients."""
    model = bptt.Sequential(bptt.LSTM(case.H, case.H, seed=0), bptt.Linear(case.H, 1, seed=1))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.T, B, case.H), np.float32)
    target = rng.standard_normal((case.T, B, 1), np.float32)
    times: list[float] = []

    end_s = time.monotonic() + budget_s

    def on_step(step: Step) -> None:
        times.append(time.thread_time())
        if len(times) > 4 and time.monotonic() > end_s:
            raise bptt.StopTraining("enough")

    bptt.fit(
        model,
        [(x, target)],
        loss=bptt.losses.mse,
        optimizer=bptt.optim.Adam(1e-4),
        epochs=1_000_000,
        on_step=on_step,
        all_reduce=lambda values: None,  # one process: all its work but the messages
    )
    return float(np.diff(times).min()), model.params.flat.nbytes


def predictions(case: Case, budget_s: float) -> tuple[list[str], dict[str, list[float]]]:
    """Rows of the table for one case, and the speed-ups by name."""
    least: dict[int, float] = {}
    size = 0
    for _ in range(ROUNDS):  # in turn, since a machine is not equally busy all the time
        for n in PROCESSES:
            each_s, size = update_s(case, case.B // n, budget_s)
            least[n] = min(each_s, least.get(n, each_s))
    whole_s = least[1]
    rows, found = [], {}
    for kind in ("rows divided", "rows added"):
        for network in NETWORKS:
            ups = [1.0]
            for n in PROCESSES[1:]:
                one_s = least[n] if kind == "rows divided" else whole_s
                each_s = one_s + all_reduce_s(n, size, network)
                ups.append(whole_s / each_s * (1 if kind == "rows divided" else n))
            found[f"{kind}, {network.name}"] = ups
            cells = " | ".join(f"{up:.1f}" for up in ups)
            rows.append(f"| {case}, {whole_s * 1e3:.1f} ms, {size / 1e6:.1f} MB | {kind} | {network.name} | {cells} |")
    return rows, found


def draw(all_found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Speed-ups over processes, a panel for each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(all_found), 3.6), layout="constrained")
    axes = figure.subplots(1, len(all_found), sharey=True, squeeze=False)[0]
    for ax, (title, found) in zip(axes, all_found.items(), strict=True):
        for k, (name, ups) in enumerate(found.items()):
            ax.plot(PROCESSES, ups, "o-" if "added" in name else "s--", color=f"C{k % len(NETWORKS)}", label=name, ms=4)
        ax.plot(PROCESSES, PROCESSES, color="0.7", lw=1, label="ideal")
        ax.set(title=f"LSTM {title}", xscale="log", yscale="log", xlabel="processes", xticks=PROCESSES)
        ax.set_xticklabels([str(n) for n in PROCESSES])
        ax.minorticks_off()
    axes[0].set(ylabel="times as fast as one process", yticks=PROCESSES)
    axes[0].set_yticklabels([str(n) for n in PROCESSES])
    axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle("Predicted: measured updates and a model of the all-reduce", fontsize=10)
    figure.savefig(path, dpi=80)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.7, help="for each of 84 measurements")
    parser.add_argument("--picture", type=Path, help="a file for a picture")
    options = parser.parse_args(arguments)
    bptt.set_num_threads(1)
    print("| training, one process | batch | network | " + " | ".join(map(str, PROCESSES)) + " |")
    print("|---" * (3 + len(PROCESSES)) + "|")
    all_found = {}
    for case in CASES:
        rows, all_found[str(case)] = predictions(case, options.seconds)
        print("\n".join(rows), flush=True)
    if options.picture:
        draw(all_found, options.picture)


if __name__ == "__main__":
    main()
