# SPDX-License-Identifier: Apache-2.0
"""The report's pictures: ratios as a heat map, the roofline, scaling in H and T, the sweep. By matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.cases import CELLS, Case, by_name
from benchmarks.limits import from_probe, intensity
from benchmarks.results import Results
from benchmarks.summary import MODES, RIVALS, sizes, times
from benchmarks.summary import ratios as best_ratios

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

COLOURS = {
    "ours": "#c1121f", "torch": "#ee964b", "torch-compiled": "#b08968", "jax": "#6a4c93", "onnxruntime": "#1982c4",
    "openvino": "#2a9d8f", "numpy": "#8d99ae", "keras": "#adb5bd",
}  # fmt: skip
MARKS = {"lstm": "o", "gru": "^", "rnn": "s"}
LEVELS_KIB = (32, 512, 8192, 65536)  # sets whose read rate is drawn into the roofline
RATIO_RANGE = 16.0  # colours end at 1/16 and 16
DPI = 110


def draw(results: Results, folder: Path) -> list[str]:
    """Write every picture that the results have data for; their names."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    made = []
    for name, make in PICTURES.items():
        figure = make(results)
        if figure is None:
            continue
        figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")
        plt.close(figure)
        made.append(f"{name}.png")
    return made


def _shape_cases(results: Results) -> list[Case]:
    table = by_name()
    measured = {p.case for p in results.pairs}
    return [c for name, c in table.items() if name in measured and c.mode in MODES and c.group in ("table", "grid")]


def summary(results: Results) -> Any:
    """A dot for each size and number of threads: the time of the fastest other library over ours."""
    rows = [(cell, mode) for mode in MODES for cell in CELLS]
    found = {row: [r.value for r in best_ratios(results, sizes(row[1])) if r.case.cell == row[0]] for row in rows}
    if not all(found.values()):
        return None
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    most = max(max(values) for values in found.values()) * 1.3
    least = min(0.7, *(min(values) / 1.2 for values in found.values()))
    axis.axvspan(least, 1, color="#f4d6d2", lw=0)
    axis.axvline(1, color="0.3", lw=1)
    rng = np.random.default_rng(0)
    for k, row in enumerate(rows):
        values = np.array(found[row])
        axis.scatter(values, k + rng.uniform(-0.25, 0.25, len(values)), s=14, lw=0, alpha=0.55, color="#1982c4")
        mean = float(np.exp(np.log(values).mean()))
        axis.plot([mean, mean], [k - 0.38, k + 0.38], color=COLOURS["ours"], lw=2)
        axis.annotate(times(mean), (most, k), size=10, color=COLOURS["ours"], va="center", ha="right", weight="bold")
    axis.set_xscale("log")
    axis.set(xlim=(least, most), ylim=(len(rows) - 0.5, -0.9))
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if least <= tick <= most / 1.3]
    axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.set_yticks(range(len(rows)), [f"{cell.upper()} {MODES[mode]}" for cell, mode in rows], size=10)
    axis.tick_params(axis="y", length=0)
    axis.text(1.03, -0.62, "bptt is faster", size=9, color="0.3", va="center")
    axis.text(0.97, -0.62, "slower", size=9, color="#a33", va="center", ha="right")
    axis.set_xlabel("time of the fastest other library / time of bptt; a dot is one size, a bar is the geometric mean")
    return figure


def ratios(results: Results) -> Any:
    """Peer's time over ours, against the best peer: a row for each shape, a column for cell and threads."""
    cases = _shape_cases(results)
    if not cases:
        return None
    shapes = sorted({(c.H, c.B, c.T, c.I) for c in cases})
    columns = [(cell, n) for n in results.about["threads"] for cell in CELLS]
    figure, axes = plt.subplots(
        1, 2, figsize=(2.6 + 0.75 * 2 * len(columns), 1.2 + 0.27 * len(shapes)), sharey=True, layout="constrained"
    )
    for axis, (mode, title) in zip(axes, MODES.items(), strict=True):
        values = np.full((len(shapes), len(columns)), np.nan)
        for case in cases:
            for k, (cell, threads) in enumerate(columns):
                best = results.best(case.name, threads, RIVALS)
                if case.mode == mode and case.cell == cell and best:
                    values[shapes.index((case.H, case.B, case.T, case.I)), k] = best.ratio
        _heat(axis, values, columns)
        axis.set_title(f"{title}: best peer's time / ours")
    axes[0].set_yticks(range(len(shapes)), ["H={} B={} T={} I={}".format(*shape) for shape in shapes])
    return figure


