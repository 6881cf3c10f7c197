# SPDX-License-Identifier: Apache-2.0
"""The least time that a case can take on the measured machine, by the formula below and the figures of machine.py.

Per serial time step and core, with Hc the hidden units that this core owns and B_core its rows:

    t_fma = 2 B_core G Hc H / peak           t_w = item G Hc H / bandwidth(of the level that holds so many bytes)
    step  = max(LATENCY_S, t_fma, t_w) + barrier, where hidden units are split
    floor = serial T min over {one core, hidden split, batch split} step + other flops / (peak of all cores)

serial is 1 for inference, 2 for training: of its six products, only h Wh forward and dG Wh^T backward are serial.
Activations are assumed to overlap with the products. Traffic of x, y and the tape is not counted.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case

LATENCY_S = 50e-9  # the dependent chain h -> product -> sigmoid -> tanh -> h


@dataclass(frozen=True)
class Limits:
    """The limits for float32 at one number of threads. `read` is [(bytes, bytes/s of each core)], falling."""

    threads: int
    peak_one: float  # flop/s of one core
    peak_all: float  # of all cores together
    read_one: tuple[tuple[float, float], ...]
    read_each: tuple[tuple[float, float], ...]
    barrier_s: float

    def bandwidth(self, size_bytes: float, alone: bool) -> float:
        """Bytes per second for a set of that size, between the measured sizes on a logarithmic scale."""
        points = self.read_one if alone else self.read_each
        k = bisect_left([size for size, _ in points], size_bytes)
        if k == 0:
            return points[0][1]
        if k == len(points):
            return points[-1][1]
        (size0, rate0), (size1, rate1) = points[k - 1], points[k]
        share = math.log(size_bytes / size0) / math.log(size1 / size0)
        return float(rate0 ** (1 - share) * rate1**share)


def from_probe(probe: dict[str, Any], threads: int) -> Limits:
    """The limits at a number of threads, from the measurement of machine.py."""
    peaks = {int(n): rate * 1e9 for n, rate in probe["peak_gflops"].items()}
    one: list[tuple[float, float]] = []
    each: list[tuple[float, float]] = []
    best_one = best_each = 0.0
    for kib, gbs_one, gbs_each in reversed(probe["read_gbs"]):
        # A larger set that was read faster proves that this one can be.
        best_one, best_each = max(best_one, gbs_one * 1e9), max(best_each, gbs_each * 1e9)
        one.insert(0, (kib * 1024.0, best_one))
        each.insert(0, (kib * 1024.0, min(best_one, best_each)))
    peak_all = peaks[1] if threads == 1 else max(peaks.get(threads, threads * peaks[1]), peaks[1])
    barrier_s = probe["round_trip_us"] * 1e-6 / 2
    return Limits(threads, peaks[1], peak_all, tuple(one), tuple(each if threads > 1 else one), barrier_s)


def step_s(case: Case, limits: Limits, rows: int, units: int, alone: bool) -> float:
    """The serial part of one time step on one core."""
    G, H, item = case.gates, case.H, case.item_bytes
    lanes = 4 / item  # half as many float64 in a register
    peak = (limits.peak_one if alone else limits.peak_all / limits.threads) * lanes
    t_fma = 2 * rows * G * units * H / peak
    t_w = item * G * units * H / limits.bandwidth(item * G * units * H, alone)
    return max(LATENCY_S, t_fma, t_w)


def floor_s(case: Case, limits: Limits) -> float | None:
    """The least seconds of one call; None where the formula says nothing (a whole model's step)."""
    if case.mode == "step":
        return None
    n, B, H = limits.threads, case.B, case.H
    ways = [step_s(case, limits, B, H, alone=True)]
    if n > 1:
        ways.append(step_s(case, limits, B, math.ceil(H / n), alone=False) + limits.barrier_s)
        ways.append(step_s(case, limits, math.ceil(B / n), H, alone=False))
    serial = 2 if case.backward else 1
    serial_flops = serial * 2 * B * case.T * case.gates * H * H
    lanes = 4 / case.item_bytes
    return serial * case.T * min(ways) + (case.flops - serial_flops) / (limits.peak_all * lanes)


def intensity(case: Case) -> float:
    """Flop per byte of weights that a time step reads: the roofline's x axis."""
    return 2 * case.B / case.item_bytes