def _heat(axis: Any, values: Any, columns: list[tuple[str, int]]) -> None:
    norm = matplotlib.colors.LogNorm(1 / RATIO_RANGE, RATIO_RANGE)
    axis.imshow(np.clip(values, 1 / RATIO_RANGE, RATIO_RANGE), cmap="RdBu", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(np.log(value)) > np.log(RATIO_RANGE) * 0.6
            text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", size=8, color="white" if dark else "black")
    axis.set_xticks(range(len(columns)), [f"{cell.upper()}\n{n} thr" for cell, n in columns])
    axis.tick_params(length=0)


def roofline(results: Results) -> Any:
    """GF/s over flop per byte of weights, below the measured peak and read rates."""
    table = by_name()
    points = [(table[o.case], o) for o in results.ours if table[o.case].mode in MODES]
    points = [(case, o) for case, o in points if case.group in ("table", "grid") and case.T > 1]
    if not points:
        return None
    threads = results.about["threads"]
    figure, axes = plt.subplots(1, len(threads), figsize=(5.6 * len(threads), 4.2), squeeze=False, layout="constrained")
    x = np.geomspace(0.15, 100, 100)
    for axis, n in zip(axes[0], threads, strict=True):
        limits = from_probe(results.about["probe"], n)
        for kib in LEVELS_KIB:
            rate = n * limits.bandwidth(kib * 1024, alone=n == 1)
            axis.loglog(x, np.minimum(x * rate, limits.peak_all) / 1e9, color="0.6", lw=0.8)
            axis.annotate(f"{kib} KiB", (x[0], x[0] * rate / 1e9), size=7, color="0.4", va="bottom")
        axis.axhline(limits.peak_all / 1e9, color="0.3", lw=1)
        for case, ours in points:
            if ours.threads == n:
                face = COLOURS["ours"] if case.mode == "train" else "white"
                axis.plot(intensity(case), ours.rate, MARKS[case.cell], ms=5, mfc=face, mec=COLOURS["ours"], alpha=0.8)
        axis.set(xlabel="flop per byte of weights (B / 2)", ylabel="GF/s", title=f"{n} thread{'s' if n > 1 else ''}")
    for cell, mark in MARKS.items():
        axes[0][0].plot([], [], mark, mfc="white", mec=COLOURS["ours"], label=cell.upper())
    axes[0][0].plot([], [], "o", color=COLOURS["ours"], label="filled: training")
    axes[0][0].legend(loc="lower right", frameon=False)
    return figure


def scaling(results: Results) -> Any:
    """Training time over H (B=20 T=30 I=10) and over T (B=1 I=4 H=32), ours and every peer, one row for each cell."""
    n = results.about["threads"][0]
    lines: dict[str, Callable[[Case], bool]] = {
        "H": lambda c: (c.B, c.T, c.I) == (20, 30, 10),
        "T": lambda c: (c.B, c.I, c.H) == (1, 4, 32),
    }
    cases = [c for c in _shape_cases(results) if c.mode == "train"]
    if any(len({getattr(c, size) for c in cases if fits(c)}) < 2 for size, fits in lines.items()):
        return None
    figure, axes = plt.subplots(len(CELLS), 2, figsize=(9, 2.7 * len(CELLS)), layout="constrained")
    for row, cell in zip(axes, CELLS, strict=True):
        for axis, (size, fits) in zip(row, lines.items(), strict=True):
            chosen = sorted((c for c in cases if c.cell == cell and fits(c)), key=lambda c: getattr(c, size))
            _times(axis, results, chosen, size, n)
            axis.set(xlabel=size, ylabel="ms", title=f"{cell.upper()} training, {n} thread{'s' if n > 1 else ''}")
            sizes = sorted({getattr(c, size) for c in chosen})
            axis.set_xticks(sizes, [str(each) for each in sizes])
            axis.xaxis.set_minor_locator(ticker.NullLocator())
    axes[0][0].legend(frameon=False, fontsize=8)
    return figure


def _times(axis: Any, results: Results, chosen: list[Case], size: str, threads: int) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    times = {(o.case, o.threads): o.time_s[1] for o in results.ours}
    for case in chosen:
        if (case.name, threads) in times:
            curves.setdefault("ours", []).append((getattr(case, size), times[case.name, threads]))
        for pair in results.pairs:
            if (pair.case, pair.threads) == (case.name, threads) and pair.peer in COLOURS:
                curves.setdefault(pair.peer, []).append((getattr(case, size), pair.peer_s[1]))
    for name, points in curves.items():
        xs, ys = zip(*points, strict=True)
        width = 2 if name == "ours" else 1
        axis.loglog(xs, np.array(ys) * 1e3, "o-", ms=3, lw=width, color=COLOURS[name], label=name)


def sweep(results: Results) -> Any:
    """Time per flop, H rounded up to the vector, over H and B."""
    found = results.sweep
    if not found:
        return None
    tables = found["tables"]
    figure, axes = plt.subplots(3, 2, figsize=(10, 8), sharex=True, sharey=True, layout="constrained")
    lanes, H, B = found["lanes"], np.array(found["H"]), np.array(found["B"])
    rounded = -(-H // lanes) * lanes
    gates = {"lstm": 4, "gru": 3, "rnn": 1}
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=True):
        cell, mode = name.split("-")
        flops = 2.0 * found["T"] * gates[cell] * rounded * (rounded + found["I"]) * (3 if mode == "train" else 1)
        rate = flops[None, :] * B[:, None] / np.array(table["seconds"]) / 1e9
        image = axis.pcolormesh(H, B, rate, cmap="viridis", shading="nearest")
        figure.colorbar(image, ax=axis, label="GF/s")
        axis.set_title(f"{cell.upper()} {MODES[mode]}: step at most {table['worst']:.2f}x ({table['where']})", size=9)
    for axis in axes[-1]:
        axis.set_xlabel("H")
    for axis in axes[:, 0]:
        axis.set_ylabel("B")
    return figure


PICTURES = {"summary": summary, "ratios": ratios, "roofline": roofline, "scaling": scaling, "sweep": sweep}
